"""The functions that run in a real Redis against the model of the protocol, record by record and input by input.

Shows: for every record that can exist and every input that can come, Redis writes exactly the record that the model
says, gives its answer, and lists the task in exactly one index of its type and one of its group. Then: sequences of
operations on a couple of tasks, batches and copies among them, end as in the model, with the same pushes. The model
itself is tests/model/operations.py.
"""
from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model import operations as model
from tests.model.operations import End, Message, Record, Shard, Token
from tests.model.redis_image import index_entries, index_keys, plant, read_back, set_shards
from yadtq.names import SHARDS, shard_of
from yadtq.result_backend import ClaimEntry, FinishEntry, ResultBackend, SubmitEntry
from yadtq.shard_calls import call

ME = Token(0, 2)
CLOCK = 0                               # stands for a time that Redis chose
TOKENS = [(0, 1), (0, 2), (0, 3), (1, 2)]


def reachable_records() -> list[Record | None]:
    """Every record that the protocol can leave behind, as far as an operation can tell two apart."""
    found: list[Record | None] = [None]
    for a, x, g, replay in itertools.product((0, 1, 2), (False, True), (0, 1), (0, 1)):
        waiting = Record("Q", a, 1, None, x, g, "addition", 500, u=("c1", "c2"), replay=replay, seen=1, lone=2,
                         group="nightly" if (a + x + replay) % 2 else "")
        found += [waiting, waiting._replace(s="R", shown="R", f=b"why", w="h/w9", t1=510, due=900)]
        found += [found[-1]._replace(p=0), found[-1]._replace(p=0, due=5000)]       # type: ignore[union-attr]
        if a == 0:
            found.append(waiting._replace(s="S", shown="S", due=900))
        for p, e in TOKENS:
            claimed = waiting._replace(s="P", p=p, e=e)
            found += [claimed, claimed._replace(shown="P", t1=510, w="h/w9")]
            done = claimed._replace(w="h/w9", t1=510, t2=520, o=7, u=())
            found += [done._replace(s="OK", shown="OK", r=b"\x05"), done._replace(s="KO", shown="KO", f=b"why"),
                      done._replace(s="OK", shown="Z", k="", w="", group="")]
        cancelled = waiting._replace(s="CX", shown="CX", t2=520, u=())
        found += [cancelled, cancelled._replace(o=3)]
    found += [Record("X", x=True, g=g, t0=500, shown="X") for g in (0, 1)]
    return found


def same(got: Record | None, wanted: Record | None) -> bool:
    """Equal, but for times that Redis took from its own clock."""
    if got is not None and wanted is not None:
        if wanted.t2 == CLOCK and wanted.s == "CX":
            got = got._replace(t2=CLOCK)
        if wanted.t0 == CLOCK and wanted.s == "X":
            got = got._replace(t0=CLOCK)
    return got == wanted


Case = tuple[Record | None, Any]        # a record, and the rest of the input


def compare(connection: redis.Redis, gen: int, fence: int, cases: Sequence[Case],
            act: Callable[[list[str], list[Any]], list[str]], expect: Callable[[Shard, Case], model.Outcome]) -> None:
    """Run all cases in one batch and compare records, answers and indexes."""
    if fence > ME.e:
        cases = cases[::23]                 # all answers are STALE and nothing changes: a sample is enough
    connection.flushdb()
    set_shards(connection, gen, {0: fence})
    ids = [f"case-{number:06d}" for number in range(len(cases))]
    plant(connection, dict(zip(ids, (record for record, _ in cases), strict=True)))
    answers = act(ids, [rest for _, rest in cases])
    got, indexes = read_back(connection, ids), index_entries(connection)
    for task_id, case, answer in zip(ids, cases, answers, strict=True):
        shard = Shard(gen, {0: fence})
        wanted, word = expect(shard, case)
        assert answer == word, (gen, fence, case)
        assert same(got[task_id], wanted), f"{gen}, {fence}, {case}\n got    {got[task_id]}\n wanted {wanted}"
        listed = {key for key in indexes.get(task_id, set()) if int(key.split(":")[3]) >= gen}
        live = shard.live(wanted)
        assert listed == (index_keys(task_id, live) if live is not None else set()), (gen, fence, case)


def messages() -> Iterator[Message]:
    for n, g, replay, expired in itertools.product((0, 1, 2), (0, 1), (0, 1), (False, True)):
        yield Message(n, g, "addition", 500, replay, expired, 7, "other" if n == 1 else "")


SITUATIONS = list(itertools.product((0, 1), (1, 2, 3)))             # clear number, fence; the epoch that acts is 2


@pytest.mark.parametrize(("gen", "fence"), SITUATIONS)
def test_claim(connection: redis.Redis, backend: ResultBackend, gen: int, fence: int) -> None:
    cases = [(record, m._replace(stays=stays)) for record in reachable_records() for m in messages()
             for stays in (False, True)]

    def act(ids: list[str], inputs: list[Message]) -> list[str]:
        entries = [ClaimEntry(i, m.n, m.g, m.k, m.t0, 10 if m.expired else None, m.replay, m.o, m.group or None,
                              m.stays)
                   for i, m in zip(ids, inputs, strict=True)]
        answers = backend.claim(*ME, entries, 2000)
        for (record, m), claim in zip(cases, answers, strict=fence <= ME.e):
            if claim.answer == "SETTLE":
                wanted = model.claim(Shard(gen, {0: fence}), record, ME, m)[0]
                assert wanted is not None
                assert (claim.state, claim.seen, claim.lone) == (wanted.s, wanted.seen, wanted.lone)
            if claim.suspect:
                assert (claim.seen, claim.lone) == (1, 2)
            later = m.stays and record is not None and record.a > m.n and claim.answer in ("RUN", "WAIT")
            later = later and record.g >= gen and record.replay == m.replay          # type: ignore[union-attr]
            if claim.answer == "WAIT":
                assert record is not None
                assert (claim.attempt, claim.due_ms) == (record.a, record.due)
            else:
                assert claim.attempt == (record.a if later else -1)                  # type: ignore[union-attr]
        return ["SUSPECT" if claim.suspect else claim.answer for claim in answers]

    error = expired_error()
    compare(connection, gen, fence, cases, act,
            lambda shard, case: model.claim(shard, case[0], ME, case[1], 2000, error))


@pytest.mark.parametrize(("gen", "fence"), SITUATIONS)
def test_finish(connection: redis.Redis, backend: ResultBackend, gen: int, fence: int) -> None:
    ends = [End("OK", r=b"\x2a"), End("KO", f=b"error"), End("R", f=b"soon", due=4000)]
    if fence == 1:
        ends += [End("OK", r=b"x" * 5000), End("CX")]
    inputs_of_all = list(itertools.product((m for m in messages() if not m.expired), ends))
    cases = [(record, inputs) for record in reachable_records() for inputs in inputs_of_all]

    def act(ids: list[str], inputs: list[tuple[Message, End]]) -> list[str]:
        entries = [FinishEntry(i, m.n, m.g, m.k, m.t0, end.how, m.o, end.t1, end.t2, end.r, end.f, m.replay,
                               None if end.due < 0 else end.due, m.group or None)
                   for i, (m, end) in zip(ids, inputs, strict=True)]
        return backend.finish(*ME, entries, "host/w1")

    compare(connection, gen, fence, cases, act, lambda shard, case: model.finish(shard, case[0], ME, *case[1]))


@pytest.mark.parametrize(("gen", "fence"), SITUATIONS)
def test_started(connection: redis.Redis, backend: ResultBackend, gen: int, fence: int) -> None:
    cases = [(record, n) for record in reachable_records() for n in (0, 1, 2)]

    def act(ids: list[str], inputs: list[int]) -> list[str]:
        return backend.started(*ME, [(i, n, 1500) for i, n in zip(ids, inputs, strict=True)], "host/w1")

    compare(connection, gen, fence, cases, act,
            lambda shard, case: model.started(shard, case[0], ME, case[1], 1500, "host/w1"))


@pytest.mark.parametrize("gen", [0, 1])
def test_submit(connection: redis.Redis, backend: ResultBackend, gen: int) -> None:
    now = int(time.time() * 1000)
    cases = [(record, inputs) for record in reachable_records()
             for inputs in itertools.product((0, 1), (now, now - 7_200_000), (-1, now + 50_000), (0, 1, 2),
                                            ("", "other"))]

    def act(ids: list[str], inputs: list[tuple[int, int, int, int, str]]) -> list[str]:
        return backend.submit([SubmitEntry(i, "addition", g, t0, 3, None if due < 0 else due, replay, group or None)
                               for i, (g, t0, due, replay, group) in zip(ids, inputs, strict=True)])

    def expect(shard: Shard, case: Case) -> model.Outcome:
        g, t0, due, replay, group = case[1]
        return model.submit(shard, case[0], g, "addition", t0, 3, due, late=t0 < now, replay=replay, group=group)

    compare(connection, gen, 0, cases, act, expect)


@pytest.mark.parametrize("gen", [0, 1])
def test_cancel(connection: redis.Redis, backend: ResultBackend, gen: int) -> None:
    cases = [(record, None) for record in reachable_records()]
    compare(connection, gen, 0, cases, lambda ids, _: backend.cancel(ids),
            lambda shard, case: model.cancel(shard, case[0], CLOCK))


@pytest.mark.parametrize("gen", [0, 1])
def test_watch(connection: redis.Redis, backend: ResultBackend, gen: int) -> None:
    crowd = tuple(f"other{number}" for number in range(64))
    records = reachable_records()
    records += [record._replace(u=crowd) for record in records if record is not None and record.u]
    cases = [(record, client) for record in records for client in ("c2", "mine")]

    def act(ids: list[str], inputs: list[str]) -> list[str]:
        answers = [""] * len(ids)
        for client in ("c2", "mine"):
            chosen = [number for number, one in enumerate(inputs) if one == client]
            for number, found in zip(chosen, backend.watch([ids[n] for n in chosen], client), strict=True):
                if found is None or isinstance(found, str):
                    answers[number] = "UNKNOWN" if found is None else "WAITING"
                else:
                    answers[number] = "ENDED" if found.state in model.ENDS else "FULL"
        return answers

    compare(connection, gen, 0, cases, act, lambda shard, case: model.watch(shard, *case))


@pytest.mark.parametrize(("gen", "fence"), SITUATIONS)
def test_lone_runs(connection: redis.Redis, backend: ResultBackend, gen: int, fence: int) -> None:
    records = [record for record in reachable_records() if record is None or record.replay == 0]
    cases = [(record, inputs) for record in records for inputs in itertools.product((0, 1), ("begin", "end", "crash"))]

    def act(ids: list[str], inputs: list[tuple[int, str]]) -> list[str]:
        answers = []
        for task_id, (n, what) in zip(ids, inputs, strict=True):
            got = (backend.lone_begin(*ME, task_id, n) if what == "begin"
                   else backend.lone_end(*ME, task_id, n, what == "crash"))
            answers.append("DONE" if got is not None else "LATE")
        return answers

    def expect(shard: Shard, case: Case) -> model.Outcome:
        record, answer = model.lone(shard, case[0], ME, *case[1])
        return record, "LATE" if answer == "STALE" else answer

    compare(connection, gen, fence, cases, act, expect)


@pytest.mark.parametrize("gen", [0, 1])
def test_expire(connection: redis.Redis, backend: ResultBackend, gen: int) -> None:
    cases = [(record, None) for record in reachable_records()]
    now, cut = 100_000, 520
    for committed in ({0: 8}, {0: 7, 1: 9}, {}):
        def act(ids: list[str], _: list[None], committed: dict[int, int] = committed) -> list[str]:
            before = read_back(connection, ids)
            while backend.expire(now, (now - cut) / 1000, committed, 100_000):
                pass
            after = read_back(connection, ids)
            return ["BURIED" if before[i] != after[i] else "KEPT" for i in ids]

        def expect(shard: Shard, case: Case, committed: dict[int, int] = committed) -> model.Outcome:
            record, answer = model.expire(shard, case[0], cut, committed)
            if record is not None and record.s == "X" and record.g >= shard.gen and record.t0 <= cut:
                return None, "BURIED"                                # a wish for a task that never came
            return record, answer

        compare(connection, gen, 0, cases, act, expect)


def expired_error() -> bytes:
    from yadtq.errors import TaskExpired
    from yadtq.task_error import TaskError, encode_error

    return encode_error(TaskError(TaskExpired.code, TaskExpired().message))


# ---- sequences -------------------------------------------------------------------------------------------------------
TASKS = ["task-0", "task-1"]           # few, so that the steps of a sequence meet
MOSTLY_0 = st.sampled_from([0, 0, 0, 0, 1])
ANY_TASK, ANY_TOKEN = st.sampled_from(TASKS), st.builds(Token, MOSTLY_0, st.sampled_from([1, 2, 2, 2, 3]))
A_MESSAGE = st.builds(Message, n=st.sampled_from([0, 0, 1, 1, 2]), g=MOSTLY_0, k=st.just("addition"), t0=st.just(1000),
                      replay=MOSTLY_0, expired=MOSTLY_0.map(bool), o=st.integers(0, 9), stays=MOSTLY_0.map(bool),
                      group=st.sampled_from(["", "nightly", "other"]))
AN_END = st.sampled_from([End("OK", r=b"\x07"), End("OK", r=b"y" * 4097), End("KO", f=b"no"), End("CX"),
                          End("R", f=b"again")])
SUBMISSIONS = st.lists(st.tuples(ANY_TASK, MOSTLY_0, MOSTLY_0), min_size=1, max_size=2, unique_by=lambda one: one[0])
STEP = st.one_of(
    st.tuples(st.just("submit"), SUBMISSIONS),
    st.tuples(st.just("claim"), ANY_TOKEN, st.lists(st.tuples(ANY_TASK, A_MESSAGE), min_size=1, max_size=4)),
    st.tuples(st.just("started"), ANY_TOKEN, ANY_TASK, st.integers(0, 2)),
    st.tuples(st.just("finish"), ANY_TOKEN, st.lists(st.tuples(ANY_TASK, A_MESSAGE, AN_END), min_size=1, max_size=3)),
    st.tuples(st.just("cancel"), ANY_TASK),
    st.tuples(st.just("watch"), ANY_TASK, st.sampled_from(["c1", "c2"])),
    st.tuples(st.just("lone"), ANY_TOKEN, ANY_TASK, st.integers(0, 1), st.sampled_from(["begin", "end", "crash"])),
    st.tuples(st.just("clear")),
)


class Run:
    """One sequence, in Redis and in the model at once."""

    def __init__(self, backend: ResultBackend) -> None:
        self.backend = backend
        self.records: dict[str, Record | None] = dict.fromkeys(TASKS)
        self.shards = {task: Shard() for task in TASKS}         # each task lies in a shard of its own
        self.pushed: dict[str, list[tuple[str, str, int]]] = {"c1": [], "c2": []}

    def apply(self, task: str, outcome: model.Outcome) -> str:
        before, (after, answer) = self.records[task], outcome
        if before is not None and after is not None and after.ended and not before.ended and answer != "STALE":
            for client in before.u if before.g >= self.shards[task].gen else ():
                self.pushed[client].append((task, after.s, after.a))
        self.records[task] = after
        return answer

    def step(self, step: tuple[Any, ...]) -> None:
        getattr(self, step[0])(*step[1:])

    def submit(self, entries: list[tuple[str, int, int]]) -> None:
        now = int(time.time() * 1000)
        group = "nightly" if len(entries) == 2 else ""
        got = self.backend.submit([SubmitEntry(t, "addition", g, now, 0, replay=replay, group=group or None)
                                   for t, g, replay in entries])
        assert got == [self.apply(t, model.submit(self.shards[t], self.records[t], g, "addition", now, 0, replay=r,
                                                  group=group)) for t, g, r in entries]

    def claim(self, token: Token, entries: list[tuple[str, Message]]) -> None:
        got = self.backend.claim(*token, [ClaimEntry(t, m.n, m.g, m.k, m.t0, 5 if m.expired else None, m.replay, m.o,
                                                     m.group or None, m.stays)
                                          for t, m in entries], 2000)
        words = ["SUSPECT" if one.suspect else one.answer for one in got]
        assert words == [self.apply(t, model.claim(self.shards[t], self.records[t], token, m, 2000, expired_error()))
                         for t, m in entries]

    def started(self, token: Token, task: str, n: int) -> None:
        got = self.backend.started(*token, [(task, n, 1500)], "host/w1")
        outcome = model.started(self.shards[task], self.records[task], token, n, 1500, "host/w1")
        assert got == [self.apply(task, outcome)]

    def finish(self, token: Token, entries: list[tuple[str, Message, End]]) -> None:
        got = self.backend.finish(*token, [
            FinishEntry(t, m.n, m.g, m.k, m.t0, end.how, m.o, end.t1, end.t2, end.r, end.f, m.replay,
                        group=m.group or None)
            for t, m, end in entries], "host/w1")
        assert got == [self.apply(t, model.finish(self.shards[t], self.records[t], token, m, end))
                       for t, m, end in entries]

    def cancel(self, task: str) -> None:
        outcome = model.cancel(self.shards[task], self.records[task], CLOCK)
        assert self.backend.cancel([task]) == [self.apply(task, outcome)]

    def watch(self, task: str, client: str) -> None:
        answer = self.apply(task, model.watch(self.shards[task], self.records[task], client))
        got = self.backend.watch([task], client)[0]
        assert (got == "waiting") == (answer == "WAITING")
        assert (got is None) == (answer == "UNKNOWN")

    def lone(self, token: Token, task: str, n: int, what: str) -> None:
        answer = self.apply(task, model.lone(self.shards[task], self.records[task], token, n, what))
        got = (self.backend.lone_begin(*token, task, n) if what == "begin"
               else self.backend.lone_end(*token, task, n, what == "crash"))
        assert (got is not None) == (answer == "DONE")

    def clear(self) -> None:
        if max(shard.gen for shard in self.shards.values()) == 0:
            self.backend.redis.run([call("raise_clear", shard, (1,), (b"",)) for shard in range(SHARDS)])
            for shard in self.shards.values():
                shard.gen += 1


@given(st.lists(STEP, min_size=12, max_size=40))
@settings(max_examples=150, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_sequences(connection: redis.Redis, backend: ResultBackend, steps: list[tuple[Any, ...]]) -> None:
    connection.flushdb()
    assert len({shard_of(task) for task in TASKS}) == len(TASKS), "the model gives each task a shard of its own"
    run = Run(backend)
    readers = {client: backend.subscribe(client) for client in run.pushed}
    try:
        for step in steps:
            run.step(step)
        for task, got in read_back(connection, TASKS).items():
            assert same(got, run.records[task]), f"{task}\n got    {got}\n wanted {run.records[task]}"
        for client, reader in readers.items():
            assert drain(reader, len(run.pushed[client])) == sorted(run.pushed[client])
    finally:
        for reader in readers.values():
            reader.close()


def drain(reader: Any, count: int) -> list[tuple[str, str, int]]:
    """Everything that was pushed; waits only for as many as there must be."""
    found: list[tuple[str, str, int]] = []
    deadline = time.monotonic() + 0.5
    while len(found) < count and time.monotonic() < deadline:
        found += [push[:3] for push in reader.get(0.2) or []]
    return sorted(found + [push[:3] for push in reader.get(0.0) or []])
