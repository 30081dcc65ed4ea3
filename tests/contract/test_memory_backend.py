"""The result backend in memory answers as the real one does, step by step, in what an in-memory queue can meet.

The same sequences of operations run against both; what they answer and what is read afterwards must be equal.
"""
from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from yadtq.config import Settings
from yadtq.memory_backend import MemoryBackend
from yadtq.records import ClaimEntry, FinishEntry, SubmitEntry
from yadtq.result_backend import ResultBackend
from yadtq.task import new_task_id

pytestmark = pytest.mark.integration

NOW_MS = int(time.time() * 1000)      # a submission of long ago is refused


@pytest.fixture
def real(settings: Settings) -> Iterator[ResultBackend]:
    backend = ResultBackend(settings)
    yield backend
    backend.close()


OPERATIONS = st.lists(st.one_of(
    st.tuples(st.just("submit"), st.just(0), st.just("")),
    st.tuples(st.just("claim"), st.integers(0, 2), st.sampled_from(["", "expired"])),
    st.tuples(st.just("started"), st.integers(0, 2), st.just("")),
    st.tuples(st.just("finish"), st.integers(0, 2), st.sampled_from(["OK", "KO", "R"])),
    st.tuples(st.just("cancel"), st.just(0), st.just("")),
    st.tuples(st.just("watch"), st.just(0), st.just("")),
    st.tuples(st.just("clear"), st.just(0), st.just("")),
), max_size=9)


def apply(backend: MemoryBackend | ResultBackend, task_id: str, g: int, operation: tuple[str, int, str]) -> object:
    kind, n, how = operation
    match kind:
        case "submit":
            return backend.submit([SubmitEntry(task_id, "addition", g, NOW_MS, 1)])
        case "claim":
            expires_ms = NOW_MS - 1 if how else None
            found = backend.claim(1, 1, [ClaimEntry(task_id, n, g, "addition", NOW_MS, expires_ms, 0, 5)], NOW_MS)[0]
            return found.answer, found.state
        case "started":
            return backend.started(1, 1, [(task_id, n, NOW_MS + 1)], "h/w0")
        case "finish":
            return backend.finish(1, 1, [FinishEntry(task_id, n, g, "addition", NOW_MS, how, 5, NOW_MS + 1, NOW_MS + 2,
                                                     b"result" if how == "OK" else b"",
                                                     b"error" if how == "KO" else b"")], "h/w0")
        case "cancel":
            return backend.cancel([task_id])
        case "watch":
            answer = backend.watch([task_id], "client")[0]
            return answer if isinstance(answer, str) or answer is None else shown(answer)
        case _:
            backend.raise_clear()
            return backend.drop_cleared(1000)


def shown(record: object) -> tuple[object, ...]:
    names = ("state", "attempt", "cancel_asked", "task", "submitted_ms", "worker", "shown", "result", "has_result")
    found = dict(zip(names, (getattr(record, name) for name in names), strict=True))
    ended = found["state"] in ("OK", "KO", "CX")
    if ended:
        found["cancel_asked"] = found["shown"] = None       # of no meaning any more
    return tuple(found.values())


@given(OPERATIONS)
@limits(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_answer_alike(real: ResultBackend, operations: list[tuple[str, int, str]]):
    real.raise_clear()
    while real.drop_cleared(1000):
        pass
    memory, task_id = MemoryBackend(), new_task_id()
    stamps = (real.clear_numbers()[0], 0)                   # the real one's numbers go on from example to example
    claimed = -1
    for step, operation in enumerate(operations):
        kind, n, _ = operation
        if (kind == "claim" and n <= claimed) or (kind in ("started", "finish") and n != claimed):
            continue                                        # one worker that never dies claims each attempt once
        answers = [apply(backend, task_id, stamps[which], operation)
                   for which, backend in enumerate((real, memory))]
        assert answers[0] == answers[1], f"step {step}: {operation}"
        if kind == "claim" and answers[1][0] == "RUN":
            claimed = n
        read = [backend.read([task_id])[0] for backend in (real, memory)]
        assert (read[0] is None) == (read[1] is None), f"after step {step}: {operation}"
        if read[0] is not None and read[1] is not None:
            assert shown(read[0]) == shown(read[1]), f"after step {step}: {operation}"


def test_pages_are_alike(real):
    memory = MemoryBackend()
    entries = [SubmitEntry(new_task_id(), "addition" if n % 3 else "echo", 0, NOW_MS + n // 4, n % 4,
                           group="import 17" if n % 2 else None)
               for n in range(40)]
    for backend in (real, memory):
        backend.submit(entries)
        for entry in entries[::5]:
            backend.claim(entry.partition, 1, [ClaimEntry(entry.id, 0, 0, entry.task, entry.submitted_ms)], NOW_MS)
            end = FinishEntry(entry.id, 0, 0, entry.task, entry.submitted_ms, "OK", 1, 1, 2, b"x")
            backend.finish(entry.partition, 1, [end], "h/w0")
    for states in (["Q"], ["OK"], ["Q", "OK", "P"]):
        for types in (None, ["echo"], ["echo", "addition"]):
            for newest_first in (False, True):
                for since_ms, until_ms in ((None, None), (NOW_MS + 2, NOW_MS + 5)):
                    for group in ("", "import 17", "none"):
                        walks = [walk(backend, states, types, since_ms, until_ms, newest_first, group)
                                 for backend in (real, memory)]
                        assert walks[0] == walks[1]
    for chosen in ((), (["echo"],), (None, "import 17")):
        assert real.counts(*chosen) == memory.counts(*chosen)


def walk(backend: MemoryBackend | ResultBackend, *arguments: object) -> list[tuple[str, str]]:
    states, types, since_ms, until_ms, newest_first, group = arguments
    found: list[tuple[str, str]] = []
    cursor: str | None = None
    while True:
        page, cursor = backend.page(states, types, cursor, 7, since_ms, until_ms, newest_first, group)
        found += page
        if cursor is None:
            return found
