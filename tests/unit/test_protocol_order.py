"""The orders of steps that the protocol demands of a worker (docs/protocol.md), each shown to be kept.

What the parts call is noted, in the order of the calls. That the orders are needed shows tests/model: with
`record_first` or `rewrite_first` off, something breaks.
"""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from yadtq.errors import RedisConnectionError
from yadtq.result_backend import FinishEntry
from yadtq.task import TaskMessage
from yadtqd.bookkeeper import Bookkeeper
from yadtqd.held import Held
from yadtqd.ledger import Ledger
from yadtqd.redis_gate import RedisGate
from yadtqd.result_writer import ResultWriter

NOBODY: Any = SimpleNamespace(count=lambda **_: None)


def ended(task_id: str, offset: int) -> Held:
    held = Held(0, offset, TaskMessage(id=task_id, task="t", args=b"\x90", submitted_ms=0), 1)
    held.end = FinishEntry(task_id, 0, 0, "t", 0, "KO", offset, 1, 2)
    return held


class Backend:
    """Fails so often as it is told to, then answers DONE."""

    def __init__(self, calls: list[str], failures: int) -> None:
        self._calls, self._failures = calls, failures

    def finish(self, _partition: int, _epoch: int, entries: list[FinishEntry], _worker: str) -> list[str]:
        if self._failures:
            self._failures -= 1
            self._calls.append("not recorded")
            raise RedisConnectionError("away")
        self._calls.append("recorded")
        return ["DONE"] * len(entries)

    def fence(self, _partition: int, epoch: int) -> int:
        self._calls.append("fenced")
        return epoch


def writer_of(calls: list[str], ledger: Ledger, gate: RedisGate, failures: int) -> ResultWriter:
    def publish(batch: list[Held]) -> None:
        calls.extend(f"{held.message.id} published" for held in batch)

    backend: Any = Backend(calls, failures)
    return ResultWriter(backend, ledger, gate, NOBODY, 1, "w", lambda _: None, publish, lambda _: None)


def test_what_follows_is_published_once_the_end_is_recorded_and_not_before() -> None:
    calls: list[str] = []
    ledger, gate = Ledger({0: 0}), RedisGate(lambda: None)
    writer = writer_of(calls, ledger, gate, failures=1)
    first, second = ended("a", 0), ended("b", 1)
    ledger.take([first, second])
    first.follow = SimpleNamespace(code="")         # type: ignore[assignment]     # whatever it is
    for held in (first, second):
        assert held.end is not None
        writer.add(held, held.end, 0)
    assert not writer.flush()
    gate.open()
    assert writer.flush()
    assert calls == ["not recorded", "recorded", "a published"]
    assert ledger.sweep(float("inf"))[0] == {}, "what follows `a` is not in Kafka yet"


@pytest.mark.parametrize("answer", ["CLEARED", "CANCELLED"])
def test_nothing_follows_what_was_cleared_or_cancelled(answer: str) -> None:
    calls: list[str] = []
    ledger = Ledger({0: 0})
    one = ended("a", 0)
    one.follow = SimpleNamespace(code="")           # type: ignore[assignment]     # whatever it is
    ledger.take([one])
    writer_of(calls, ledger, RedisGate(lambda: None), failures=0)._obey([one], [answer], ledger.round)
    assert calls == []
    assert ledger.sweep(float("inf"))[0] == {0: 1}


@pytest.mark.parametrize("goes_away", [False, True])
def test_after_a_restart_of_redis_all_ends_are_written_before_anything_is_claimed(goes_away: bool) -> None:
    calls: list[str] = []
    ledger, gate = Ledger({0: 0}), RedisGate(lambda: None)
    writer = writer_of(calls, ledger, gate, failures=0)
    ours, skipped = ended("a", 0), ended("b", 1)
    skipped.end = None
    ledger.take([ours, skipped])
    ledger.settle([ours, skipped], 1.0, ledger.round)
    writer = writer_of(calls, ledger, gate, failures=int(goes_away))
    gate.close(RedisConnectionError("restarted"))
    bookkeeper = object.__new__(Bookkeeper)         # of its many parts only those that mend
    parts: dict[str, Any] = {
        "_partitions": (0,), "_epoch": 1, "_backend": Backend(calls, 0), "_ledger": ledger, "_gate": gate,
        "_writer": writer, "_shown": set(), "_retry_at": 0.0, "_retry_s": 0.1,
        "_consumer": SimpleNamespace(claim_again=lambda batch: calls.append(f"{len(batch)} to be claimed")),
        "_durability": SimpleNamespace(look=lambda _: None, restarted=True,
                                       rewritten=lambda: calls.append("all is given back"))}
    vars(bookkeeper).update(parts)
    bookkeeper._mend(1.0)
    assert calls[:2] == ["fenced", "1 to be claimed"]       # ... by a consumer that waits at the gate
    if goes_away:
        assert calls[2:] == ["not recorded"]
        assert not gate.is_open, "then all of it is done once more, before anything is claimed"
    else:
        assert calls[2:] == ["recorded", "all is given back"]
        assert gate.is_open
