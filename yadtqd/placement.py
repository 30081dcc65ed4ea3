"""Which worker of a host consumes which of its partitions.

Pure. Used by the supervisor whenever the host's partitions change. What a worker keeps it is never disturbed for:
a partition that comes or goes restarts its own worker only.
"""
from __future__ import annotations

import heapq
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
    there = set(owned)
    owned = sorted(there)
    if max_workers == 0 and len(owned) <= MOST_WORKERS:
        return {p: (p,) for p in owned}
    count = min(max_workers or MOST_WORKERS, MOST_WORKERS, len(owned))
    kept = {w: [p for p in partitions if p in there] for w, partitions in now.items()}
    numbers = set(sorted(kept, key=lambda w: (-len(kept[w]), w))[:count])
    numbers |= set([w for w in range(count + len(numbers)) if w not in numbers][:count - len(numbers)])
    hands = {w: kept.get(w, []) for w in sorted(numbers)}
    placed = {p for hand in hands.values() for p in hand}
    poorest = [(len(hand), w) for w, hand in hands.items()]
    heapq.heapify(poorest)
    for partition in (p for p in owned if p not in placed):
        size, w = poorest[0]
        hands[w].append(partition)
        heapq.heapreplace(poorest, (size + 1, w))
    _even_out(hands)
    return {w: tuple(sorted(hands[w])) for w in sorted(hands)}


def _even_out(hands: dict[int, list[int]]) -> None:
    """From the richest to the poorest, as long as one is idle beside one with two, or has two less than another."""
    richest, poorest = ([(sign * len(hand), w) for w, hand in hands.items()] for sign in (-1, 1))
    heapq.heapify(richest)
    heapq.heapify(poorest)
    while hands:
        (most, giver), (least, taker) = richest[0], poorest[0]
        if len(hands[giver]) != -most:
            heapq.heapreplace(richest, (-len(hands[giver]), giver))
        elif len(hands[taker]) != least:
            heapq.heapreplace(poorest, (len(hands[taker]), taker))
        elif -most - least <= (2 if least else 1):
            return
        else:
            hands[taker].append(hands[giver].pop())
