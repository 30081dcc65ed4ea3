"""Which worker of a host consumes which of its partitions.

Pure. Used by the supervisor whenever the host's partitions change. What a worker keeps it is never disturbed for:
a partition that comes or goes restarts its own worker only.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping

from yadtqd.shared import SLOTS

MOST_WORKERS = SLOTS - 8
Placement = dict[int, tuple[int, ...]]


def place(owned: Iterable[int], now: Mapping[int, tuple[int, ...]], max_workers: int = 0) -> Placement:
    """Partitions by worker number.

    `max_workers` 0: a worker per partition, with its number. Else at most so many workers, numbered from 0, each with
    about as many partitions: `now` is kept as it is while no worker is idle that could have one, and none has more than
    two above another; then the fewest possible move. Workers that `now` has beyond the limit are given up.
    """
    owned = sorted(set(owned))
    if max_workers == 0 and len(owned) <= MOST_WORKERS:
        return {p: (p,) for p in owned}
    count = min(max_workers or MOST_WORKERS, MOST_WORKERS, len(owned))
    kept = {w: [p for p in partitions if p in set(owned)] for w, partitions in now.items()}
    numbers = sorted(sorted(kept, key=lambda w: (-len(kept[w]), w))[:count])
    numbers += [w for w in range(count + len(numbers)) if w not in numbers][:count - len(numbers)]
    hands = {w: kept.get(w, []) for w in numbers}
    placed = {p for hand in hands.values() for p in hand}
    for partition in (p for p in owned if p not in placed):
        min(hands.values(), key=len).append(partition)
    _even_out(hands)
    return {w: tuple(sorted(hands[w])) for w in sorted(hands)}


def _even_out(hands: dict[int, list[int]]) -> None:
    while hands:
        most, least = max(hands.values(), key=len), min(hands.values(), key=len)
        if len(most) - len(least) <= (2 if least else 1):
            return
        least.append(most.pop())
