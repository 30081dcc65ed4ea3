"""Tasks with the same key: one at a time, in the order of the log, through retries, deaths and hand-overs.

Each handler notes its beginning and its end; what they have noted is compared word by word.
"""
from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.queue_user import QueueUser
from tests.support.role_host import RoleHost, until
from yadtq.attempts import decode_attempts
from yadtq.config import Settings
from yadtq.task import decode_error
from yadtq.transport import open_consumer

pytestmark = pytest.mark.integration


@pytest.fixture(params=["librdkafka", "kafka-python"])
def both(settings: Settings, request: pytest.FixtureRequest) -> Iterator[QueueUser]:
    with QueueUser(settings.replace(transport=request.param, tasks=("tests.support.handlers",),
                                    auto_commit_interval_ms=100)) as user:
        yield user


@pytest.fixture
def user(settings: Settings) -> Iterator[QueueUser]:
    with QueueUser(settings.replace(tasks=("tests.support.handlers",), auto_commit_interval_ms=100)) as user:
        yield user


def noted(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def run_of(word: str, times: int = 1) -> list[str]:
    return [f"begin {word}", f"end {word}"] * times


def test_what_comes_behind_with_the_same_key_waits_and_what_has_another_does_not(both: QueueUser, tmp_path: Path
                                                                                ) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    with RoleHost(both.settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        ids = both.send([both.message("t.keyed", str(mine), "a", 2, key="k"),
                         both.message("t.keyed", str(mine), "b", 1, key="k"),
                         both.message("t.keyed", str(other), "x", key="other"),
                         both.message("t.keyed", str(mine), "c", key="k"),
                         both.message("t.keyed", str(other), "y")], partition=0)
        assert both.results(ids) == ["a", "b", "x", "c", "y"]
        until(lambda: host.shared.partitions[0].watermark == 5, "the watermark")
        assert noted(mine) == run_of("a", 3) + run_of("b", 2) + run_of("c")
        assert noted(other) == run_of("x") + run_of("y")
        slot = host.slot("w0")
        until(lambda: (slot.done, slot.retried) == (5, 3), "the counters")
        record = both.record(ids[0])
        assert record is not None
        assert record.attempt == 2
        assert record.error is not None
        assert [a.message for a in decode_attempts(decode_error(record.error).history)] == ["attempt 0", "attempt 1"]
        consumer = open_consumer(both.settings)
        consumer.assign(both.settings.kafka_delayed_topic, dict.fromkeys(range(9), 0))
        assert consumer.poll(1, 1.0) == [], "nothing of it waits elsewhere"
        consumer.close()


def test_while_it_waits_it_is_shown_and_can_be_cancelled_and_nothing_is_committed(user: QueueUser, tmp_path: Path
                                                                                 ) -> None:
    journal = tmp_path / "journal"
    with RoleHost(user.settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        first, second = user.send([
            user.message("t.keyed", str(journal), "a", 9, key="k", retry_backoff_s=20.0, max_retries=9),
            user.message("t.keyed", str(journal), "b", key="k")], partition=0)
        until(lambda: (record := user.record(first)) and record.state == "R", "it waits")
        record = user.record(first)
        assert record is not None
        assert record.attempt == 1
        assert record.due_ms is not None
        assert 15 < record.due_ms / 1000 - time.time() < 31
        waiting = user.record(second)
        assert waiting is not None
        assert waiting.state == "Q", "behind it, it is not even claimed"
        until(lambda: host.slot("w0").lag == 0, "a worker that rests has nothing to do")
        assert host.shared.partitions[0].watermark == 0
        third = user.submit("t.keyed", str(journal), "c", key="k")
        assert user.backend.cancel([third]) == ["CONFIRMED"]
        assert user.backend.cancel([first]) == ["CONFIRMED"]
        host.kill("w0")
        host.status("w0")
        host.start("worker", "w0", (0,))
        assert user.result(second) == "b"
        until(lambda: host.shared.partitions[0].watermark == 3, "the watermark")
    assert noted(journal) == run_of("a") + run_of("b")


def test_the_successor_goes_on_with_the_attempt_at_which_it_was(both: QueueUser, tmp_path: Path) -> None:
    """Killed while it waits, and killed while its second attempt runs."""
    journal = tmp_path / "journal"
    with RoleHost(both.settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        ids = both.send([both.message("t.keyed", str(journal), "a", 2, 1.0, key="k", retry_backoff_s=1.5,
                                      max_retries=2),
                         both.message("t.keyed", str(journal), "b", key="k")], partition=0)
        until(lambda: (record := both.record(ids[0])) and record.state == "R", "it waits")
        host.kill("w0")
        host.status("w0")
        host.start("worker", "w0", (0,))
        until(lambda: noted(journal).count("begin a") == 2, "its second attempt")
        host.kill("w0")
        host.status("w0")
        host.start("isolator")                          # a suspect runs alone
        host.start("worker", "w0", (0,), suspects=(ids[0],))
        assert both.results(ids) == ["a", "b"]
        record = both.record(ids[0])
        assert record is not None
        assert record.attempt == 2, "the attempt that was killed counts as it would have without"
        assert record.error is not None
        assert [a.n for a in decode_attempts(decode_error(record.error).history)] == [0, 1]
        until(lambda: host.shared.partitions[0].watermark == 2, "the watermark")
    assert noted(journal) == [*run_of("a"), "begin a", *run_of("a"), *run_of("a"), *run_of("b")]


@pytest.mark.parametrize("kind", ["t.keyed", "t.keyed_async", "t.keyed_isolated"])
def test_they_never_overlap_wherever_they_run(user: QueueUser, tmp_path: Path, kind: str) -> None:
    settings = user.settings.replace(worker_threads=4)
    with RoleHost(settings, own=(0,)) as host:
        host.start("isolator")
        host.start("worker", "w0", (0,))
        keys = ["k0", "k1", "k2"]
        ids = user.send([user.message(kind, str(tmp_path / keys[n % 3]), str(n), n % 4 == 0, 0.02, key=keys[n % 3],
                                      retry_backoff_s=0.05) for n in range(24)], partition=0)
        assert user.results(ids) == [str(n) for n in range(24)]
        until(lambda: host.shared.partitions[0].watermark == 24, "the watermark")
    for place, key in enumerate(keys):
        wanted = [line for n in range(place, 24, 3) for line in run_of(str(n), 2 if n % 4 == 0 else 1)]
        assert noted(tmp_path / key) == wanted


def test_a_cap_holds_the_wait_of_a_task_with_a_key(user: QueueUser, tmp_path: Path) -> None:
    settings = user.settings.replace(keyed_retry_max_s=0.3)
    with RoleHost(settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        task_id = user.submit("t.keyed", str(tmp_path / "journal"), "a", 3, key="k", retry_backoff_s=1000.0)
        assert user.result(task_id) == "a"


def test_one_that_fails_for_good_lets_the_next_begin(user: QueueUser, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with RoleHost(user.settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        bad, good = user.send([user.message("t.keyed", str(journal), "a", 9, key="k", max_retries=2),
                               user.message("t.keyed", str(journal), "b", key="k")], partition=0)
        assert user.result(good) == "b"
        error = user.error(bad)
        assert (error.message, error.given_up) == ("attempt 2", True)
        until(lambda: host.shared.partitions[0].watermark == 2, "the watermark")
    assert noted(journal) == run_of("a", 3) + run_of("b")
