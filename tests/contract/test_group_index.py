"""The index of groups on a real Redis: a group's tasks are found by state, counted, hidden by a clear, forgotten."""
from __future__ import annotations

import time

import pytest
import redis

from tests.contract.backend_support import NOW, finish, submit
from yadtq.names import shard_of
from yadtq.records import SHOWN_STATES
from yadtq.result_backend import ClaimEntry, FinishEntry, ResultBackend
from yadtq.status_index import KEEP_MS

GROUP = "import 17 / ä"


def listed(backend: ResultBackend, states: list[str], group: str, *, limit: int = 50, newest: bool = False,
           since: int | None = None) -> list[str]:
    found: list[str] = []
    cursor: str | None = None
    while True:
        page, cursor = backend.page(states, None, cursor, limit, since, None, newest, group)
        found += [task_id for task_id, _ in page]
        if cursor is None:
            return found


def group_keys(connection: redis.Redis) -> list[bytes]:
    return list(connection.scan_iter("yadtq:*:ig:*"))


@pytest.mark.parametrize("newest", [False, True])
def test_a_group_is_found_by_state_whatever_its_types(backend: ResultBackend, newest: bool) -> None:
    submit(backend, 300)                                                # of no group
    other = submit(backend, 40, group="another")
    mine = sorted([*submit(backend, 200, group=GROUP), *submit(backend, 100, task="division", group=GROUP)])
    finish(backend, mine[::3])
    finish(backend, mine[1::3], "KO")
    everything = listed(backend, list(SHOWN_STATES), GROUP, newest=newest)
    assert everything == sorted(mine, reverse=newest)
    assert sorted(listed(backend, ["OK"], GROUP)) == mine[::3]
    assert sorted(listed(backend, ["Q", "KO"], GROUP)) == sorted([*mine[1::3], *mine[2::3]])
    assert sorted(listed(backend, ["Q"], "another")) == other
    assert listed(backend, ["Q"], "unknown") == []
    assert listed(backend, ["Q"], GROUP, since=NOW + 1) == []
    assert {record.group for record in backend.read(mine) if record} == {GROUP}
    assert backend.counts(group=GROUP) == dict.fromkeys(SHOWN_STATES, 0) | {"Q": 100, "OK": 100, "KO": 100}
    assert backend.counts(["division"])["OK"] + backend.counts(["division"])["KO"] > 0
    assert sum(backend.counts(["division"]).values()) == 100
    assert sum(backend.counts().values()) == 640


def test_a_task_that_redis_lost_is_in_its_group_again(backend: ResultBackend, connection: redis.Redis) -> None:
    """The claim makes the record from the message, and so does the finish."""
    ids = submit(backend, 40, group=GROUP)
    connection.flushdb()
    backend.claim(0, 1, [ClaimEntry(i, 0, 0, "addition", NOW, group=GROUP) for i in ids[:20]], NOW)
    backend.finish(0, 1, [FinishEntry(i, 0, 0, "addition", NOW, "OK", 1, NOW, NOW, group=GROUP) for i in ids[20:]], "w")
    assert listed(backend, ["Q", "P", "OK"], GROUP) == ids


def test_a_cancelled_one_stays_in_its_group(backend: ResultBackend) -> None:
    ids = submit(backend, 20, group=GROUP)
    assert set(backend.cancel(ids[:7])) == {"CONFIRMED"}
    assert listed(backend, ["CX"], GROUP) == ids[:7]
    assert listed(backend, ["Q"], GROUP) == ids[7:]


def test_a_wish_that_came_first_gets_its_group_from_the_message(backend: ResultBackend) -> None:
    task_id = submit(backend, 1, group=GROUP)[0]
    wished = task_id[:-1] + ("0" if task_id[-1] != "0" else "1")
    assert backend.cancel([wished]) == ["ASKED"]
    entry = ClaimEntry(wished, 0, backend.clear_numbers()[shard_of(wished)], "addition", NOW, offset=3, group=GROUP)
    assert backend.claim(0, 1, [entry], NOW)[0].state == "CX"
    assert listed(backend, ["CX"], GROUP) == [wished]


def test_what_expires_leaves_nothing_of_its_group(backend: ResultBackend, connection: redis.Redis) -> None:
    ids = submit(backend, 300, group=GROUP)
    finish(backend, ids[:290])
    later = NOW + 3_600_000
    for now in (later, later + KEEP_MS):
        while backend.expire(now, 1, {0: 6}, 320):
            pass
        assert listed(backend, list(SHOWN_STATES), GROUP) == ids[290:]
    assert sum(connection.zcard(key) for key in group_keys(connection)) == 10


def test_a_clear_hides_a_group_at_once_and_drops_its_index(backend: ResultBackend, connection: redis.Redis) -> None:
    old = submit(backend, 400, group=GROUP)
    finish(backend, old[::2])
    backend.raise_clear({0: 1})
    assert listed(backend, list(SHOWN_STATES), GROUP) == []
    assert sum(backend.counts(group=GROUP).values()) == 0
    new = submit(backend, 30, group=GROUP)
    while backend.drop_cleared(320):
        pass
    assert listed(backend, list(SHOWN_STATES), GROUP) == new
    assert sum(connection.zcard(key) for key in group_keys(connection)) == 30


def test_many_groups_cost_a_page_nothing(backend: ResultBackend, connection: redis.Redis) -> None:
    """Nothing that is read for a page grows with the number of groups."""
    for number in range(300):
        submit(backend, 1, group=f"group {number}")
    assert sum(connection.scard(key) for key in connection.scan_iter("yadtq:*:k")) <= 16
    began = time.monotonic()
    assert len(listed(backend, ["Q"], "group 7")) == 1
    assert time.monotonic() - began < 15
