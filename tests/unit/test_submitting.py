"""What a submission tells when things go wrong in the middle: nothing that was given in is left out in silence."""
from __future__ import annotations

import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from yadtq.clearing import clear_all_tasks
from yadtq.errors import ClientClosed, RedisConnectionError, TaskSubmissionTimeout
from yadtq.producer import CHUNK, ClearNumbers, Submitter
from yadtq.records import SubmitEntry
from yadtq.result_backend import PendingClear
from yadtq.sinks import OneSink
from yadtq.submission import Prepared
from yadtq.task import TaskMessage
from yadtq.waiter import Waiter


class FakeBackend:
    """Answers each `submit` with what `plan` has next: an answer for all, or an error to raise."""

    def __init__(self, *plan: Any, numbers: Any = None) -> None:
        self.plan, self.numbers = list(plan), numbers

    def submit(self, entries: Sequence[SubmitEntry], timeout_s: float) -> list[str]:
        step = self.plan.pop(0)
        if isinstance(step, Exception):
            raise step
        return [step] * len(entries)

    def clear_numbers(self) -> list[int]:
        if isinstance(self.numbers, Exception):
            raise self.numbers
        return self.numbers or [0] * 16

    def cancel(self, ids: Sequence[str]) -> list[str]:
        return ["CONFIRMED"] * len(ids)


class FakeProducer:
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send_many(self, topic: str, items: Sequence[tuple[int, bytes, bytes | None]], on_done: Any) -> None:
        self.sent += [value for _, value, _ in items]
        for index in range(len(items)):
            on_done(index, index, None)


def submitter(backend: FakeBackend) -> tuple[Submitter, FakeProducer]:
    producer = FakeProducer()
    connections: Any = SimpleNamespace(backend=backend, kafka=SimpleNamespace(producer=producer, partitions=1),
                                       settings=SimpleNamespace(kafka_task_topic="t"))
    return Submitter(connections, ClearNumbers(connections)), producer


def prepared(count: int) -> list[Prepared]:
    return [Prepared(TaskMessage(id=f"i{n}", task="t", args=b"\x90", submitted_ms=1), 0, b"", None)
            for n in range(count)]


def test_what_was_cleared_meanwhile_is_stamped_and_produced_anew() -> None:
    submit, producer = submitter(FakeBackend("CLEARED", "DONE", numbers=[7] * 16))
    submit.submit(prepared(3), 1.0)
    assert len(producer.sent) == 6


def test_what_was_cleared_before_a_failure_is_told() -> None:
    """Its message will be thrown away by the workers: who is not told would wait for ever."""
    submit, _ = submitter(FakeBackend("CLEARED", RedisConnectionError()))
    with pytest.raises(TaskSubmissionTimeout) as caught:
        submit.submit(prepared(CHUNK + 1), 1.0)
    assert set(caught.value.task_ids) == {f"i{n}" for n in range(CHUNK + 1)}


def test_what_was_cleared_is_told_when_redis_then_goes_away() -> None:
    submit, _ = submitter(FakeBackend("CLEARED", numbers=RedisConnectionError()))
    with pytest.raises(TaskSubmissionTimeout) as caught:
        submit.submit(prepared(2), 1.0)
    assert set(caught.value.task_ids) == {"i0", "i1"}


class Interrupted(FakeBackend):
    """Ctrl-C comes while Redis is asked."""

    def submit(self, entries: Sequence[SubmitEntry], timeout_s: float) -> list[str]:
        raise KeyboardInterrupt


def test_ctrl_c_tells_the_ids_and_keeps_the_partitions() -> None:
    from yadtq.testing import InMemoryYADTQ
    with InMemoryYADTQ({"t": lambda: 1}) as client, client.paused():
        real, client._submitter = client._submitter, submitter(Interrupted())[0]
        with pytest.raises(KeyboardInterrupt) as caught:
            client.submit_tasks([{"task": "t"}] * 5)
        ids = caught.value.task_ids         # type: ignore[attr-defined]
        assert len(ids) == 5
        assert "5 submissions were broken off" in caught.value.__notes__[0]
        assert ids[0] in caught.value.__notes__[0]
        where = [client._partitioner._kept[one] for one in ids]
        assert where == [(where[0] + n) % 4 for n in range(5)]
        client._submitter = real
        assert client.submit_tasks([{"task": "t", "task_id": one} for one in ids]) == list(ids)
        assert not client._partitioner._kept


def test_a_wait_that_begins_while_the_client_closes_ends() -> None:
    """Between the check that the client is open and the entry into the table, close() may run to its end."""
    subscription = SimpleNamespace(get=lambda timeout_s: threading.Event().wait(0.01) or [], wake=lambda: None,
                                   close=lambda: None)
    backend: Any = SimpleNamespace(subscribe=lambda client_id: subscription, watch=lambda ids, client_id, timeout_s: [])
    waiter = Waiter(backend, SimpleNamespace(look=lambda *_: None), "c", 1.0)  # type: ignore[arg-type]
    start = waiter._start

    def start_and_lose_the_race() -> None:
        start()
        waiter.close(5)
    waiter._start = start_and_lose_the_race  # type: ignore[method-assign]
    sink = OneSink()
    waiter.begin(["a"], sink)
    assert sink.outcome is not None
    assert isinstance(sink.outcome.lost, ClientClosed)


@pytest.mark.parametrize(("number", "end", "delayed", "done"), [
    (5, 10, 20, True), (6, 10, 20, False), (5, 12, 20, False), (5, 10, 21, False)])
def test_a_clear_ends_its_own_intent_alone(number: int, end: int, delayed: int, done: bool) -> None:
    """Another one that was begun meanwhile, and whose caller died, is the janitor's to complete."""
    ended: list[PendingClear] = []
    backend = SimpleNamespace(
        raise_clear=lambda ends, delayed: [5] * 16, drop_cleared=lambda limit: 0, clear_done=ended.append,
        pending_clear=lambda: PendingClear((number,) * 16, {0: end}, {0: delayed}))
    admin = SimpleNamespace(ensure_topics=lambda: 1, end_offsets=lambda topic: {0: 10 if topic == "t" else 20},
                            close=lambda: None, delete_records=lambda topic, ends: None)
    connections: Any = SimpleNamespace(
        backend=backend, admin=lambda: admin, settings=SimpleNamespace(kafka_task_topic="t", kafka_delayed_topic="d"),
        waiter=SimpleNamespace(look_again=lambda: None))
    clear_all_tasks(connections, ClearNumbers(connections))
    assert bool(ended) is done
