"""Submissions that never pause, in a thread of their own: quick tasks and now and then a slow one, of every kind.

What is submitted and answered can be checked at the end: `finish` stops submitting, waits for every result and gives
the history that the handlers wrote.
"""
from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

from tests.support.recorded import History, broken_promises
from yadtq import YADTQClient

BATCH = 15
EVERY_S = 0.1
SLOW_EVERY_S = 0.7
KINDS = ("recorded", "recorded_async", "recorded_alone")


class SteadyLoad(threading.Thread):
    """Submits until `finish`; `slow_s` bounds how long the slow ones take. The seed of its choices is printed."""

    def __init__(self, client: YADTQClient, path: Path, slow_s: tuple[float, float] = (0.3, 1.5)) -> None:
        super().__init__(name="steady-load", daemon=True)
        self.client, self.path, self.slow_s = client, path, slow_s
        self.ids: list[str] = []                    # of token n, in order
        self.error: BaseException | None = None
        self._over = threading.Event()
        seed = random.randrange(10**6)
        print(f"steady load: seed {seed}")
        self._random = random.Random(seed)

    def run(self) -> None:
        """Submit, and submit, and submit."""
        slow_at = time.monotonic()
        try:
            while not self._over.wait(EVERY_S):
                entries = [self._entry("recorded") for _ in range(BATCH)]
                if time.monotonic() >= slow_at:
                    slow_at = time.monotonic() + SLOW_EVERY_S
                    entries.append(self._entry(self._random.choice(KINDS), self._random.uniform(*self.slow_s)))
                for number, entry in enumerate(entries):
                    entry["args"][1] = len(self.ids) + number
                self.ids += self.client.submit_tasks(entries)
        except BaseException as error:              # told by `finish`
            self.error = error

    def _entry(self, task: str, seconds: float = 0.0) -> dict[str, Any]:
        return {"task": task, "args": [str(self.path), 0, seconds]}

    def ended(self) -> int:
        """How many attempts have ended: cheap, it is asked all the time."""
        return self.path.read_bytes().count(b'"what": "end"') if self.path.exists() else 0

    def history(self) -> History:
        """As far as it is written."""
        return History.read(self.path)

    def finish(self, timeout_s: float = 60, *, faults: int = 0) -> History:
        """Stop, wait for all results, and check the promises; AssertionError where one is broken."""
        self._over.set()
        self.join(60)
        assert self.error is None, f"a submission failed: {self.error!r}"
        tokens = range(len(self.ids))
        first = dict(zip(tokens, self.client.get_results(self.ids, timeout=timeout_s), strict=True))
        later = dict(zip(tokens, self.client.get_results(self.ids, timeout=timeout_s), strict=True))
        history = self.history()
        assert broken_promises(history, first, later, tokens, faults=faults) == []
        return history
