"""When a worker is due to be replaced, and how many may go at a time."""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtq.config import Settings
from yadtqd.recycler import Recycler, resident
from yadtqd.recycling import PATIENCE_NS, SHARE, Limits, grants
from yadtqd.rolling import Recycling
from yadtqd.slot import RETIRE, SLOT_BYTES, WAITS_TO_RETIRE, Slot
from yadtqd.worker_state import WorkerState

chances = st.floats(0, 1, exclude_max=True)


@given(chances, st.floats(0, 0.9), st.integers(0, 10**9), st.integers(0, 10**6), st.floats(0, 10**6))
def test_drawn_limits_lie_below_the_configured_ones_by_no_more_than_the_jitter(
        chance: float, jitter: float, tasks: int, memory_mb: int, age_s: float) -> None:
    drawn = Limits.of(Settings(worker_max_tasks=tasks, worker_max_memory_mb=memory_mb, worker_max_age_s=age_s,
                               recycle_jitter=jitter), chance)
    for got, configured in zip(drawn, (tasks, memory_mb * 10**6, age_s), strict=True):
        assert got <= configured
        assert got >= configured * (1 - jitter) - 1
        assert bool(got) == bool(configured) or configured < 1


@given(st.integers(0, 100), st.integers(0, 100), st.floats(0, 100), st.integers(0, 100), st.integers(0, 100),
       st.floats(0, 100))
def test_it_is_due_exactly_when_one_limit_is_reached(tasks: int, memory: int, age_s: float, done: int, has: int,
                                                     old_s: float) -> None:
    reason = Limits(tasks, memory, age_s).reason(done, has, old_s)
    assert bool(reason) == any(limit and value >= limit for limit, value in
                               ((tasks, done), (memory, has), (age_s, old_s)))
    assert Limits(0, 0, 0).reason(done, has, old_s) == ""


@given(st.lists(st.text(min_size=1), unique=True), st.lists(st.integers(0, 10**12)), st.integers(1, 200),
       st.integers(0, 10**12))
def test_few_go_at_a_time_and_one_that_hangs_on_holds_up_nobody(asking: list[str], going: list[int], workers: int,
                                                               now: int) -> None:
    granted = grants(asking, going, workers, now)
    assert granted == asking[:len(granted)]                             # the longest waiting first
    recent = sum(now - since < PATIENCE_NS for since in going)
    most = max(1, workers // SHARE)
    assert len(granted) + recent <= max(most, recent)
    assert granted or not asking or recent >= most


class Hosts:
    """Workers of a host as the supervisor sees them."""

    def __init__(self, count: int) -> None:
        self.all = [SimpleNamespace(name=f"w{n}", state=WorkerState.RUNNING, retire_ns=0,
                                    slot=Slot(n, memoryview(bytearray(SLOT_BYTES)))) for n in range(count)]

    def workers(self) -> list[Any]:
        return self.all

    def going(self) -> list[str]:
        return [h.name for h in self.all if h.slot.drain_by_ns == RETIRE]


def test_the_next_goes_when_the_successor_of_the_last_one_runs() -> None:
    hosts = Hosts(3)
    recycling = Recycling(hosts)  # type: ignore[arg-type]
    for handle in hosts.all:
        handle.slot.waiting_for = WAITS_TO_RETIRE
    for now in (1, 2, 3):
        recycling.step(now)
        assert hosts.going() == ["w0"]
    first = hosts.all[0]
    first.state = WorkerState.EXITED
    recycling.step(4)
    first.state = WorkerState.STARTING
    first.slot.clear()
    recycling.step(5)
    assert hosts.going() == []
    first.state = WorkerState.RUNNING
    recycling.step(6)
    assert hosts.going() == ["w1"]
    recycling.step(6 + PATIENCE_NS)                 # it has a long task in hand
    assert hosts.going() == ["w1", "w2"]


def test_a_worker_looks_at_itself(caplog: pytest.LogCaptureFixture) -> None:
    slot = Slot(0, memoryview(bytearray(SLOT_BYTES)))
    one = Recycler(Settings(worker_max_tasks=10, recycle_jitter=0), slot)
    assert not one.due(1.0)
    slot.count(done=6, failed=4)
    assert one.due(1.1)
    assert one.due(1.2)
    assert "10 tasks" in one.reason
    assert not Recycler(Settings(), slot).due(1.0)
    assert not Recycler(Settings(worker_max_memory_mb=1), slot).due(1.0), "else it would be replaced for ever"
    assert "worker_max_memory_mb is 1" in caplog.text
    leaky = Recycler(Settings(worker_max_memory_mb=resident() // 10**6 + 60, recycle_jitter=0), slot)
    assert not leaky.due(1.0)
    leaked = bytearray(100 * 10**6)
    assert leaky.due(2.0)
    assert "MB in memory" in leaky.reason
    del leaked
    assert Recycler(Settings(worker_max_age_s=0.001), slot).due(10.0**12)
