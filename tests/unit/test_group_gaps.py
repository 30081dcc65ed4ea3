"""When the group is asked to arrange itself anew because somebody's partitions are nobody's."""
from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from yadtqd.group_gaps import AGAIN_S, EVERY_S, FIRST_S, FRESH_S, GapWatch, gaps

SLOW_S = 100.0
GAP = frozenset({2, 3})
NOTHING = frozenset[int]()


def watch() -> GapWatch:
    return GapWatch(0.0, SLOW_S, random.Random(1))


def asked_at(one: GapWatch, begin: float, until: float, missing: frozenset[int] | None) -> list[float]:
    """When it asks, looked at every tenth of a second while it sees the same."""
    times = [begin + n / 10 for n in range(int((until - begin) * 10))]
    return [now for now in times if one.due(now) and one.saw(missing, now)]


def test_gaps() -> None:
    assert gaps(range(4), [[0, 1], [3]]) == {2}
    assert gaps(range(2), [[0, 1, 7], []]) == NOTHING
    assert gaps([], []) == NOTHING


def test_a_successor_asks_soon_and_again_until_it_helps() -> None:
    one = watch()
    assert not one.due(FIRST_S - 0.1)
    times = asked_at(one, 0.0, 12.0, GAP)
    assert times[0] <= FIRST_S + AGAIN_S + 0.2
    assert len(times) >= 3


def test_an_old_member_waits_until_any_hand_over_is_over() -> None:
    one = watch()
    assert asked_at(one, 0.0, FRESH_S + EVERY_S, NOTHING) == []
    begin = FRESH_S + 2 * EVERY_S
    times = asked_at(one, begin, begin + SLOW_S + 10, GAP)
    assert len(times) == 1
    assert times[0] - begin >= SLOW_S


def test_gaps_that_come_and_go_are_hand_overs() -> None:
    one = watch()
    assert not one.saw(frozenset({1}), 2.0)
    assert not one.saw(frozenset({2}), 4.0)
    assert not one.saw(NOTHING, 6.0)
    assert not one.due(6.0 + EVERY_S / 2 - 1)
    assert one.due(6.0 + EVERY_S * 1.5)


def test_what_can_not_be_told_is_looked_at_again() -> None:
    one = watch()
    assert asked_at(one, 0.0, 30.0, None) == []
    assert one.due(33.0)


@given(st.lists(st.one_of(st.none(), st.frozensets(st.integers(0, 3))), max_size=50))
def test_it_never_asks_for_a_gap_seen_once(seen: list[frozenset[int] | None]) -> None:
    one, now, before = watch(), 0.0, NOTHING
    for missing in seen:
        now += AGAIN_S
        if one.saw(missing, now):
            assert missing is not None
            assert missing & before
        if missing is not None:
            before = missing
