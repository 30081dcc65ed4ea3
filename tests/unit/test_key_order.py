"""What lies claimed when Redis is restarted is claimed again, behind what was claimed since; a key keeps its order."""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from yadtq.task import TaskMessage
from yadtqd.held import Held
from yadtqd.processor import Processor

STARTED = "started"


class Worker:
    """A processor whose bodies only note that they begin, and a consumer that claims again one batch at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.processor: Any = Processor.__new__(Processor)
        self.again: list[Held] = []
        self.began: list[int] = []
        self.ledger = SimpleNamespace(round=1)
        self.processor._behind = {}
        self.processor._ledger = self.ledger
        self.processor._shared = SimpleNamespace(cells=[1 << 62])
        self.processor._lease_at = 0
        self.processor.writer = SimpleNamespace(heavy=lambda: False)
        self.processor.claim_again = self.again.extend
        monkeypatch.setattr(Processor, "_ended_before", lambda _, held: STARTED)
        monkeypatch.setattr(Processor, "_end_at_once", lambda _, held, how: self.began.append(held.offset))

    def run(self, *batch: Held) -> None:
        for held in batch:
            self.processor._one(held)

    def claimed_again(self) -> list[Held]:
        batch, self.again[:] = list(self.again), []
        for held in batch:
            held.claim_round = self.ledger.round
        return batch


def held(offset: int, round_: int, key: str | None = "k") -> Held:
    one = Held(0, offset, TaskMessage(id=str(offset), task="t", args=b"", submitted_ms=0, key=key), 1)
    one.claim_round = round_
    return one


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(monkeypatch)


def test_the_next_of_a_key_waits_for_the_one_before(worker: Worker) -> None:
    worker.run(held(1, round_=0), held(2, 0, key="other"), held(3, 1), held(4, 1, key=None), held(5, 1, key="third"))
    assert worker.began == [4, 5]
    worker.run(*worker.claimed_again())
    assert worker.began == [4, 5, 1, 2, 3]
    worker.run(held(6, 1), held(7, 1, key="other"))
    assert worker.began[-2:] == [6, 7]
    assert worker.processor._behind == {}


def test_what_needs_no_run_holds_up_nobody(worker: Worker) -> None:
    first, second = held(1, round_=0), held(2, round_=1)
    worker.run(first, second)
    assert worker.began == []
    worker.again.remove(first)
    first.settled_at = 5.0              # it had ended, says Redis: it does not come back
    worker.run(*worker.claimed_again())
    assert worker.began == [2]
    assert worker.processor._behind == {}


def test_a_second_restart_of_redis(worker: Worker) -> None:
    worker.run(held(1, round_=0), held(2, round_=1))
    worker.run(*[one for one in worker.claimed_again() if setattr(worker.ledger, "round", 2) is None])
    assert worker.began == []
    worker.run(*worker.claimed_again())
    assert worker.began == [1, 2]
