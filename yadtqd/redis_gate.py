"""Whether Redis may be used by the worker's consumer and processor: closed while it is away or may have forgotten.

Any thread that meets an error closes the gate; only the bookkeeper opens it, once Redis answers and, if it was
restarted, everything that it may have lost is written again. Nothing is claimed while the gate is closed.
"""
from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from yadtq.errors import YADTQError

log = logging.getLogger(__name__)


class RedisGate:
    """Starts open; `on_close` is called (in the thread that closes it) so that the bookkeeper looks at once."""

    def __init__(self, on_close: Callable[[], object]) -> None:
        self._open = threading.Event()
        self._open.set()
        self._on_close = on_close

    @property
    def is_open(self) -> bool:
        """May Redis be used?"""
        return self._open.is_set()

    def close(self, error: YADTQError) -> None:
        """Redis did not answer."""
        if self._open.is_set():
            log.warning("%s; results are kept in memory and nothing new is begun until it answers", error)
        self._open.clear()
        self._on_close()

    def open(self) -> None:
        """Redis answers, and knows what it should."""
        if not self._open.is_set():
            log.info("Redis answers again")
        self._open.set()

    def wait(self, timeout_s: float) -> bool:
        """Until it is open, at most so long; returns whether it is."""
        return self._open.wait(timeout_s)
