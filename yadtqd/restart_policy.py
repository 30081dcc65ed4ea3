"""When a child that ended starts again: at once, after a back-off, or after a cool-down.

Pure: takes the clock and a random number, keeps nothing. Used by the supervisor.

- A *recycled* child (stale epoch, soft or hard time-out of a task, lease lost) did nothing wrong: it starts at once and
  is not counted. Many of them in ten seconds are spread out, so that no loop can eat the machine.
- A *poisoned* one died over a task that was not suspected before. It is treated alike: the task won't run in a worker
  again, so that each costs one restart, and the worker must not be given up for its tasks.
- A *failed* one (killed, crashed, hung, could not start) is counted. The first in the window is replaced at once, the
  next ones after an exponential back-off with jitter; more than `max_retries` in the window is FATAL until the
  cool-down is over. If the window has not passed by then, one more failure is FATAL again.
- A *hopeless* one (the configuration can't work) is FATAL at once.

What ended on all hosts at once does not come back at once everywhere: every wait has its jitter, the cool-down too.
"""
from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from yadtqd.exits import Exit

BACKOFF_BASE_S = 0.5        # the second failure: long enough for a port or a lock to become free again
BACKOFF_CAP_S = 30.0        # a broken import should not be tried less often than somebody mends it
COOL_DOWN_JITTER = 0.25     # of the cool-down, added: a bad release ends the workers of all hosts together
RECYCLE_WINDOW_S = 10.0
RECYCLES_AT_ONCE = 5        # in the window; beyond it they are spread out
RECYCLE_BASE_S = 0.1
RECYCLE_CAP_S = 1.0         # tasks that time out one after the other still get a fresh worker each second

_RECYCLING = frozenset({Exit.OK, Exit.STALE, Exit.SOFT_RECYCLE, Exit.LOST_LEASE})
_HOPELESS = frozenset({Exit.STOP_FATAL_CONFIG, Exit.KAFKA_REPLACED})


class Fate(Enum):
    """What the end of a child means for its next start."""

    RECYCLED = "recycled"
    POISONED = "poisoned"
    RETIRED = "retired"         # replaced as configured; else as RECYCLED
    FAILED = "failed"
    HOPELESS = "hopeless"


class History(NamedTuple):
    """Ends of one child that still matter: CLOCK_MONOTONIC seconds, ascending."""

    failures: tuple[float, ...] = ()
    recycles: tuple[float, ...] = ()


class Decision(NamedTuple):
    """What to do now: start again in `delay_s` seconds; `fatal` says that it was too much."""

    history: History
    delay_s: float
    fatal: bool


def fate_of(status: int | None, *, at_deadline: bool = False) -> Fate:
    """What an exit status means (None: killed by a signal); `at_deadline`: we killed it for a task's hard deadline."""
    if status == Exit.RECYCLED:
        return Fate.RETIRED
    if at_deadline or status in _RECYCLING:
        return Fate.RECYCLED
    return Fate.HOPELESS if status in _HOPELESS else Fate.FAILED


@dataclass(frozen=True)
class RestartPolicy:
    """The limits; `after` decides."""

    max_retries: int
    window_s: float
    cool_down_s: float

    def after(self, history: History, fate: Fate, now_s: float, jitter: float) -> Decision:
        """Decide about a child that ended `now_s`; `jitter` is a random number from 0 up to 1."""
        failures = tuple(t for t in history.failures if t > now_s - self.window_s)
        recycles = tuple(t for t in history.recycles if t > now_s - RECYCLE_WINDOW_S)
        if fate in {Fate.RECYCLED, Fate.POISONED, Fate.RETIRED}:
            recycles = (*recycles, now_s)[-64:]
            return Decision(History(failures, recycles), _recycle_delay_s(len(recycles), jitter), fatal=False)
        failures = (*failures, now_s)[-(self.max_retries + 1):]
        history = History(failures, recycles)
        if fate is Fate.HOPELESS or len(failures) > self.max_retries:
            return Decision(history, self.cool_down_s * (1 + COOL_DOWN_JITTER * jitter), fatal=True)
        return Decision(history, _backoff_s(len(failures), jitter), fatal=False)


def _backoff_s(failures: int, jitter: float) -> float:
    if failures <= 1:
        return 0.0
    return min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(failures - 2, 16)) * (0.5 + jitter / 2)


def _recycle_delay_s(recycles: int, jitter: float) -> float:
    over = recycles - RECYCLES_AT_ONCE
    return 0.0 if over <= 0 else min(RECYCLE_CAP_S, RECYCLE_BASE_S * 2.0 ** min(over - 1, 16)) * (0.5 + jitter / 2)
