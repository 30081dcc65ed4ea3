"""Cancelling what a worker has in its hands, on real Kafka and Redis: softly, then, when that does not help, hard.

Each test cancels a task that runs (its handler has said so in a file) or lies claimed, and then asks the record: one
end, CANCELLED, soon, and the worker, or its successor, goes on.
"""
from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cancel_handlers import words
from tests.support.queue_user import QueueUser
from tests.support.role_host import RoleHost, until
from yadtq.config import Settings
from yadtqd.exits import Exit

pytestmark = pytest.mark.integration
SOON_S = 25                 # a loaded machine


@pytest.fixture
def worker_settings(settings: Settings) -> Settings:
    return settings.replace(tasks=("tests.support.cancel_handlers",), auto_commit_interval_ms=100,
                            task_timeout_grace_s=20)


@pytest.fixture
def user(worker_settings: Settings) -> Iterator[QueueUser]:
    with QueueUser(worker_settings) as user:
        yield user


def began(journal: Path) -> None:
    until(lambda: words(journal), "its handler to begin", SOON_S)


def cancelled_while_it_runs(user: QueueUser, journal: Path, task: str, *args: object, **fields: object) -> str:
    task_id = user.submit(task, str(journal), *args, **fields)
    began(journal)
    assert user.backend.cancel([task_id]) == ["ASKED"]
    record = user.ended(task_id, SOON_S)
    assert (record.state, record.result, record.error) == ("CX", None, None)
    return task_id


# ---- softly ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("transport", ["librdkafka", "kafka-python"])
def test_a_handler_is_interrupted_may_clean_up_and_the_worker_is_recycled(
        worker_settings: Settings, journal: Path, transport: str) -> None:
    settings = worker_settings.replace(transport=transport)
    with QueueUser(settings) as user, RoleHost(settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        task_id = cancelled_while_it_runs(user, journal, "c.clean")
        assert words(journal)[1:] == ["cleaned"]
        assert host.status("w0") == Exit.SOFT_RECYCLE
        after = user.submit("c.quick", 0.0)
        host.start("worker", "w1", (0,))
        assert user.result(after) == "done"
        assert user.backend.cancel([task_id]) == ["ENDED"]
        until(lambda: host.shared.partitions[0].watermark == 2, "the watermark beyond both")
    assert words(journal)[1:] == ["cleaned"]              # it ran once


def test_a_handler_that_swallows_its_cancel_is_cancelled_all_the_same(
        worker_settings: Settings, user: QueueUser, journal: Path) -> None:
    with RoleHost(worker_settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        cancelled_while_it_runs(user, journal, "c.swallow")
        assert words(journal) == ["begin", "Cancelled"]
        assert host.status("w0") == Exit.SOFT_RECYCLE


def test_async_handlers_are_cancelled_beside_others_that_go_on(
        worker_settings: Settings, user: QueueUser, journal: Path) -> None:
    other = journal.with_name("other")
    other.touch()
    with RoleHost(worker_settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        stays = user.submit("c.async", str(other))
        until(lambda: words(other), "the other to begin", SOON_S)
        cancelled_while_it_runs(user, journal, "c.async")
        assert words(journal) == ["begin", "cleaned"]
        journal.write_text("")
        cancelled_while_it_runs(user, journal, "c.async_swallow")
        assert not host.statuses                         # no recycling for them
        assert user.record(stays).state == "P"           # type: ignore[union-attr]


def test_isolated_handlers_are_told_in_their_own_process(
        worker_settings: Settings, user: QueueUser, journal: Path) -> None:
    with RoleHost(worker_settings, own=(0,)) as host:
        host.start("isolator")
        host.start("worker", "w0", (0,))
        for task in ("c.isolated", "c.isolated_async"):
            journal.write_text("")
            cancelled_while_it_runs(user, journal, task)
            assert words(journal)[1:] == ["cleaned"]
        assert not host.statuses


def test_a_handler_in_a_pool_of_threads_has_a_flag(worker_settings: Settings, journal: Path) -> None:
    settings = worker_settings.replace(worker_threads=2)
    with QueueUser(settings) as user, RoleHost(settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        cancelled_while_it_runs(user, journal, "c.flagged")
        late = user.submit("c.deaf", str(journal), 1.5, grace_s=15.0)
        until(lambda: len(words(journal)) == 2, "the other to begin", SOON_S)
        assert user.backend.cancel([late]) == ["ASKED"]
        assert user.result(late) == "done"               # it ended well within its grace: that stands
        assert not host.statuses


def test_what_a_handler_can_know_of_its_task(worker_settings: Settings, user: QueueUser) -> None:
    with RoleHost(worker_settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        task_id = user.submit("c.about", group="import-17")
        assert user.result(task_id) == [task_id, "c.about", 0, "import-17", False]


# ---- hard ------------------------------------------------------------------------------------------------------------
def test_an_isolated_handler_that_does_not_end_is_killed_alone(
        worker_settings: Settings, user: QueueUser, journal: Path) -> None:
    with RoleHost(worker_settings, own=(0,)) as host:
        host.start("isolator")
        host.start("worker", "w0", (0,))
        cancelled_while_it_runs(user, journal, "c.isolated_stubborn")
        assert "went on" in words(journal)
        assert user.result(user.submit("c.quick", 0.0)) == "done"
        assert not host.statuses


@pytest.mark.parametrize("task", ["c.stubborn", "c.async_blocking", "c.deaf"])
def test_the_slot_tells_the_supervisor_when_to_kill(
        worker_settings: Settings, journal: Path, task: str) -> None:
    settings = worker_settings.replace(worker_threads=2 if task == "c.deaf" else 1)
    with QueueUser(settings) as user, RoleHost(settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        task_id = user.submit(task, str(journal), *([60] if task == "c.deaf" else []), timeout_s=120.0)
        began(journal)
        assert host.slot("w0").read().task.hard_ns > time.monotonic_ns() + 30e9
        user.backend.cancel([task_id])
        until(lambda: (now := host.slot("w0").read().task) and 0 < now.hard_ns < time.monotonic_ns() + 1.1e9,
              "the deadline in the slot", SOON_S)
        host.kill("w0")                                  # as the supervisor does
        host.status("w0")
        host.start("worker", "w1", (0,))
        assert user.ended(task_id, SOON_S).state == "CX"
    assert words(journal).count("begin") == 1


# ---- what lies claimed -----------------------------------------------------------------------------------------------
def test_what_was_cancelled_while_it_lay_in_a_workers_hands_does_not_begin(
        worker_settings: Settings, user: QueueUser, journal: Path) -> None:
    with RoleHost(worker_settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        first, *others = user.send([user.message("c.begin", str(journal), 1.5 if n == 0 else 0.0) for n in range(4)],
                                   partition=0)
        until(lambda: words(journal) == [first], "the first to begin", SOON_S)
        answers = user.backend.cancel(others[1:])
        assert [user.ended(one, SOON_S).state for one in others[1:]] == ["CX", "CX"], answers
        assert user.results([first, others[0]]) == ["done", "done"]
    assert words(journal) == [first, others[0]]


def test_what_waits_for_a_thread_is_looked_at_before_it_begins(worker_settings: Settings, journal: Path) -> None:
    settings = worker_settings.replace(worker_threads=2)
    with QueueUser(settings) as user, RoleHost(settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        ids = user.send([user.message("c.begin", str(journal), 1.5) for _ in range(2)], partition=0)
        until(lambda: len(words(journal)) == 2, "both threads to be taken", SOON_S)
        waiting = user.submit("c.begin", str(journal))
        until(lambda: user.backend.read([waiting])[0].epoch is not None, "its claim", SOON_S)  # type: ignore[union-attr]
        assert user.backend.cancel([waiting]) == ["ASKED"]
        assert user.ended(waiting, SOON_S).state == "CX"
        assert user.results(ids) == ["done", "done"]
    assert sorted(words(journal)) == sorted(ids)


# ---- races and deaths ------------------------------------------------------------------------------------------------
def test_a_result_that_came_first_stands(worker_settings: Settings, user: QueueUser) -> None:
    """Short tasks, cancelled at about the time at which they end: each has one end, and it never changes."""
    with RoleHost(worker_settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        ids = user.send([user.message("c.quick", 0.01) for _ in range(60)], partition=0)
        answers = {}
        for task_id in ids:
            time.sleep(0.008)
            answers[task_id] = user.backend.cancel([task_id])[0]
        ends = {one: user.ended(one, SOON_S).state for one in ids}
        assert set(ends.values()) <= {"OK", "CX"}
        assert all(ends[one] == "CX" for one, answer in answers.items() if answer == "CONFIRMED")
        time.sleep(0.5)
        assert {one: user.ended(one).state for one in ids} == ends
        until(lambda: host.shared.partitions[0].watermark == 60, "the watermark beyond all", SOON_S)


def test_a_cancel_outlives_the_worker(worker_settings: Settings, user: QueueUser, journal: Path) -> None:
    with RoleHost(worker_settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        task_id = user.submit("c.stubborn", str(journal), grace_s=60.0)
        began(journal)
        assert user.backend.cancel([task_id]) == ["ASKED"]
        host.kill("w0")
        host.status("w0")
        host.start("worker", "w1", (0,))
        assert user.ended(task_id, SOON_S).state == "CX"
    assert words(journal).count("begin") == 1


def test_a_cancel_ends_a_task_that_would_be_tried_again(
        worker_settings: Settings, user: QueueUser, journal: Path) -> None:
    with RoleHost(worker_settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        cancelled_while_it_runs(user, journal, "c.failing", 2.0)
        assert words(journal) == ["begin"]
