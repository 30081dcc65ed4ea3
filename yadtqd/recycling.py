"""When a worker is to be replaced by a fresh one, though nothing is wrong with it, and when it may be.

Pure: takes the clock, the counters and a random number. A worker finds out by itself that it is due (yadtqd.recycler)
and asks; the supervisor grants it to few at a time (yadtqd.rolling), so that the host goes on working. Each process
draws its own limits, a part below the configured ones, so that workers which started together are not due together.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from yadtq.config import Settings

SHARE = 4               # of the workers of a host, one in so many may be on its way out at a time; one in any case
PATIENCE_NS = 30_000_000_000    # one that takes longer, for a long task, holds up the others no more


class Limits(NamedTuple):
    """Of one process; 0: none."""

    tasks: int
    memory: int         # bytes of resident memory
    age_s: float

    @classmethod
    def of(cls, settings: Settings, chance: float) -> Limits:
        """Those configured, less a part of `recycle_jitter`; `chance` is a random number from 0 up to 1."""
        factor = 1.0 - settings.recycle_jitter * chance
        return cls(max(1, int(settings.worker_max_tasks * factor)) if settings.worker_max_tasks else 0,
                   int(settings.worker_max_memory_mb * 1_000_000 * factor), settings.worker_max_age_s * factor)

    def reason(self, tasks: int, memory: int, age_s: float) -> str:
        """Why a process that has ended so many tasks, has so much memory and is so old is due; empty if it is not."""
        if self.tasks and tasks >= self.tasks:
            return f"it has ended {tasks} tasks (worker_max_tasks)"
        if self.memory and memory >= self.memory:
            return f"it has {memory / 1e6:.0f} MB in memory (worker_max_memory_mb)"
        if self.age_s and age_s >= self.age_s:
            return f"it is {age_s:.0f} s old (worker_max_age_s)"
        return ""


def grants(asking: Sequence[str], going: Iterable[int], workers: int, now_ns: int) -> list[str]:
    """Which of those that ask, the longest waiting first, may go now; `going`: since when others are on their way."""
    under_way = sum(now_ns - since < PATIENCE_NS for since in going)
    return list(asking[:max(0, max(1, workers // SHARE) - under_way)])
