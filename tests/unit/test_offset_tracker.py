"""The offset tracker against a model that keeps every record ever fetched and looks at all of them each time."""
from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from yadtqd.offset_tracker import NOT_SETTLED, OffsetTracker


@dataclass
class Entry:
    offset: int
    settled_at: float = NOT_SETTLED


class AgainstNaiveModel(RuleBasedStateMachine):
    """Fetch with gaps, settle in any order, become durable late, forget (a restarted Redis)."""

    @initialize(start=st.integers(0, 5))
    def begin(self, start: int) -> None:
        self.tracker: OffsetTracker[Entry] = OffsetTracker(start)
        self.all: list[Entry] = []
        self.position = start
        self.clock = 0.0

    @rule(gap=st.integers(0, 3))
    def fetch(self, gap: int) -> None:
        entry = Entry(self.tracker.next_offset + gap)
        self.tracker.add(entry)
        self.all.append(entry)

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        waiting = [e for e in self.all if e.settled_at == NOT_SETTLED]
        if waiting:
            self.clock += 1
            data.draw(st.sampled_from(waiting)).settled_at = self.clock

    @rule(data=st.data())
    def redis_forgets(self, data: st.DataObject) -> None:
        settled = [e for e in self.tracker if e.settled_at != NOT_SETTLED]
        if settled:
            data.draw(st.sampled_from(settled)).settled_at = NOT_SETTLED

    @rule(lag=st.integers(0, 4))
    def advance(self, lag: int) -> None:
        before = self.clock - lag
        expected = []
        for entry in self.all:
            if entry.offset >= self.position and entry.settled_at >= before:
                break
            if entry.offset >= self.position:
                expected.append(entry)
        assert self.tracker.advance(before) == expected
        if expected:
            self.position = expected[-1].offset + 1

    @invariant()
    def nothing_undone_is_passed(self) -> None:
        assert self.tracker.position == self.position
        assert all(e.offset >= self.position for e in self.all if e.settled_at == NOT_SETTLED)
        assert [e.offset for e in self.tracker] == [e.offset for e in self.all if e.offset >= self.position]


TestAgainstNaiveModel = AgainstNaiveModel.TestCase


@given(st.integers(0, 100), st.integers(1, 100))
def test_an_offset_never_comes_back(position: int, back: int) -> None:
    tracker: OffsetTracker[Entry] = OffsetTracker(position)
    tracker.add(Entry(position))
    with pytest.raises(ValueError, match="came after"):
        tracker.add(Entry(position + 1 - back))


def test_what_is_settled_at_the_very_moment_is_not_yet_durable() -> None:
    tracker: OffsetTracker[Entry] = OffsetTracker(0)
    tracker.add(Entry(0, settled_at=5.0))
    assert tracker.advance(5.0) == []
    assert [e.offset for e in tracker.advance(5.1)] == [0]
    assert tracker.position == 1
