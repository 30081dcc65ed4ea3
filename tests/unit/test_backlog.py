"""A queue with a limit: the estimate, and what a submission beyond it does (on a queue in memory, its worker held)."""
from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from yadtq import QueueFull, TaskSubmissionTimeout
from yadtq.backlog import Backlog, Limit, limit_of
from yadtq.config import Settings
from yadtq.errors import BacklogFull, InvalidTask, RedisConnectionError
from yadtq.testing import AsyncInMemoryYADTQ, InMemoryYADTQ

HANDLERS = {"addition": lambda *operands: sum(operands)}


class Store:
    """As much of Redis as the estimate needs."""

    def __init__(self, queued: int = 0) -> None:
        self.queued, self.asked = queued, 0

    def counts(self, *, timeout_s: float | None = None) -> dict[str, int]:
        self.asked += 1
        return {"Q": self.queued, "P": 10**6}


def backlog(store: Store) -> Backlog:
    return Backlog(store)       # type: ignore[arg-type]


# ---- the estimate ---------------------------------------------------------------------------------------------------
@given(st.integers(0, 50), st.integers(1, 50), st.lists(st.integers(1, 20), max_size=20))
def test_no_more_is_admitted_than_there_is_room_for(queued: int, most: int, counts: list[int]) -> None:
    store = Store(queued)
    one, admitted = backlog(store), 0
    for count in counts:
        taken = one.take(count, Limit(most))
        assert taken == min(count, max(0, most - queued - admitted))
        admitted += taken
    assert store.asked <= 1


def test_redis_is_asked_once_a_second_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    store = Store()
    one = backlog(store)
    for _ in range(500):
        assert one.take(1, Limit(100_000)) == 1
        now += 0.01
    assert store.asked == 5


def test_without_a_limit_nobody_is_asked() -> None:
    store = Store()
    assert backlog(store).take(10**6, Limit()) == 10**6
    assert store.asked == 0


def test_all_or_none() -> None:
    one = backlog(Store(7))
    with pytest.raises(QueueFull) as caught:
        one.take_all(4, Limit(10))
    assert (caught.value.waiting, caught.value.limit, caught.value.count) == (7, 10, 4)
    assert caught.value.retryable
    assert isinstance(caught.value, BacklogFull)
    assert one.take(3, Limit(10)) == 3


def test_threads_do_not_admit_twice() -> None:
    one, taken = backlog(Store()), []
    threads = [threading.Thread(target=lambda: taken.extend(one.take(1, Limit(500)) for _ in range(100)))
               for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 500


@pytest.mark.parametrize(("most", "how"), [(-1, None), (True, None), ("10", None), (1.5, None), (None, "block")])
def test_arguments_that_make_no_sense(most: Any, how: Any) -> None:
    with pytest.raises(InvalidTask):
        limit_of(Settings(), most, how)


def test_the_call_wins_over_the_settings() -> None:
    settings = Settings(max_backlog=10, on_backlog="wait")
    assert limit_of(settings) == Limit(10, wait=True)
    assert limit_of(settings, 5, "refuse") == Limit(5, wait=False)
    assert limit_of(settings, 0) == Limit(0, wait=True)
    assert limit_of(Settings()) == Limit(0, wait=False)


# ---- submissions ----------------------------------------------------------------------------------------------------
def test_refused_beyond_the_limit_with_the_figures() -> None:
    with InMemoryYADTQ(HANDLERS, max_backlog=3) as client:
        with client.paused():
            ids = [client.submit_task("addition", [n]) for n in range(3)]
            with pytest.raises(QueueFull, match="3 tasks are queued, and the limit is 3"):
                client.submit_task("addition", [3])
            with pytest.raises(QueueFull):
                client.submit_tasks([{"task": "addition", "args": [n]} for n in range(3)])
            assert client.submit_task("addition", [4], max_backlog=0)       # this one has none
            assert sum(client.count_tasks().values()) == 4, "nothing of what was refused is there"
        assert client.get_results(ids, timeout=10) == [0, 1, 2]
        assert client.get_result(client.submit_task("addition", [5], on_backlog="wait"), timeout=10) == 5


def test_waits_for_room_and_gives_up_in_time() -> None:
    with InMemoryYADTQ(HANDLERS, max_backlog=3, on_backlog="wait") as client:
        with client.paused():
            client.submit_tasks([{"task": "addition", "args": [n]} for n in range(3)])
            begun = time.monotonic()
            with pytest.raises(QueueFull):
                client.submit_task("addition", [3], submit_timeout_s=0.5)
            assert 0.3 < time.monotonic() - begun < 10
            with pytest.raises(QueueFull):
                client.submit_task("addition", [3], on_backlog="refuse")
            resumed = threading.Timer(0.5, client._worker.resume)
            resumed.start()
            assert client.get_result(client.submit_task("addition", [3], submit_timeout_s=20), timeout=10) == 3
        many = client.submit_tasks([{"task": "addition", "args": [n]} for n in range(40)])
        assert client.get_results(many, timeout=20) == list(range(40))


def test_a_batch_that_gets_in_by_half_says_which_half() -> None:
    with InMemoryYADTQ(HANDLERS) as client, client.paused():
        with pytest.raises(TaskSubmissionTimeout) as caught:
            client.submit_tasks([{"task": "addition", "args": [n]} for n in range(10)], max_backlog=4,
                                on_backlog="wait", submit_timeout_s=0.5)
        error = caught.value
        assert error.task_ids == ()
        assert len(error.not_sent) == 6
        assert error.not_sent == error.ids[4:]
        assert "6 of 10 tasks were not sent" in str(error)
        assert isinstance(error.__cause__, QueueFull)
        assert sum(client.count_tasks().values()) == 4


def test_coroutines_are_refused_one_by_one() -> None:
    async def main() -> list[Any]:
        async with AsyncInMemoryYADTQ(HANDLERS, max_backlog=10) as client:
            with client.paused():
                return await asyncio.gather(*(client.submit_task("addition", [n]) for n in range(15)),
                                            return_exceptions=True)
    answers = asyncio.run(main())
    assert [type(one) for one in answers] == [str] * 10 + [QueueFull] * 5


def test_coroutines_wait_for_room() -> None:
    async def main() -> list[Any]:
        async with AsyncInMemoryYADTQ(HANDLERS, max_backlog=5) as client:
            ids = await asyncio.gather(*(client.submit_task("addition", [n], on_backlog="wait") for n in range(30)))
            return await client.get_results(ids, timeout=20)
    assert asyncio.run(main()) == list(range(30))


def test_redis_that_is_away_is_told_and_nothing_was_sent() -> None:
    with InMemoryYADTQ(HANDLERS) as client:
        def away(**_: object) -> dict[str, int]:
            raise RedisConnectionError("gone")
        client._connections._parts["backlog"] = backlog(SimpleNamespace(counts=away))       # type: ignore[arg-type]
        for how in ("refuse", "wait"):
            with pytest.raises(RedisConnectionError):
                client.submit_task("addition", [1], max_backlog=5, on_backlog=how)
        assert sum(client.count_tasks().values()) == 0


def test_the_command_line_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from yadtq.cli import cli, context, exits
    with InMemoryYADTQ(HANDLERS) as client, client.paused():
        monkeypatch.setattr(context.Context, "client", client)
        monkeypatch.setattr(context.Context, "close", lambda _: None)
        ok = CliRunner().invoke(cli, ["submit", "addition", "1", "2", "--max-backlog", "1"])
        assert ok.exit_code == exits.OK, ok.output
        full = CliRunner().invoke(cli, ["submit", "addition", "1", "2", "--max-backlog", "1", "--json"])
        assert full.exit_code == exits.REFUSED
        assert '"QUEUE_FULL"' in full.output
        assert '"limit": 1' in full.output
