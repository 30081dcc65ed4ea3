"""Retries by a worker on real Kafka and Redis: what it records, what it publishes to wait, and in which order.

The scheduler is played by the test (`Wheel`), which hands on what waits when it is told to: so it can look at a task
between two attempts for as long as it likes. The whole way, scheduler included, is in tests/fault/test_retries.py.
"""
from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_worker import records_of
from tests.support.queue_user import QueueUser
from tests.support.role_host import RoleHost, until
from yadtq.attempts import decode_attempts
from yadtq.config import Settings
from yadtq.dead_letter import decode_dead_letter
from yadtq.delayed import LEVELS, SHORT, DelayedTask, decode_delayed
from yadtq.records import TaskRecordRaw
from yadtq.task import TaskMessage, decode_error, decode_message, encode_message
from yadtq.tasks_query import shown_record
from yadtq.transport import open_consumer
from yadtqd.exits import Exit

pytestmark = pytest.mark.integration


class Wheel:
    """Plays the scheduler: takes what waits out of the delayed topic, and puts it on the task topic."""

    def __init__(self, user: QueueUser) -> None:
        self.user = user
        self.consumer = open_consumer(user.settings)
        self.consumer.assign(user.settings.kafka_delayed_topic, dict.fromkeys(range(LEVELS), 0))
        self.levels: list[int] = []
        self.waiting: list[DelayedTask] = []
        self.seen = 0

    def close(self) -> None:
        self.consumer.close()

    def wait_for(self, count: int = 1, timeout_s: float = 20) -> list[TaskMessage]:
        """Until so many wait; their messages."""
        def look() -> bool:
            for record in self.consumer.poll(100, 0.1):
                self.waiting.append(decode_delayed(record.value))
                self.levels.append(record.partition)
                self.seen += 1
            return len(self.waiting) >= count

        until(look, f"{count} delayed tasks", timeout_s)
        return [decode_message(one.value) for one in self.waiting]

    def fire(self) -> None:
        for one in self.waiting:
            self.user.producer.send(self.user.settings.kafka_task_topic, one.partition, one.value, one.key)
        self.user.producer.flush(10)
        self.waiting.clear()


@pytest.fixture(params=["librdkafka", "kafka-python"])
def settings_of_both(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    return settings.replace(transport=request.param, tasks=("tests.support.handlers",), auto_commit_interval_ms=100)


@pytest.fixture
def both(settings_of_both: Settings) -> Iterator[QueueUser]:
    with QueueUser(settings_of_both) as user:
        yield user


@pytest.fixture
def user(settings: Settings) -> Iterator[QueueUser]:
    with QueueUser(settings.replace(tasks=("tests.support.handlers",), auto_commit_interval_ms=100)) as user:
        yield user


@pytest.fixture
def wheel(user: QueueUser) -> Iterator[Wheel]:
    wheel = Wheel(user)
    yield wheel
    wheel.close()


def in_state(user: QueueUser, task_id: str, state: str) -> TaskRecordRaw:
    def look() -> TaskRecordRaw | None:
        record = user.record(task_id)
        return record if record is not None and record.state == state else None

    found: TaskRecordRaw = until(look, f"{task_id} in {state}", 20)
    return found


def letters(user: QueueUser, count: int) -> list[tuple[str, str]]:
    values = records_of(user.settings, user.settings.kafka_dead_letter_topic, count)
    return [(letter.id, letter.code) for letter in map(decode_dead_letter, values)]


# ---- one attempt after the other ------------------------------------------------------------------------------------
def test_a_failed_attempt_waits_in_kafka_and_comes_again(both: QueueUser, tmp_path: Path) -> None:
    wheel = Wheel(both)
    try:
        with RoleHost(both.settings, own=(0, 1)) as host:
            host.start("worker", "w0", (0, 1))
            sent = both.message("t.flaky", str(tmp_path / "journal"), 2)
            both.send([sent], partition=1)
            first = wheel.wait_for()[0]
            assert (first.id, first.n, first.args, first.submitted_ms) == (sent.id, 1, sent.args, sent.submitted_ms)
            assert (wheel.waiting[0].partition, wheel.levels) == (1, [SHORT])
            record = in_state(both, sent.id, "R")
            assert record.attempt == 1
            assert record.due_ms == wheel.waiting[0].due_ms == first.due_ms
            assert record.error is not None
            error = decode_error(record.error)
            assert (error.code, error.error_type, error.message) == ("TASK_FAILED", "ConnectionError", "attempt 0")
            assert error.history == first.history
            until(lambda: host.shared.partitions[1].watermark == 1, "its message is done with")
            wheel.fire()
            second = wheel.wait_for()[0]
            assert second.n == 2
            assert [a.message for a in decode_attempts(second.history)] == ["attempt 0", "attempt 1"]
            wheel.fire()
            assert both.result(sent.id) == "x"
            record = in_state(both, sent.id, "OK")
            shown = shown_record(sent.id, record)
            assert shown is not None
            assert shown.error is None
            assert [(a.n, a.error_type, a.message) for a in shown.attempts] == [
                (0, "ConnectionError", "attempt 0"), (1, "ConnectionError", "attempt 1"), (2, "", "")]
            assert {a.worker for a in shown.attempts} == {f"{both.settings.host_name}/w0"}
            assert all(a.started_ms <= a.ended_ms for a in shown.attempts)
            slot = host.slot("w0")
            until(lambda: (slot.done, slot.failed, slot.retried) == (1, 0, 2), "the counters")
        assert (tmp_path / "journal").read_text() == "x 0\nx 1\nx 2\n"
    finally:
        wheel.close()


def test_a_task_that_never_succeeds_fails_for_good_and_goes_to_the_dead_letters(
        user: QueueUser, wheel: Wheel, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with RoleHost(user.settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        task_id = user.submit("t.never", str(journal))
        for n in (1, 2):
            assert wheel.wait_for()[0].n == n
            wheel.fire()
        error = user.error(task_id)
        assert (error.error_type, error.given_up) == ("ValueError", True)
        assert [a.n for a in decode_attempts(error.history)] == [0, 1]
        at_once = user.submit("t.never", str(journal), "PermissionError")
        assert user.error(at_once).given_up
        just_once = user.submit("t.never", str(journal), max_retries=0)
        assert not user.error(just_once).given_up
        plain = user.submit("t.raise", "no retries are allowed")
        assert not user.error(plain).given_up
        assert letters(user, 2) == [(task_id, "TASK_FAILED"), (at_once, "TASK_FAILED")]
        until(lambda: host.shared.partitions[0].watermark == 6, "the watermark")
        assert len(records_of(user.settings, user.settings.kafka_dead_letter_topic, 2)) == 2
    assert journal.read_text() == "ValueError\n" * 3 + "PermissionError\n" + "ValueError\n"


def test_what_the_submission_says_and_what_a_handler_asks_for(user: QueueUser, wheel: Wheel, tmp_path: Path) -> None:
    journal = str(tmp_path / "journal")
    with RoleHost(user.settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        now_ms = time.time() * 1000
        user.submit("t.raise", "no", max_retries=1, retry_backoff_s=3000.0)
        user.submit("t.ask", journal, 10_000.0)
        asked, one = sorted(wheel.wait_for(2), key=lambda message: message.task)
        assert 1500 <= (one.due_ms - now_ms) / 1000 <= 3060
        assert 10_000 <= (asked.due_ms - now_ms) / 1000 <= 10_060
        assert all(0 <= level < SHORT for level in wheel.levels)
        assert decode_attempts(asked.history)[0].code == "TASK_RETRY"
        gone = user.submit("t.ask", journal, 60.0, expires_ms=int(time.time() * 1000) + 30_000)
        assert user.error(gone).code == "TASK_RETRY", "it would expire while it waits"
        last = user.submit("t.ask", journal, max_retries=0)
        assert user.error(last).code == "TASK_RETRY"


def test_isolated_handlers_and_time_outs_are_retried_too(user: QueueUser, wheel: Wheel) -> None:
    with RoleHost(user.settings, own=(0,)) as host:
        host.start("isolator")
        host.start("worker", "w0", (0,))
        chosen = user.submit("t.isolated_flaky", "KeyError")
        assert user.error(user.submit("t.isolated_flaky", "ValueError")).error_type == "ValueError"
        late = user.submit("t.async_sleep", 30, timeout_s=0.2, max_retries=1)
        stuck = user.submit("t.isolated_stuck", max_retries=1)
        assert {message.id for message in wheel.wait_for(3)} == {chosen, late, stuck}
        codes = {decode_attempts(decode_message(one.value).history)[0].code for one in wheel.waiting}
        assert codes == {"TASK_FAILED", "TASK_TIMEOUT", "TASK_HARD_TIMEOUT"}


def test_a_hard_time_out_of_the_worker_is_retried_by_its_successor(user: QueueUser, wheel: Wheel, tmp_path: Path
                                                                  ) -> None:
    journal = tmp_path / "journal"
    with RoleHost(user.settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        task_id = user.submit("t.note", str(journal), "ran", 30, max_retries=1)
        until(lambda: journal.exists() and journal.read_text(), "its start")
        host.kill("w0")
        host.status("w0")
        host.start("worker", "w0", (0,), hard=((task_id, 0, 0, 0),))
        assert wheel.wait_for()[0].n == 1
        assert decode_attempts(wheel.wait_for()[0].history)[0].code == "TASK_HARD_TIMEOUT"
        in_state(user, task_id, "R")


def test_a_soft_time_out_recycles_the_worker_and_the_retry_is_not_lost(user: QueueUser, wheel: Wheel) -> None:
    with RoleHost(user.settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        task_id = user.submit("t.slow_retry")
        assert host.status("w0") == Exit.SOFT_RECYCLE
        host.start("worker", "w0", (0,))
        assert wheel.wait_for()[0].id == task_id
        wheel.fire()
        assert host.status("w0") == Exit.SOFT_RECYCLE
        host.start("worker", "w0", (0,))
        error = user.error(task_id)
        assert (error.code, error.given_up) == ("TASK_TIMEOUT", True)
        assert letters(user, 1) == [(task_id, "TASK_TIMEOUT")]


# ---- what was recorded and not published ----------------------------------------------------------------------------
def without_lease(host: RoleHost, user: QueueUser, task_id: str, state: str) -> None:
    """Run one task up to its recorded end, and not beyond: nothing is published without the lease."""
    lease = host.shared.lease_ns
    until(lambda: host.slot("w0").read().task, "it runs")
    host.shared.lease_ns = 1
    in_state(user, task_id, state)
    host.kill("w0")
    host.status("w0")
    host.shared.lease_ns = lease


def test_a_retry_that_was_recorded_and_not_published_is_published_by_the_successor(
        user: QueueUser, wheel: Wheel) -> None:
    with RoleHost(user.settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        sent = user.message("t.sleep_and_fail", 0.5, max_retries=2, retry_backoff_s=0.0)
        user.send([sent], partition=0)
        without_lease(host, user, sent.id, "R")
        record = user.record(sent.id)
        host.start("worker", "w0", (0,))
        again = wheel.wait_for()[0]
        assert record is not None
        assert record.error is not None
        assert (again.n, again.due_ms) == (1, record.due_ms)
        assert again.history == decode_error(record.error).history
        assert wheel.waiting[0].due_ms == record.due_ms
        until(lambda: host.shared.partitions[0].watermark == 1, "the watermark")


def test_a_dead_letter_that_was_recorded_and_not_published_is_published_by_the_successor(user: QueueUser) -> None:
    with RoleHost(user.settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        sent = user.message("t.sleep_and_fail", 0.5, max_retries=1, n=1)
        user.send([sent], partition=0)
        without_lease(host, user, sent.id, "KO")
        host.start("worker", "w0", (0,))
        assert letters(user, 1) == [(sent.id, "TASK_FAILED")]
        until(lambda: host.shared.partitions[0].watermark == 1, "the watermark")


def test_a_retry_comes_twice_and_runs_once(user: QueueUser, wheel: Wheel, tmp_path: Path) -> None:
    """Its publisher died before it had counted as published, so that it was published again."""
    journal = tmp_path / "journal"
    with RoleHost(user.settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        task_id = user.submit("t.flaky", str(journal), 1)
        wheel.wait_for()
        wheel.waiting *= 3
        wheel.fire()
        assert user.result(task_id) == "x"
        until(lambda: host.shared.partitions[0].watermark == 4, "all copies are done with")
    assert journal.read_text() == "x 0\nx 1\n"


# ---- cancelling -----------------------------------------------------------------------------------------------------
def test_a_task_that_waits_for_its_retry_is_cancelled(user: QueueUser, wheel: Wheel, tmp_path: Path) -> None:
    with RoleHost(user.settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        task_id = user.submit("t.flaky", str(tmp_path / "journal"), 9)
        wheel.wait_for()
        assert user.backend.cancel([task_id]) == ["CONFIRMED"]
        wheel.fire()
        until(lambda: host.shared.partitions[0].watermark == 2, "the retry is done with")
        assert in_state(user, task_id, "CX").attempt == 1
    assert (tmp_path / "journal").read_text() == "x 0\n"


def test_a_cancel_that_was_asked_for_while_it_ran_leaves_nothing_to_publish(user: QueueUser, wheel: Wheel) -> None:
    """In a pool of threads nothing interrupts the handler: it fails, and would be retried."""
    with RoleHost(user.settings.replace(worker_threads=2), own=(0,)) as host:
        host.start("worker", "w0", (0,))
        sent = user.message("t.sleep_and_fail", 1.0, max_retries=2)
        user.send([sent], partition=0)
        until(lambda: host.slot("w0").read().task, "it runs")
        assert user.backend.cancel([sent.id]) == ["ASKED"]
        in_state(user, sent.id, "CX")
        until(lambda: host.shared.partitions[0].watermark == 1, "it is done with")
        assert wheel.consumer.poll(1, 1.0) == []


def test_a_drain_publishes_the_retry_of_what_it_ends(user: QueueUser, wheel: Wheel) -> None:
    with RoleHost(user.settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        task_id = user.submit("t.sleep_and_fail", 1.0, max_retries=2)
        until(lambda: host.slot("w0").read().task, "it runs")
        host.kill("w0", signal.SIGTERM)
        assert host.status("w0") == 0
        assert wheel.wait_for()[0].id == task_id


def test_many_retries_at_once_are_exact(both: QueueUser) -> None:
    """Without a fault every attempt runs once, however many there are."""
    wheel = Wheel(both)
    try:
        with RoleHost(both.settings, own=(0, 1, 2, 3)) as host:
            host.start("worker", "w0", (0, 1))
            host.start("worker", "w1", (2, 3))
            ids = both.send([both.message("t.raise", str(n), max_retries=2) for n in range(200)])
            for n in (1, 2):
                found = wheel.wait_for(200)
                assert {message.id for message in found} == set(ids)
                assert {message.n for message in found} == {n}
                wheel.fire()
            errors = [both.error(task_id) for task_id in ids]
            assert [error.message for error in errors] == [str(n) for n in range(200)]
            until(lambda: sum(host.slot(name).failed for name in ("w0", "w1")) == 200, "the counters")
            assert sum(host.slot(name).retried for name in ("w0", "w1")) == 400
            assert wheel.seen == 400
            assert sorted(letters(both, 200)) == sorted((task_id, "TASK_FAILED") for task_id in ids)
    finally:
        wheel.close()


def test_the_message_of_a_retry_is_always_the_same() -> None:
    """What the successor publishes must be what its predecessor would have."""
    from types import SimpleNamespace

    from yadtqd.body import Outcome
    from yadtqd.follow_ups import FollowUps
    from yadtqd.held import Held
    from yadtqd.registry import Registry

    made = FollowUps(Settings(task_max_retries=1), Registry([]), "h/w0", lambda: 0.3)
    held = Held(3, 17, TaskMessage(id="i", task="t", args=b"a", submitted_ms=5, group="g"), 1)
    from yadtq.task import TaskError, encode_error

    end, follow = made.judge(held, Outcome("KO", error=encode_error(TaskError("TASK_FAILED", "m"))), 1, 2)
    record = SimpleNamespace(state="R", attempt=1, due_ms=end.due_ms, error=end.error)
    assert FollowUps(Settings(), Registry([]), "h/w9").owed(held, record) == follow  # type: ignore[arg-type]
    assert follow is not None
    assert encode_message(decode_message(decode_delayed(follow.value).value)) == decode_delayed(follow.value).value
