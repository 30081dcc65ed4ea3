"""The model of the protocol against the functions in a real Redis: call by call, and along its traces.

First, every call that the model makes in its short scenarios, each on a record planted for it. Then walks through the
model, each step of which is done in Redis as well (its calls through the result backend, a crash of Redis by putting
back what was on its disk): after each step Redis must hold what the model says. With tests/model/test_book.py and
tests/contract/test_redis_functions.py this keeps model, specification and product one.

All tasks lie in one shard, since the model has one. Every step's label names the task that its calls are about.
"""
from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator

import pytest
import redis

from tests.model.book import Book, Call
from tests.model.checker import check
from tests.model.delivery import Delivery, Scenario, State, Store
from tests.model.operations import End, Message, Record
from tests.model.redis_image import plant, read_back, set_shards
from tests.model.scenarios import FULL, SHORT
from yadtq.names import META_KEYS, shard_of
from yadtq.result_backend import SUBMIT_LIMIT_MS, ClaimEntry, FinishEntry, ResultBackend, SubmitEntry
from yadtq.shard_calls import call as shard_call

NOW_MS, TTL_S = 10_000, -1e10   # of the janitor: everything has ended long ago, and no tombstone is old
STEPS = 60                      # of a walk at most
WALKS = 8                       # of each scenario


def ids_in_one_shard() -> Iterator[str]:
    names = (f"task-{number}" for number in itertools.count())
    first = next(names)
    yield first
    yield from (name for name in names if shard_of(name) == shard_of(first))


IDS = list(itertools.islice(ids_in_one_shard(), 3))
SHARD = shard_of(IDS[0])


class RealRedis:
    """The calls of a book, done by the result backend."""

    def __init__(self, backend: ResultBackend, connection: redis.Redis) -> None:
        self._backend, self._connection = backend, connection

    def do(self, task_id: str, call: Call) -> str:
        """Make this call for a task; its word."""
        act = getattr(self, f"_{call.operation}")
        word: str = act(task_id, call, *call.arguments)
        return word

    def _submit(self, task_id: str, _: Call, g: int, late: bool, life: int) -> str:
        now = int(self._connection.time()[0]) * 1000
        t0 = now - 2 * SUBMIT_LIMIT_MS if late else now
        return self._backend.submit([SubmitEntry(task_id, "model", g, t0, 0, None, life)])[0]

    def _claim(self, task_id: str, call: Call, m: Message) -> str:
        entry = ClaimEntry(task_id, m.n, m.g, m.k, m.t0, 10 if m.expired else None, m.replay, m.o)
        answer = self._backend.claim(*call.token, [entry], 2000)[0]
        return "SUSPECT" if answer.suspect else answer.answer

    def _finish(self, task_id: str, call: Call, m: Message, end: End) -> str:
        entry = FinishEntry(task_id, m.n, m.g, m.k, m.t0, end.how, m.o, end.t1, end.t2, end.r, end.f, m.replay, None)
        return self._backend.finish(*call.token, [entry], end.w)[0]

    def _cancel(self, task_id: str, _: Call) -> str:
        return self._backend.cancel([task_id])[0]

    def _expire(self, task_id: str, _: Call, committed: tuple[int, ...]) -> str:
        before = read_back(self._connection, [task_id])
        self._backend.expire(NOW_MS, TTL_S, dict(enumerate(committed)), 100_000)
        return "KEPT" if read_back(self._connection, [task_id]) == before else "BURIED"


def plain(record: Record | None) -> Record | None:
    """Without what Redis took from its clock, and the text of the error of what waited too long."""
    return None if record is None else record._replace(t0=0, t2=0, f=b"", k="")


def compare(connection: redis.Redis, book: Book, store: Store, why: str) -> None:
    """Does Redis hold what the model says?"""
    ids = IDS[:len(store.records)]
    got = read_back(connection, ids)
    for task_id, number in zip(ids, store.records, strict=True):
        assert plain(got[task_id]) == plain(book.records[number]), f"{why}: {task_id}"
    meta = connection.hgetall(META_KEYS[SHARD])
    assert int(meta.get(b"g", 0)) == store.gen, why
    assert [int(meta.get(b"f:%d" % p, 0)) for p in range(len(store.fences))] == list(store.fences), why


def put_back(connection: redis.Redis, book: Book, store: Store) -> None:
    """Redis was restarted, and is as it was then."""
    connection.flushdb()
    set_shards(connection, store.gen, dict(enumerate(store.fences)))
    plant(connection, {IDS[task]: book.records[number] for task, number in enumerate(store.records)})


# ---- call by call ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scenario", SHORT, ids=lambda scenario: scenario.name)
def test_every_call(connection: redis.Redis, backend: ResultBackend, scenario: Scenario) -> None:
    model = Delivery(scenario)
    assert check(model).held
    book, real = model.setting.book, RealRedis(backend, connection)
    assert book.calls
    for call, answer in book.calls.items():
        partition = call.token.p
        before, after = (Store((number,), (0,) * partition + (fence,), call.gen)
                         for number, fence in ((call.record, call.fence), (answer.record, answer.fence)))
        put_back(connection, book, before)
        assert real.do(IDS[0], call) == answer.word, call
        compare(connection, book, after, str(call))


# ---- along traces ----------------------------------------------------------------------------------------------------
class Walk:
    """One way through a model, gone in Redis as well."""

    def __init__(self, scenario: Scenario, backend: ResultBackend, connection: redis.Redis, seed: str) -> None:
        self._model, self._backend, self._connection = Delivery(scenario), backend, connection
        self._book, self._real = self._model.setting.book, RealRedis(backend, connection)
        self._random, self._seed = random.Random(seed), seed
        self._state = self._model.start()
        self._trace: list[str] = []

    def go(self) -> int:
        """Take steps until there are none; how many."""
        put_back(self._connection, self._book, self._state.redis)
        while len(self._trace) < STEPS:
            options = list(self._options())
            if not options:
                break
            label, after, calls = self._random.choice(options)
            self._trace.append(label)
            why = f"seed {self._seed}:\n" + "\n".join(self._trace)
            self._follow(label, after, calls, why)
            compare(self._connection, self._book, after.redis, why)
            self._state = after
        return len(self._trace)

    def _options(self) -> Iterator[tuple[str, State, list[Call]]]:
        """The steps that are possible now, each with the calls that it makes."""
        self._book.made = []
        for label, _, after in self._model.steps(self._state):
            yield label, after, self._book.made
            self._book.made = []

    def _follow(self, label: str, after: State, calls: list[Call], why: str) -> None:
        task = re.search(r"task(\d)", label)
        for call in calls:
            assert task is not None, label
            assert self._real.do(IDS[int(task[1])], call) == self._book.calls[call].word, why
        before = self._state.redis
        if calls or after.redis == before:
            return
        if after.redis.gen > before.gen:
            self._backend.redis.run([shard_call("raise_clear", SHARD, (after.redis.gen,), (b"",))])
        elif label.startswith("clear: drops"):
            while self._backend.drop_cleared():
                pass
        elif ": fences" in label:
            for p, (old, new) in enumerate(zip(before.fences, after.redis.fences, strict=True)):
                assert old == new or self._backend.fence(p, new) == new, why
        else:                                   # Redis was restarted, or a record was dropped when its time had come
            assert label.startswith(("FAULT: redis", "redis: the record of")), label
            put_back(self._connection, self._book, after.redis)


SCENARIOS = [scenario for scenario in (*SHORT, *FULL) if not (scenario.tasks > 1 and scenario.budget.expire)]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_walks(connection: redis.Redis, backend: ResultBackend, scenario: Scenario) -> None:
    steps = sum(Walk(scenario, backend, connection, f"{scenario.name}/{number}").go() for number in range(WALKS))
    assert steps > 10 * WALKS
