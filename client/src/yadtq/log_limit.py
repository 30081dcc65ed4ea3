"""Keeps an outage from filling the log: one line when it begins, one now and then, one when it is over, with a count.

Used by whoever talks to Kafka or Redis, in any thread; both classes take the clock, so that tests need not wait. Never
logs from a lock and keeps a bounded number of things in mind.
"""
from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable

_KEYS = 256                     # different lines that a RepeatFilter remembers; the oldest is forgotten
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")


class Outage:
    """Something that others need is away: says so once, reminds, and says when it is back.

    Example:
        >>> kafka = Outage(logging.getLogger("yadtqd.consumer"), "Kafka")
        >>> kafka.failed(ConnectionError("refused"))      # logs "Kafka can't be reached: refused"
        >>> kafka.failed(ConnectionError("refused"))      # counts
        >>> kafka.ended()                                 # logs "Kafka answers again after 0.0 s (2 failures)"
    """

    def __init__(self, logger: logging.Logger, what: str, *, level: int = logging.WARNING, remind_s: float = 60.0,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._logger, self._what, self._level, self._remind_s, self._clock = logger, what, level, remind_s, clock
        self._lock = threading.Lock()
        self._since = self._said = 0.0
        self._count = 0

    @property
    def lasts(self) -> bool:
        """Whether it is away, as far as is known."""
        return self._count > 0

    def failed(self, error: object) -> None:
        """One more attempt failed."""
        now = self._clock()
        with self._lock:
            self._count += 1
            first = self._count == 1
            if first:
                self._since = self._said = now
            elif now - self._said < self._remind_s:
                return
            self._said = now
            count, age_s = self._count, now - self._since
        if first:
            self._logger.log(self._level, "%s can't be reached: %s", self._what, error)
        else:
            self._logger.log(self._level, "%s still can't be reached after %.0f s (%d failures): %s", self._what, age_s,
                             count, error)

    def ended(self) -> None:
        """An attempt went well. Costs next to nothing while all is well."""
        if not self._count:
            return
        with self._lock:
            count, self._count = self._count, 0
            age_s = self._clock() - self._since
        if count:
            self._logger.info("%s answers again after %.1f s (%d failures)", self._what, age_s, count)


class RepeatFilter(logging.Filter):
    """Lets a line of the given loggers through once in `window_s`; the next one that passes says how many were not.

    Lines count as the same when they differ in numbers only. Others' lines pass untouched.
    """

    def __init__(self, loggers: Iterable[str], window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._roots = frozenset(loggers)
        self._window_s, self._clock = window_s, clock
        self._seen: dict[tuple[str, int, str], list[float]] = {}        # -> [when it passed last, suppressed since]
        self._lock_ = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line passes; adds the count of those that did not."""
        if record.name.partition(".")[0] not in self._roots:
            return True
        message = record.getMessage()
        key = (record.name, record.levelno, _NUMBERS.sub("#", message[:200]))
        now = self._clock()
        with self._lock_:
            entry = self._seen.get(key)
            if entry is not None and now - entry[0] < self._window_s:
                entry[1] += 1
                return False
            self._seen.pop(key, None)
            self._seen[key] = [now, 0]
            if len(self._seen) > _KEYS:
                del self._seen[next(iter(self._seen))]
        if entry is not None and entry[1]:
            record.msg = f"{message} (and {entry[1]:.0f} like it in the last {now - entry[0]:.0f} s)"
            record.args = None
        return True
