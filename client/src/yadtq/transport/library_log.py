"""Keeps the libraries' own logging at a bearable rate: during an outage they log up to twenty lines a second.

Owns the loggers `yadtq.kafka` (what the libraries say) and the rate limit in front of it. Lines come from the
libraries' threads. Never drops silently: what was left out is counted in the next line that passes.
"""
from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

LINES = 5
PERIOD_S = 10.0


class RateLimit(logging.Filter):
    """Lets `lines` records pass in every `period_s` and counts the rest; errors and warnings alike."""

    def __init__(self, lines: int = LINES, period_s: float = PERIOD_S,
                 clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._lines, self._period_s, self._clock = lines, period_s, clock
        self._lock = threading.Lock()
        self._since_s, self._passed, self._dropped = clock(), 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """False for a line too many; the first of a new period tells how many those were."""
        with self._lock:
            now_s = self._clock()
            if now_s - self._since_s >= self._period_s:
                self._since_s, self._passed = now_s, 0
            if self._passed >= self._lines:
                self._dropped += 1
                return False
            self._passed += 1
            dropped, self._dropped = self._dropped, 0
        if dropped:
            record.msg = f"{record.getMessage()} ({dropped} lines like this were left out)"
            record.args = None
        return True


class _Forward(logging.Handler):
    """Hands records of kafka-python's many loggers to one of ours, where the rate limit applies."""

    def __init__(self, target: logging.Logger) -> None:
        super().__init__(logging.WARNING)
        self._target = target

    def emit(self, record: logging.LogRecord) -> None:
        # Warnings at most: what is an error to the library (a broker that went away) it mends by itself.
        self._target.log(logging.WARNING, "%s: %s", record.name, record.getMessage())


_lock = threading.Lock()


def limited_logger() -> logging.Logger:
    """The logger for what the libraries say; librdkafka logs straight into it."""
    logger = logging.getLogger("yadtq.kafka")
    with _lock:
        if not any(isinstance(known, RateLimit) for known in logger.filters):
            logger.addFilter(RateLimit())
    return logger


def quieten_kafka_python() -> None:
    """Route kafka-python's warnings through the rate limit, unless the application has set up that logger itself."""
    theirs = logging.getLogger("kafka")
    target = limited_logger()
    with _lock:
        ours = [handler for handler in theirs.handlers if not isinstance(handler, logging.NullHandler)]
        if ours or theirs.level != logging.NOTSET:
            return
        theirs.addHandler(_Forward(target))
        theirs.propagate = False
        theirs.setLevel(logging.WARNING)  # its debug lines cost more than its work, whatever the root logger's level
