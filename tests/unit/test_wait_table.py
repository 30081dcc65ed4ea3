"""Who waits for what, and when it is looked at again; by a clock of the test's own."""
from __future__ import annotations

import pytest

from yadtq.errors import BackendLost, ClientClosed, TaskNotFound
from yadtq.sinks import ManySink, OneSink, QueueSink
from yadtq.wait_table import Outcome, WaitTable


class Told:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, Outcome]] = []

    def deliver(self, task_id: str, outcome: Outcome) -> None:
        self.outcomes.append((task_id, outcome))


OK = Outcome("OK", b"1")


@pytest.fixture
def table() -> WaitTable:
    return WaitTable(recheck_s=10.0, grace_s=8.0)


def test_an_end_is_told_once_to_everybody_who_waits(table):
    one, other = Told(), Told()
    table.add(["a", "b"], one, 0.0)
    table.add(["a"], other, 1.0)
    assert table.ended("a", OK)
    assert not table.ended("a", OK)
    assert one.outcomes == other.outcomes == [("a", OK)]
    assert len(table) == 1


def test_who_stops_waiting_is_not_told_and_the_others_are(table):
    one, other = Told(), Told()
    table.add(["a"], one, 0.0)
    table.add(["a"], other, 0.0)
    table.discard(["a"], one)
    table.ended("a", OK)
    assert (one.outcomes, len(other.outcomes)) == ([], 1)
    table.add(["b"], one, 0.0)
    table.discard(["b"], one)
    assert len(table) == 0
    assert not table.ended("b", OK)


def test_each_id_is_looked_at_again_after_the_interval_and_then_anew(table):
    table.add(["a"], Told(), 0.0)
    table.add(["b"], Told(), 4.0)
    assert table.due(9.9, 100) == []
    assert table.next_due(9.0, 5.0) == pytest.approx(1.0)
    assert table.due(10.0, 100) == ["a"]
    assert table.due(14.0, 100) == ["b"]
    assert table.due(20.0, 100) == ["a"]


def test_what_has_ended_is_not_looked_at_again(table):
    table.add(["a", "b"], Told(), 0.0)
    table.ended("a", OK)
    assert table.due(10.0, 100) == ["b"]
    table.ended("b", OK)
    assert table.next_due(10.0, 60.0) == 60.0


def test_after_a_reconnect_everything_is_due_at_once_in_bounded_portions(table):
    ids = [f"t{n}" for n in range(25)]
    table.add(ids, Told(), 0.0)
    table.look_again()
    assert table.next_due(1.0, 60.0) == 0.0
    seen: list[str] = []
    while portion := table.due(1.0, 10):
        assert len(portion) <= 10
        seen += portion
    assert sorted(seen) == sorted(ids)
    assert table.next_due(1.0, 60.0) == pytest.approx(10.0 - 0.0)


def test_an_unknown_task_is_told_at_once(table):
    told = Told()
    table.add(["a"], told, 0.0)
    table.missing("a", 0.0)
    assert isinstance(told.outcomes[0][1].lost, TaskNotFound)


def test_a_lost_store_is_told_as_such(table):
    told = Told()
    table.add(["a"], told, 0.0)
    table.present("a")
    table.missing("a", 1.0, BackendLost("gone"))
    assert isinstance(told.outcomes[0][1].lost, BackendLost)


def test_a_record_that_vanishes_gets_a_grace_period_in_which_it_is_looked_at_more_often(table):
    told = Told()
    table.add(["a"], told, 0.0)
    table.present("a")
    table.missing("a", 10.0)
    assert told.outcomes == []
    assert table.next_due(10.0, 60.0) == pytest.approx(1.0)
    assert table.due(11.0, 10) == ["a"]
    table.present("a")                                  # its worker wrote it anew
    table.missing("a", 30.0)
    table.missing("a", 37.9)
    assert told.outcomes == []
    table.missing("a", 38.0)
    assert isinstance(told.outcomes[0][1].lost, TaskNotFound)


def test_a_task_that_cannot_be_pushed_is_looked_at_soon(table):
    table.add(["a", "b"], Told(), 0.0)
    table.present("a", ask_at=0.5)
    assert table.due(0.5, 10) == ["a"]
    assert table.due(10.0, 10) == ["b"]


def test_the_queue_does_not_grow_with_waits_that_are_over(table):
    for n in range(50_000):
        table.add([f"t{n}"], Told(), float(n) / 1e6)
        table.ended(f"t{n}", OK)
    assert len(table._queue) < 2000


def test_closing_tells_everybody(table):
    told = Told()
    table.add(["a", "b"], told, 0.0)
    table.abandon(ClientClosed())
    assert [type(outcome.lost) for _, outcome in told.outcomes] == [ClientClosed, ClientClosed]


def test_sinks_hand_over():
    one = OneSink()
    assert not one.wait(0.0)
    one.deliver("a", OK)
    one.deliver("a", Outcome("KO"))                     # only the first counts
    assert one.wait(0.0)
    assert one.wait(0.0)
    assert one.outcome == OK
    many = ManySink(["a", "b"])
    many.deliver("a", OK)
    many.deliver("a", OK)
    assert not many.wait(0.0)
    assert many.pending() == ["b"]
    many.deliver("b", OK)
    assert many.wait(0.0)
    assert ManySink([]).wait(0.0)
    queue = QueueSink()
    assert not queue.wait(0.0)
    queue.deliver("a", OK)
    assert queue.wait(0.0)
    assert queue.take() == ("a", OK)
    assert not queue.wait(0.0)


def test_a_redis_that_comes_and_goes_does_not_fill_the_memory(table):
    """Each time all ids are looked at, and each look is noted anew."""
    ids = [f"t{n}" for n in range(2000)]
    table.add(ids, Told(), 0.0)
    for flap in range(200):
        table.look_again()
        while table.due(flap * 0.01, 500):
            pass
    assert len(table._queue) <= 2 * len(ids) + 1000 + 500
    table.ended("t5", OK)
    seen: list[str] = []
    while portion := table.due(50.0, 500):
        seen += portion
        if len(seen) >= 1999:
            break
    assert sorted(seen) == sorted(set(ids) - {"t5"})
