"""The line of `systemctl status yadtqd`: how many workers, which partitions, how much waits, how fast it goes.

Pure but for the clock that it is given; used by the supervisor's one thread, once a second.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

WINDOW_NS = 5_000_000_000       # a rate over less jumps, over more lags behind
REASONS = 3                     # shown; `yadtqctl status` has them all


class Rate:
    """Tasks per second over the last five seconds, from a counter that is looked at now and then."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, int]] = deque()    # (ns, count), the oldest just outside the window

    def per_s(self, count: int, now_ns: int) -> float:
        """The rate, now that the counter is at `count`; 0 at the first look."""
        self._seen.append((now_ns, count))
        while len(self._seen) > 2 and self._seen[1][0] <= now_ns - WINDOW_NS:
            self._seen.popleft()
        begin_ns, begin = self._seen[0]
        return max(count - begin, 0) * 1e9 / (now_ns - begin_ns) if now_ns > begin_ns else 0.0


def status_line(state: str, running: int, of: int, partitions: Sequence[int], lag: int, rate: float,
                reasons: Sequence[str] = ()) -> str:
    """Such as "RUNNING: 4 of 4 workers running, 4 partitions (0-3), lag 120, 850 tasks/s"; what is wrong follows."""
    count = len(partitions)
    owned = f"{count} partition{'s' * (count != 1)} ({ranges(partitions)})" if count else "no partition"
    pace = f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.1f}"
    head = f"{state}: {running} of {of} workers running, {owned}, lag {lag:,}, {pace} tasks/s"
    more = [f"{len(reasons) - REASONS} more reasons in `yadtqctl status`"] if len(reasons) > REASONS else []
    return "; ".join([head, *reasons[:REASONS], *more])


def ranges(numbers: Iterable[int]) -> str:
    """Partition numbers, runs shortened: 0-3,7."""
    parts: list[str] = []
    run: list[int] = []
    for n in [*sorted(numbers), None]:
        if run and (n is None or n != run[-1] + 1):
            parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
            run = []
        if n is not None:
            run.append(n)
    return ",".join(parts)
