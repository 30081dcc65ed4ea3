"""Short ways to submit, finish and read tasks through a result backend, for the contract tests."""
from __future__ import annotations

import time

from yadtq.names import shard_of
from yadtq.records import TaskRecordRaw
from yadtq.result_backend import FinishEntry, ResultBackend, SubmitEntry
from yadtq.task import new_task_id

NOW = int(time.time() * 1000)


def submit(backend: ResultBackend, count: int, *, task: str = "addition", at: int = NOW, step: int = 0,
           group: str | None = None) -> list[str]:
    ids = [new_task_id() for _ in range(count)]
    g = backend.clear_numbers()
    entries = [SubmitEntry(i, task, g[shard_of(i)], at + n * step, 0, group=group) for n, i in enumerate(ids)]
    assert set(backend.submit(entries)) == {"DONE"}
    return ids


def finish(backend: ResultBackend, ids: list[str], how: str = "OK", *, offset: int = 5, ended_ms: int = NOW + 3,
           result: bytes = b"\x05", error: bytes = b"", epoch: int = 1) -> None:
    g = backend.clear_numbers()
    entries = [FinishEntry(i, 0, g[shard_of(i)], "addition", NOW, how, offset, NOW + 1, ended_ms, result, error)
               for i in ids]
    assert set(backend.finish(0, epoch, entries, "host/w1")) <= {"DONE"}


def one(backend: ResultBackend, task_id: str) -> TaskRecordRaw:
    record = backend.read([task_id])[0]
    assert record is not None
    return record
