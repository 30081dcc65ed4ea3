"""Threads that submit single tasks at the same time share batches, and each hears of its own task only."""
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest

from yadtq import company, gathering
from yadtq.errors import KafkaRefused, YADTQError
from yadtq.gathering import Gathering
from yadtq.submission import Prepared
from yadtq.task import TaskMessage
from yadtq.testing import InMemoryYADTQ

LIMIT_S = 10.0


def task(name: str) -> Prepared:
    return Prepared(TaskMessage(id=name, task="t", args=b"", submitted_ms=0), 0, b"", None)


class Batches:
    """Stands for Kafka and Redis: keeps each batch until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.changed = threading.Condition()
        self.let_go = 0
        self.errors: dict[str, YADTQError] = {}

    def run(self, batch: Sequence[Prepared]) -> Mapping[str, YADTQError]:
        with self.changed:
            self.batches.append([one.message.id for one in batch])
            mine = len(self.batches)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.let_go >= mine, LIMIT_S)
        return {one.message.id: self.errors[one.message.id] for one in batch if one.message.id in self.errors}

    def release(self, upto: int) -> None:
        with self.changed:
            self.let_go = upto
            self.changed.notify_all()

    def wait(self, count: int) -> None:
        """Until so many batches have begun."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.batches) >= count, LIMIT_S)


class Submitting:
    """A thread that submits one task, and what became of it."""

    def __init__(self, gathered: Gathering, name: str) -> None:
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(gathered, name), daemon=True)
        self.thread.start()

    def _run(self, gathered: Gathering, name: str) -> None:
        try:
            gathered.submit(task(name))
        except BaseException as error:
            self.error = error

    def join(self) -> BaseException | None:
        self.thread.join(LIMIT_S)
        assert not self.thread.is_alive()
        return self.error


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "PATIENCE_S", LIMIT_S)


def busy(batches: Batches, gathered: Gathering) -> Submitting:
    """Somebody whose batch is under way."""
    leader = Submitting(gathered, "leader")
    batches.wait(1)
    return leader


def queued(gathered: Gathering, names: Sequence[str]) -> list[Submitting]:
    """Threads that queue, in this order."""
    found = []
    for number, name in enumerate(names, 1):
        found.append(Submitting(gathered, name))
        wait_for(lambda number=number: len(gathered._waiting) == number)
    return found


def test_a_thread_that_is_alone_submits_at_once() -> None:
    batches = Batches()
    batches.release(2)
    gathered = Gathering(batches.run)
    gathered.submit(task("a"))
    gathered.submit(task("b"))
    assert batches.batches == [["a"], ["b"]]
    assert not gathered._under_way


@pytest.mark.usefixtures("patient")
def test_those_that_come_meanwhile_go_out_together() -> None:
    batches = Batches()
    gathered = Gathering(batches.run)
    leader, others = busy(batches, gathered), queued(gathered, "abcde")
    batches.release(1)
    batches.wait(2)
    assert batches.batches[-1] == list("abcde")
    assert all(other.thread.is_alive() for other in others)     # none returns before its batch does
    batches.release(10)
    assert [one.join() for one in [leader, *others]] == [None] * 6
    assert not gathered._under_way


@pytest.mark.usefixtures("patient")
def test_each_hears_of_its_own_error() -> None:
    batches = Batches()
    gathered = Gathering(batches.run)
    batches.errors = {"b": KafkaRefused("b"), "c": KafkaRefused("c")}
    leader, others = busy(batches, gathered), queued(gathered, "abc")
    batches.release(10)
    assert leader.join() is None
    assert [one.join() for one in others] == [None, batches.errors["b"], batches.errors["c"]]


@pytest.mark.usefixtures("patient")
def test_when_the_thread_that_leads_is_interrupted_the_others_submit_again() -> None:
    batches = Batches()

    def run(batch: Sequence[Prepared]) -> Mapping[str, YADTQError]:
        errors = batches.run(batch)
        if len(batch) == 3:
            raise KeyboardInterrupt
        return errors

    gathered = Gathering(run)
    leader, others = busy(batches, gathered), queued(gathered, "abc")
    batches.release(10)
    assert leader.join() is None
    assert [type(one.join()) for one in others] == [KeyboardInterrupt, type(None), type(None)]
    assert sorted(batches.batches[-2:]) == [["b"], ["c"]]
    assert not gathered._under_way


def test_who_has_queued_for_too_long_submits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "PATIENCE_S", 0.02)
    batches = Batches()
    gathered = Gathering(batches.run)
    leader = busy(batches, gathered)
    other = Submitting(gathered, "a")
    batches.wait(2)
    assert batches.batches[-1] == ["a"]
    batches.release(10)
    assert (leader.join(), other.join()) == (None, None)
    assert not gathered._waiting


@pytest.mark.parametrize("promoted", [False, True])
def test_a_thread_that_is_interrupted_while_it_queues_holds_up_nobody(promoted: bool) -> None:
    batches = Batches()
    gathered = Gathering(batches.run)
    gathered._under_way = True
    tickets = [gathering._Ticket(task(name)) for name in "ab"]
    gathered._waiting.extend(tickets)
    if promoted:
        gathered._pass_on([])
        assert tickets[0].taken_along == [tickets[1]]
    gathered._leave(tickets[0])
    if promoted:
        assert tickets[1].taken_along == []         # it leads now
        assert gathered._under_way
    else:
        assert list(gathered._waiting) == [tickets[1]]


@pytest.mark.usefixtures("patient")
def test_who_leads_waits_for_those_that_were_just_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(company, "PAUSE_S", LIMIT_S)
    monkeypatch.setattr(company, "LONGEST_WAIT_S", LIMIT_S)
    batches = Batches()
    gathered = Gathering(batches.run)
    leader, others = busy(batches, gathered), queued(gathered, "abc")
    time.sleep(0.5)                                     # the next one may wait as long as this one has taken
    batches.release(10)
    assert leader.join() is None
    back = Submitting(gathered, "back")
    assert [one.join() for one in [back, *others]] == [None] * 4
    assert batches.batches == [["leader"], ["a", "b", "c", "back"]]


def test_a_wait_that_was_interrupted_leaves_the_way_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that waits for company gets a Ctrl-C: those that had come along submit by themselves."""
    batches = Batches()
    batches.release(10)
    gathered = Gathering(batches.run)

    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(gathered, "_await_company", interrupted)
        ticket = gathering._Ticket(task("b"))
        gathered._under_way = True
        with pytest.raises(KeyboardInterrupt):
            gathered._lead(task("a"), [ticket])
    assert ticket.alone
    assert not gathered._under_way
    gathered.submit(task("c"))
    assert batches.batches == [["c"]]


def test_many_threads_each_task_exactly_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a patience so short that threads leave the queue while a batch is being gathered."""
    for patience_s in (LIMIT_S, 0.0002):
        monkeypatch.setattr(gathering, "PATIENCE_S", patience_s)
        seen: list[str] = []

        def run(batch: Sequence[Prepared], seen: list[str] = seen) -> Mapping[str, YADTQError]:
            time.sleep(0.0005)
            seen += [one.message.id for one in batch]
            return {one.message.id: KafkaRefused(one.message.id) for one in batch if one.message.id.endswith("7")}

        gathered = Gathering(run)
        wrong: list[str] = []

        def many(number: int, gathered: Gathering = gathered, wrong: list[str] = wrong) -> None:
            for index in range(100):
                name = f"{number}-{index}"
                try:
                    gathered.submit(task(name))
                    failed = ""
                except KafkaRefused as error:
                    failed = error.message
                if failed != (name if name.endswith("7") else ""):
                    wrong.append(name)

        threads = [threading.Thread(target=many, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
        assert not wrong
        assert sorted(seen) == sorted(f"{number}-{index}" for number in range(16) for index in range(100))
        assert (gathered._under_way, len(gathered._waiting)) == (False, 0)


def partitions_of(client: InMemoryYADTQ, count: int, **options: Any) -> list[int]:
    """Where tasks go that are submitted one after the other."""
    with client.paused():
        ids = [client.submit_task("echo", [n], **options) for n in range(count)]
        return [client.get_task(task_id).partition for task_id in ids]


def test_each_task_of_a_thread_that_is_alone_has_a_turn_of_its_own_also_without_a_pause() -> None:
    with InMemoryYADTQ({"echo": lambda n: n}) as client:
        found = partitions_of(client, 4 * company.STREAK)
        assert set(found) == {0, 1, 2, 3}
        same = [sooner for sooner, later in pairwise(found) if sooner == later]
        assert len(same) <= 1                               # where turns of tasks become turns of batches


def test_after_a_burst_what_goes_by_itself_does_not_stay_with_one_partition() -> None:
    with InMemoryYADTQ({"echo": lambda n: n}) as client:
        partitions_of(client, 2 * company.STREAK)           # the burst
        assert sorted(partitions_of(client, 8, submit_timeout_s=5.0)) == [0, 0, 1, 1, 2, 2, 3, 3]
