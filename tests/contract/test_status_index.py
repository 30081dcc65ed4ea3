"""The status index on a real Redis: pages, clearing, expiry."""
from __future__ import annotations

import time

import pytest
import redis

from tests.contract.backend_support import NOW, finish, one, submit
from tests.model.operations import Record
from tests.model.redis_image import index_entries, plant
from yadtq.names import META_KEYS, SHARDS, shard_of
from yadtq.records import SHOWN_STATES
from yadtq.result_backend import ClaimEntry, ResultBackend, SubmitEntry
from yadtq.status_index import KEEP_MS
from yadtq.task import new_task_id


# ---- the index -------------------------------------------------------------------------------------------------------
def pages(backend: ResultBackend, states: list[str], limit: int, types: list[str] | None = None, *,
          newest: bool = False, since: int | None = None, until: int | None = None) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    cursor: str | None = None
    while True:
        page, cursor = backend.page(states, types, cursor, limit, since, until, newest)
        assert len(page) <= limit
        found += page
        if cursor is None:
            return found
        assert page, "a page with a cursor is never empty"


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize("limit", [1, 10, 1000])
def test_pages_list_every_task_once_in_order(backend: ResultBackend, newest: bool, step: int, limit: int) -> None:
    count = 60 if limit == 1 else 600
    a = submit(backend, count, step=step)
    b = submit(backend, count // 2, task="division", step=step)
    finish(backend, a[::3])
    finish(backend, b[::4], "KO")
    order = sorted([(NOW + n * step, i) for ids in (a, b) for n, i in enumerate(ids)], reverse=newest)
    listed = pages(backend, list(SHOWN_STATES), limit, newest=newest)
    assert [task_id for task_id, _ in listed] == [task_id for _, task_id in order]
    state = dict.fromkeys(a, "Q") | dict.fromkeys(b, "Q") | dict.fromkeys(a[::3], "OK") | dict.fromkeys(b[::4], "KO")
    assert dict(listed) == state
    if limit > 1:
        assert {i for i, _ in pages(backend, ["KO"], limit)} == set(b[::4])
        assert {i for i, _ in pages(backend, ["Q", "OK"], limit, ["addition"], newest=newest)} == set(a)
        if step:
            since, until = NOW + 100 * step, NOW + 150 * step
            inside = [i for at, i in order if since <= at <= until]
            found = pages(backend, list(SHOWN_STATES), limit, newest=newest, since=since, until=until)
            assert [task_id for task_id, _ in found] == inside


def test_a_walk_sees_every_task_once_while_they_move(backend: ResultBackend) -> None:
    ids = submit(backend, 2000, step=1)
    seen: list[str] = []
    cursor: str | None = None
    moved = 0
    while True:
        page, cursor = backend.page(list(SHOWN_STATES), None, cursor, 100)
        seen += [task_id for task_id, _ in page]
        finish(backend, ids[moved:moved + 150])
        moved += 150
        if cursor is None:
            break
    assert seen == ids


def test_a_bad_cursor_or_state_is_refused(backend: ResultBackend) -> None:
    for cursor in ("x", "", "????", "AAAA"):
        with pytest.raises(ValueError, match="cursor"):
            backend.page(["OK"], after=cursor)
    with pytest.raises(ValueError, match="state"):
        backend.page(["SUCCESS"])


# ---- clearing --------------------------------------------------------------------------------------------------------
def test_clear_hides_everything_at_once_and_drops_it_in_steps(backend: ResultBackend, connection: redis.Redis) -> None:
    old = submit(backend, 3000)
    finish(backend, old[:1000], result=b"x" * 5000)
    backend.cancel([new_task_id()])
    numbers = backend.raise_clear({0: 17, 1: 4}, {8: 3})
    assert numbers == backend.clear_numbers() == [numbers[0]] * SHARDS
    assert backend.read(old) == [None] * 3000
    assert sum(backend.counts().values()) == 0
    new = submit(backend, 100)
    again = backend.submit([SubmitEntry(i, "addition", numbers[0], NOW, 0) for i in old[:50]])  # same ids, a new life
    assert set(again) == {"DONE"}
    pending = backend.pending_clear()
    assert pending is not None
    assert pending.offsets == {0: 17, 1: 4}
    assert pending.delayed == {8: 3}
    steps = []
    while (dropped := backend.drop_cleared(320)) > 0:
        steps.append(dropped)
    assert max(steps) <= 320 + SHARDS
    assert sum(steps) == 2950
    backend.clear_done(pending)
    assert backend.pending_clear() is None
    assert backend.counts()["Q"] == 150
    assert {state for _, state in pages(backend, ["Q"], 100)} == {"Q"}
    assert len(list(connection.scan_iter("yadtq:*:t:*"))) == 150
    assert not list(connection.scan_iter("yadtq:*:v:*"))
    assert set(index_entries(connection)) == {*new, *old[:50]}


def test_a_clear_that_broke_off_is_completed_by_whoever_looks(backend: ResultBackend, connection: redis.Redis) -> None:
    submit(backend, 100)
    backend.raise_clear({0: 9})
    for key in META_KEYS[5:]:
        connection.hset(key, "g", 0)                                   # as if the caller had died in between
    pending = backend.pending_clear()
    assert pending is not None
    assert backend.clear_numbers() == list(pending.numbers)
    assert min(pending.numbers) > 0


def test_a_clear_reaches_what_was_stamped_by_a_redis_that_was_wiped_since(
        backend: ResultBackend, connection: redis.Redis) -> None:
    """A client remembers the clear numbers, and the wipe set them back to 0."""
    stale = backend.raise_clear()
    connection.flushdb()
    task = new_task_id()
    assert backend.submit([SubmitEntry(task, "addition", stale[0], NOW, 0)]) == ["DONE"]
    time.sleep(1.1)
    backend.raise_clear()
    assert backend.read([task]) == [None]


def test_clears_in_one_second_all_count(backend: ResultBackend) -> None:
    numbers = [backend.raise_clear()[0] for _ in range(5)]
    assert numbers == sorted(set(numbers))


def test_a_repeated_raise_raises_once(backend: ResultBackend) -> None:
    from yadtq.shard_calls import call

    backend.redis.run([call("raise_clear", 3, (5,), (b"",))] * 3)
    assert backend.clear_numbers()[3] == 5


def test_an_older_intent_does_not_end_a_newer_one(backend: ResultBackend) -> None:
    backend.raise_clear({0: 1})
    first = backend.pending_clear()
    backend.raise_clear({0: 2})
    assert first is not None
    backend.clear_done(first)
    second = backend.pending_clear()
    assert second is not None
    assert second.offsets == {0: 2}


# ---- expiry ----------------------------------------------------------------------------------------------------------
def expire_all(backend: ResultBackend, now: int, ttl_s: float, committed: dict[int, int]) -> int:
    done, idle = 0, 0
    while idle < 3:                                                    # it walks on from where it stopped
        step = backend.expire(now, ttl_s, committed, 320)
        done, idle = done + step, 0 if step else idle + 1
    return done


def test_expiry_takes_the_value_then_the_tombstone(backend: ResultBackend, connection: redis.Redis) -> None:
    ids = submit(backend, 500)
    finish(backend, ids, result=b"x" * 5000)
    queued = submit(backend, 20)
    later = NOW + 3_600_000
    assert expire_all(backend, later, 3600, {0: 5}) == 0               # offset 5 is not yet committed
    assert expire_all(backend, later, 3601, {0: 6}) == 0               # too young
    assert expire_all(backend, later, 3000, {1: 99}) == 0              # another partition
    assert expire_all(backend, later, 3000, {0: 6}) == 500
    record = one(backend, ids[0])
    assert (record.state, record.expired, record.has_result, record.result) == ("OK", True, False, None)
    assert backend.counts() == dict.fromkeys(SHOWN_STATES, 0) | {"Q": 20}
    assert backend.claim(0, 2, [ClaimEntry(ids[0], 0, 0, "addition", NOW)], NOW)[0].answer == "SETTLE"
    assert expire_all(backend, later + KEEP_MS - 1, 3000, {0: 6}) == 0
    assert expire_all(backend, later + KEEP_MS, 3000, {0: 6}) == 500
    assert backend.read(ids) == [None] * 500
    left = {key.decode().split(":")[3] for key in connection.scan_iter("yadtq:*:t:*")}
    assert left == set(queued)
    assert not list(connection.scan_iter("yadtq:*:v:*"))


def test_expiry_looks_into_the_shards_it_is_told_to(backend: ResultBackend) -> None:
    ids = submit(backend, 100)
    finish(backend, ids)
    mine = [task for task in ids if shard_of(task) in (2, 9)]
    done = sum(backend.expire(NOW + 10_000, 1, {0: 6}, 320, [2, 9]) for _ in range(3))
    assert done == len(mine)
    assert {task for task in ids if one(backend, task).expired} == set(mine)


def test_a_cancelled_task_stays_until_its_message_was_seen(backend: ResultBackend) -> None:
    ids = submit(backend, 2)
    backend.cancel(ids)
    later = NOW + 10_000_000
    assert expire_all(backend, later, 1, {0: 100}) == 0
    assert backend.claim(0, 1, [ClaimEntry(ids[0], 0, 0, "addition", NOW, None, 0, 42)], NOW)[0].state == "CX"
    assert expire_all(backend, later, 1, {0: 43}) == 1
    assert one(backend, ids[1]).expired is False


def test_one_stuck_partition_does_not_keep_the_others(backend: ResultBackend) -> None:
    """The oldest records can't go; those behind them are reached all the same."""
    stuck, free = submit(backend, 1000, at=NOW - 1000), submit(backend, 200)
    finish(backend, stuck, offset=50)
    finish(backend, free, offset=5)
    assert expire_all(backend, NOW + 10_000, 5, {0: 6}) == 200


def test_a_wish_for_a_task_that_never_came_goes(backend: ResultBackend, connection: redis.Redis) -> None:
    backend.cancel([new_task_id()])
    assert expire_all(backend, int(time.time() * 1000) + 7_200_000, 3600, {}) == 1
    assert not list(connection.scan_iter("yadtq:*:t:*"))


def test_plant_and_pages_agree(backend: ResultBackend, connection: redis.Redis) -> None:
    """The fixture of the model writes what the functions would: the two test files rest on the same layout."""
    plant(connection, {"by-hand": Record("OK", k="addition", t0=5, shown="OK")})
    assert pages(backend, ["OK"], 10) == [("by-hand", "OK")]
