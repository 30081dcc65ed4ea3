"""How the partitions of a topic are shared out among the hosts of a group: evenly, and with as few moves as possible.

Pure. Computed by the group's leader, whichever host that is, from what every member says that it holds, in time
proportional to partitions and members (kafka-python's own takes their product: seconds with 1,000 hosts, while which no
member can be certain of its place). A member holds a partition until it has said that it has let it go, however long
that takes; only then has another it (`grant`), so that nobody need wait for anybody.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

Hands = dict[str, list[int]]


def share(count: int, holds: Mapping[str, Sequence[int]]) -> Hands:
    """Who should have which of the partitions 0 to `count` - 1, by member; numbers of any two differ by one at most.

    What a member holds it keeps, as far as that is fair: only what is above its due moves, the least that is possible,
    and of that what it names last. What two claim (one of them is not up to date) neither is thought to have.
    """
    owners = {p: who[0] for p, who in _holders(holds).items() if len(who) == 1 and 0 <= p < count}
    hands: Hands = {member: [p for p in holds[member] if owners.get(p) == member] for member in sorted(holds)}
    free = [partition for partition in range(count) if partition not in owners]
    least, more = divmod(count, len(hands)) if hands else (0, 0)
    richest_first = sorted(hands, key=lambda member: -len(hands[member]))
    due = {member: least + (place < more) for place, member in enumerate(richest_first)}
    for member, hand in hands.items():
        free += hand[due[member]:]
        del hand[due[member]:]
    free.sort(reverse=True)
    for member, hand in hands.items():
        while len(hand) < due[member]:
            hand.append(free.pop())
        hand.sort()
    return hands


def grant(wanted: Mapping[str, Sequence[int]], holds: Mapping[str, Sequence[int]]) -> Hands:
    """Of what each should have, what it may have now: what it holds itself, and what nobody holds."""
    holders = _holders(holds)
    return {member: [p for p in hand if set(holders.get(p, [member])) == {member}] for member, hand in wanted.items()}


def _holders(holds: Mapping[str, Sequence[int]]) -> dict[int, list[str]]:
    """By partition: who says to hold it, as often as that is said."""
    holders: dict[int, list[str]] = {}
    for member, held in holds.items():
        for partition in held:
            holders.setdefault(partition, []).append(member)
    return holders
