"""A consumer that brings nothing although there is something: found, and never suspected wrongly."""
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from yadtqd.starvation import Starvation

partitions = st.sets(st.integers(0, 3))
looks = st.lists(st.tuples(st.floats(0, 5), partitions, partitions), max_size=40)


def test_time_that_was_waited_in_vain_adds_up() -> None:
    one = Starvation()
    assert one.look(0.4, (), [0, 1], 1.0) == []
    assert one.look(0.4, {1}, [0, 1], 1.0) == []
    assert one.look(0.4, (), [0, 1], 1.0) == [0]
    one.reset()
    assert one.look(0.4, (), [0, 1], 1.0) == []


def test_who_does_not_wait_does_not_starve() -> None:
    """A long task runs, Redis is away, all is paused: nothing is polled, or nothing counts as behind."""
    one = Starvation()
    one.look(0.4, (), [0], 1.0)
    for _ in range(1000):
        assert one.look(0.0, (), [0], 1.0) == []
    for _ in range(1000):
        assert one.look(0.5, (), [], 1.0) == []
    assert one.look(0.9, (), [0], 1.0) == []


@given(looks, st.floats(0.1, 10))
def test_exactly_those_that_lay_behind_and_brought_nothing_for_so_long(
        looks: list[tuple[float, set[int], set[int]]], limit_s: float) -> None:
    one, waited = Starvation(), dict.fromkeys(range(4), 0.0)
    for waited_s, got, behind in looks:
        for p in waited:
            waited[p] = waited[p] + waited_s if p in behind and p not in got else 0.0
        assert one.look(waited_s, got, behind, limit_s) == [
            p for p in waited if p in behind and p not in got and waited[p] >= limit_s]
