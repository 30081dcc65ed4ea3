"""A worker on real Kafka and Redis: what it answers for every kind of task, and in which order it does things.

The workers are forked by a host that restarts nothing (tests.support.role_host); "owned" partitions stay so.
"""
from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.queue_user import QueueUser
from tests.support.role_host import RoleHost, until
from yadtq import codec
from yadtq.config import Settings
from yadtq.dead_letter import decode_dead_letter
from yadtq.heartbeat import decode_heartbeat
from yadtq.result_backend import ClaimEntry
from yadtq.task import decode_error
from yadtq.transport import open_admin, open_consumer
from yadtqd.exits import Exit
from yadtqd.slot import WAITS_FOR_UPGRADE
from yadtqd.worker_state import WorkerState

pytestmark = pytest.mark.integration


@pytest.fixture(params=["librdkafka", "kafka-python"])
def worker_settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    return settings.replace(transport=request.param, tasks=("tests.support.handlers",), auto_commit_interval_ms=100)


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.replace(tasks=("tests.support.handlers",), auto_commit_interval_ms=100)


@pytest.fixture
def user(worker_settings: Settings) -> Iterator[QueueUser]:
    with QueueUser(worker_settings) as user:
        yield user


@pytest.fixture
def quick_user(quick: Settings) -> Iterator[QueueUser]:
    with QueueUser(quick) as user:
        yield user


def records_of(settings: Settings, topic: str, wanted: int, timeout_s: float = 10) -> list[bytes]:
    consumer = open_consumer(settings)
    consumer.assign(topic, {0: 0})
    found: list[bytes] = []

    def look() -> bool:
        found.extend(record.value for record in consumer.poll(100, 0.1))
        return len(found) >= wanted

    until(look, f"{wanted} records in {topic}", timeout_s)
    consumer.close()
    return found


# ---- what a worker answers ------------------------------------------------------------------------------------------
def test_every_kind_of_end(worker_settings: Settings, user: QueueUser) -> None:
    with RoleHost(worker_settings, own=(0, 1, 2, 3)) as host:
        host.start("worker", "w0", (0, 1, 2, 3))
        ids = user.send([user.message("addition", n, 1) for n in range(1000)])
        assert user.results(ids) == [n + 1 for n in range(1000)]
        assert user.error(user.submit("no_such_task")).code == "TASK_NOT_REGISTERED"
        failed = user.error(user.submit("t.raise", "how it failed", partition=3))
        assert (failed.code, failed.error_type, failed.message) == ("TASK_FAILED", "ValueError", "how it failed")
        assert "handlers.py" in failed.traceback
        assert "yadtqd" not in failed.traceback
        assert user.error(user.submit("t.unencodable")).code == "RESULT_NOT_ENCODABLE"
        assert user.error(user.submit("t.large", 900_000)).code == "PAYLOAD_TOO_LARGE"
        assert len(user.result(user.submit("t.large", 800_000))) == 800_000
        assert user.error(user.submit("t.exit", "sys")).error_type == "SystemExit"
        assert user.error(user.submit("t.exit", "interrupt")).error_type == "KeyboardInterrupt"
        assert user.result(user.submit("addition", 1, 2)) == 3      # the same worker lives
        assert user.result(user.submit("t.async_sleep", 0.01)) == "slept"
        assert not host.statuses
        slot = host.slot("w0")
        until(lambda: slot.failed == 6, "the counters")
        assert slot.done == 1003


def test_what_is_no_task_goes_to_the_dead_letters_and_is_passed(worker_settings: Settings, user: QueueUser) -> None:
    garbage = [b"", b"\xff\xff", b"garbage"]
    for value in garbage:
        user.producer.send(worker_settings.kafka_task_topic, 0, value)
    after = user.submit("addition", 1, 2)
    with RoleHost(worker_settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        assert user.result(after) == 3
        values = records_of(worker_settings, worker_settings.kafka_dead_letter_topic, 3)
        letters = [decode_dead_letter(value) for value in values]
        assert sorted(letter.original for letter in letters) == sorted(garbage)
        assert {letter.code for letter in letters} == {"INVALID_MESSAGE"}
        assert {letter.id for letter in letters} == {"0:0", "0:1", "0:2"}
        until(lambda: host.shared.partitions[0].watermark == 4, "the watermark")


def test_a_record_of_a_newer_version_waits_with_all_behind_it(worker_settings: Settings, user: QueueUser) -> None:
    """It is sound: it must not be dead-lettered, nor passed by a commit, nor may the worker be taken for stuck."""
    newer = b"\x9f\x02" + bytes(14)                  # an array whose first element, the version, is 2
    before = user.submit("addition", 1, 2)
    user.producer.send(worker_settings.kafka_task_topic, 0, newer)
    behind = user.submit("addition", 2, 2)
    elsewhere = user.submit("addition", 3, 2, partition=1)
    with RoleHost(worker_settings, own=(0, 1)) as host:
        host.start("worker", "w0", (0, 1))
        assert user.results([before, elsewhere]) == [3, 5]
        until(lambda: host.shared.partitions[0].watermark == 1, "the watermark in front of it")
        until(lambda: host.slot("w0").waiting_for == WAITS_FOR_UPGRADE, "the worker says so")
        time.sleep(1)
        record = user.record(behind)
        assert record is not None
        assert record.state == "Q"
        assert host.shared.partitions[0].watermark == 1
        later = user.submit("addition", 4, 2, partition=1)
        assert user.result(later) == 6               # the other partition goes on


def test_a_dead_letter_fits_whatever_its_record_was(quick: Settings, quick_user: QueueUser) -> None:
    """Else it could never be published, and no commit would pass the record."""
    large = b"no task" + bytes(quick.kafka_max_message_bytes - 200)
    quick_user.producer.send(quick.kafka_task_topic, 0, large)
    after = quick_user.submit("addition", 1, 2)
    with RoleHost(quick, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        assert quick_user.result(after) == 3
        until(lambda: host.shared.partitions[0].watermark == 2, "the watermark")
        letter = decode_dead_letter(records_of(quick, quick.kafka_dead_letter_topic, 1)[0])
        assert letter.original == large[:4096]
        assert f"{len(large):,} bytes" in letter.message


def test_a_time_out_beyond_all_clocks_is_no_poison(quick: Settings, quick_user: QueueUser) -> None:
    with RoleHost(quick, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        for seconds in (1e12, 1e300, float("inf")):
            assert quick_user.result(quick_user.submit("addition", 1, 2, timeout_s=seconds, grace_s=seconds)) == 3


def test_heartbeats_and_the_epoch_come_from_the_log(quick: Settings, quick_user: QueueUser) -> None:
    settings = quick.replace(heartbeat_interval=0.3)
    with RoleHost(settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        first = host.slot("w0").epoch
        running = quick_user.submit("t.sleep", 1.0)
        beats = [decode_heartbeat(v) for v in records_of(settings, settings.kafka_heartbeat_topic, 5)]
        assert beats[0].state == "STARTING"
        assert first == 1                            # the offset of its STARTING heartbeat, plus one
        assert beats[1].state == "RUNNING"
        assert beats[1].worker_id == f"{settings.host_name}/w0"
        assert any(beat.task_id == running for beat in beats)
        assert beats[-1].epoch == first
        host.kill("w0")
        host.status("w0")
        host.start("worker", "w0", (0,))
        assert host.slot("w0").epoch > first


def test_a_long_task_is_shown_and_results_before_it_do_not_wait(quick: Settings, quick_user: QueueUser) -> None:
    with RoleHost(quick, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        messages = [quick_user.message("addition", 1, 2), quick_user.message("t.sleep", 2.0)]
        begun = time.monotonic()
        short, long = quick_user.send(messages, partition=0)
        assert quick_user.result(short) == 3
        until(lambda: (record := quick_user.record(long)) and record.shown, "PROCESSING")
        assert time.monotonic() - begun < 1.5
        record = quick_user.record(long)
        assert record is not None
        assert record.worker == f"{quick.host_name}/w0"
        assert quick_user.result(long) == "slept"
        record = quick_user.record(long)
        assert record is not None
        assert record.started_ms is not None
        assert record.ended_ms is not None
        assert 1900 < record.ended_ms - record.started_ms < 5000


def test_copies_of_one_task_run_once(quick: Settings, quick_user: QueueUser, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    message = quick_user.message("t.note", str(journal), "ran", 0.3)
    quick_user.send([message] * 5, partition=0)
    quick_user.send([message] * 2, partition=1)
    with RoleHost(quick, own=(0, 1)) as host:
        host.start("worker", "w0", (0, 1))
        assert quick_user.result(message.id) == "ran"
        until(lambda: [host.shared.partitions[p].watermark for p in (0, 1)] == [5, 2], "all copies done")
    assert journal.read_text() == "ran\n"


def test_an_expired_task_is_not_started(quick: Settings, quick_user: QueueUser) -> None:
    gone = quick_user.submit("addition", 1, 2, expires_ms=int(time.time() * 1000) - 1)
    with RoleHost(quick, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        assert quick_user.error(gone).code == "TASK_EXPIRED"


def test_a_cancelled_task_is_not_started(quick: Settings, quick_user: QueueUser, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    task_id = quick_user.submit("t.note", str(journal), "ran")
    assert quick_user.backend.cancel([task_id]) == ["CONFIRMED"]
    with RoleHost(quick, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        until(lambda: host.shared.partitions[0].watermark == 1, "the watermark")
    assert not journal.exists()


# ---- deadlines ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("handler", [("t.sleep", 30), ("t.swallow",)])
def test_a_soft_time_out_ends_the_task_and_recycles_the_worker(
        quick: Settings, quick_user: QueueUser, handler: tuple[object, ...], tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with RoleHost(quick, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        stuck = quick_user.message(str(handler[0]), *handler[1:], timeout_s=0.2)
        behind = [quick_user.message("t.note", str(journal), str(n)) for n in range(20)]
        quick_user.send([stuck, *behind], partition=0)
        assert quick_user.error(stuck.id).code == "TASK_TIMEOUT"
        assert host.status("w0") == Exit.SOFT_RECYCLE
        host.start("worker", "w0", (0,))             # no isolator is there: its neighbours must not need one
        assert quick_user.results([m.id for m in behind]) == [str(n) for n in range(20)]
    assert journal.read_text().split() == [str(n) for n in range(20)]


def test_the_supervisors_soft_time_out(quick: Settings, quick_user: QueueUser) -> None:
    with RoleHost(quick, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        task_id = quick_user.submit("t.sleep", 30, timeout_s=1.0, grace_s=5.0)
        slot = host.slot("w0")
        task = until(lambda: slot.read().task, "the task in its slot")
        assert task.task_id == task_id
        assert 0.9e9 < task.soft_ns - task.started_ns < 1.1e9
        assert 5.9e9 < task.hard_ns - task.started_ns < 6.1e9
        slot.soft_for = task.n
        host.kill("w0", signal.SIGUSR1)
        assert quick_user.error(task_id).code == "TASK_TIMEOUT"
        assert host.status("w0") == Exit.SOFT_RECYCLE


def test_a_hard_time_out_is_an_end_and_no_retry(quick: Settings, quick_user: QueueUser, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with RoleHost(quick, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        task_id = quick_user.submit("t.note", str(journal), "ran", 30)
        until(lambda: journal.exists() and journal.read_text(), "its start")
        host.kill("w0")
        host.status("w0")
        host.start("worker", "w0", (0,), hard=((task_id, 0, 0, 0),))
        assert quick_user.error(task_id).code == "TASK_HARD_TIMEOUT"
    assert journal.read_text() == "ran\n"


def test_async_tasks_run_at_the_same_time_and_have_time_outs(quick: Settings, quick_user: QueueUser) -> None:
    with RoleHost(quick, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        begun = time.monotonic()
        ids = quick_user.send([quick_user.message("t.async_sleep", 0.5) for _ in range(60)], partition=0)
        assert quick_user.results(ids) == ["slept"] * 60
        assert time.monotonic() - begun < 10         # one after the other: 30 s
        late = quick_user.submit("t.async_sleep", 30, timeout_s=0.2)
        assert quick_user.error(late).code == "TASK_TIMEOUT"
        assert quick_user.result(quick_user.submit("addition", 1, 2)) == 3
        assert not host.statuses                     # a cancelled coroutine breaks nothing: no recycling


def test_a_pool_of_threads(quick: Settings, quick_user: QueueUser) -> None:
    with RoleHost(quick.replace(worker_threads=8), own=(0,)) as host:
        host.start("worker", "w0", (0,))
        begun = time.monotonic()
        ids = quick_user.send([quick_user.message("t.sleep", 0.5) for _ in range(24)], partition=0)
        assert quick_user.results(ids) == ["slept"] * 24
        assert time.monotonic() - begun < 8          # one after the other: 12 s
        until(lambda: host.shared.partitions[0].watermark == 24, "the watermark")


# ---- order and ownership --------------------------------------------------------------------------------------------
def test_a_worker_that_was_replaced_stops_and_commits_nothing(quick: Settings, quick_user: QueueUser) -> None:
    with RoleHost(quick, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        epoch = host.slot("w0").epoch
        assert quick_user.backend.fence(0, epoch + 1000) == epoch + 1000
        quick_user.submit("addition", 1, 2, note=False)
        assert host.status("w0") == Exit.STALE
        assert host.shared.partitions[0].watermark == 0
        host.start("worker", "w0", (0,), wait=False)     # its epoch is still below the fence
        assert host.status("w0") == Exit.STALE


def test_no_body_starts_while_the_lease_is_over(quick: Settings, quick_user: QueueUser) -> None:
    with RoleHost(quick, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        for_ever = host.shared.lease_ns
        host.shared.lease_ns = 1
        task_id = quick_user.submit("addition", 1, 2)
        time.sleep(0.5)
        record = quick_user.record(task_id)
        assert record is not None
        assert record.state in ("Q", "P")
        host.shared.lease_ns = for_ever
        assert quick_user.result(task_id) == 3


def test_nothing_is_published_while_the_lease_is_over(quick: Settings, quick_user: QueueUser) -> None:
    """A zombie's dead letter would be one of a task that another owner has had since."""
    with RoleHost(quick, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        for_ever = host.shared.lease_ns
        host.shared.lease_ns = 1
        quick_user.producer.send(quick.kafka_task_topic, 0, b"no task")
        until(lambda: host.shared.partitions[0].end_offset == 1, "the record to be seen")
        time.sleep(1.0)
        admin = open_admin(quick)
        assert set(admin.end_offsets(quick.kafka_dead_letter_topic).values()) == {0}
        admin.close()
        assert host.shared.partitions[0].watermark == 0
        host.shared.lease_ns = for_ever
        records_of(quick, quick.kafka_dead_letter_topic, 1)
        until(lambda: host.shared.partitions[0].watermark == 1, "the watermark")


def test_a_paused_partition_is_not_fetched(worker_settings: Settings, user: QueueUser) -> None:
    with RoleHost(worker_settings, own=(0, 1)) as host:
        host.start("worker", "w0", (0, 1))
        host.shared.partitions[0].paused = 1
        time.sleep(1.0)
        waits = user.submit("addition", 1, 2, partition=0)
        assert user.result(user.submit("addition", 1, 2, partition=1)) == 3
        record = user.record(waits)
        assert record is not None
        assert record.state == "Q"
        host.shared.partitions[0].paused = 0
        assert user.result(waits) == 3


def test_drain_ends_what_runs_and_leaves_the_rest(quick: Settings, quick_user: QueueUser, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with RoleHost(quick, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        ids = quick_user.send([quick_user.message("t.note", str(journal), str(n), 1.0) for n in range(10)], partition=0)
        until(lambda: journal.exists() and journal.read_text(), "the first task")
        host.kill("w0", signal.SIGTERM)
        until(lambda: host.slot("w0").state == WorkerState.STOPPING, "STOPPING")
        assert host.status("w0") == Exit.OK
        ran = len(journal.read_text().split())
        assert 1 <= ran <= 5
        assert host.shared.partitions[0].watermark == ran     # recorded, durable, and to be committed
        host.shared.partitions[0].committed = ran
        host.start("worker", "w0", (0,))                      # no isolator: what was claimed is no suspect
        assert quick_user.results(ids) == [str(n) for n in range(10)]
    assert journal.read_text().split() == [str(n) for n in range(10)]


def test_the_watermark_waits_for_the_disk(quick: Settings, quick_user: QueueUser) -> None:
    with RoleHost(quick, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        ids = quick_user.send([quick_user.message("addition", n, 1) for n in range(100)], partition=0)
        begun = time.monotonic()
        quick_user.results(ids)
        assert time.monotonic() - begun < 1.5        # an answer waits for no disk
        assert host.shared.partitions[0].watermark == 0
        until(lambda: host.shared.partitions[0].watermark == 100, "the watermark")
        assert time.monotonic() - begun > 1.5


def test_a_sigkill_among_a_thousand_tasks(worker_settings: Settings, user: QueueUser) -> None:
    with RoleHost(worker_settings, own=(0, 1, 2, 3)) as host:
        host.start("isolator")
        host.start("worker", "w0", (0, 1))
        host.start("worker", "w1", (2, 3))
        ids = user.send([user.message("t.sleep", 0.001) for _ in range(1000)])
        for n in range(3):
            time.sleep(0.1)
            name = ("w0", "w1")[n % 2]
            task = host.slot(name).read().task
            host.kill(name)
            host.status(name)
            host.start("worker", name, (0, 1) if name == "w0" else (2, 3),
                       suspects=(task.task_id,) if task else ())
        assert user.results(ids) == ["slept"] * 1000
        until(lambda: [host.shared.partitions[p].watermark for p in range(4)] == [250] * 4, "the watermarks")


# ---- suspects -------------------------------------------------------------------------------------------------------
def test_a_poison_task_is_found_and_its_neighbours_are_innocent(
        quick: Settings, quick_user: QueueUser, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with RoleHost(quick, own=(0,)) as host:
        host.start("isolator")
        host.start("worker", "w0", (0,))
        good = [quick_user.message("addition", n, 1) for n in range(40)]
        poison = quick_user.message("t.crash", str(journal))
        quick_user.send([*good[:20], poison, *good[20:]], partition=0)
        assert host.status("w0") == -signal.SIGSEGV
        task = host.slot("w0").read().task
        assert task is not None
        assert task.task_id == poison.id             # its slot names it, after its death
        host.start("worker", "w0", (0,), suspects=(poison.id,))
        assert quick_user.results([m.id for m in good]) == [n + 1 for n in range(40)]
        error = quick_user.error(poison.id)
        assert error.code == "TASK_CRASHED"
        assert "SIGSEGV" in error.message
        letter = decode_dead_letter(records_of(quick, quick.kafka_dead_letter_topic, 1)[0])
        assert (letter.id, letter.code) == (poison.id, "TASK_CRASHED")
        assert decode_error(letter.error) == error
        until(lambda: host.shared.partitions[0].watermark == 41, "the watermark")
        assert not host._died("w0")
    assert len(journal.read_text().split("\n")) - 1 == 1 + quick.max_crashes


def test_when_nobody_saw_the_death_all_claims_are_suspects(quick: Settings, quick_user: QueueUser) -> None:
    """Another host had them: they run one by one in processes of their own, and end well."""
    messages = [quick_user.message("addition", n, 1) for n in range(10)]
    quick_user.send(messages, partition=0)
    entries = [ClaimEntry(m.id, 0, 0, m.task, m.submitted_ms) for m in messages]
    assert {c.answer for c in quick_user.backend.claim(0, 0, entries, 1)} == {"RUN"}
    with RoleHost(quick, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        time.sleep(0.5)
        assert all((r := quick_user.record(m.id)) and r.state == "P" for m in messages)    # they wait for an isolator
        host.start("isolator")
        assert quick_user.results([m.id for m in messages]) == [n + 1 for n in range(10)]


def test_a_dead_letter_that_was_not_published_is_published_by_the_successor(
        quick: Settings, quick_user: QueueUser) -> None:
    """Record, publish, commit: the worker died after the record."""
    from yadtq.result_backend import FinishEntry
    from yadtq.task import TaskError, encode_error

    message = quick_user.message("addition", 1, 2)
    quick_user.send([message], partition=0)
    entry = ClaimEntry(message.id, 0, 0, message.task, message.submitted_ms)
    assert quick_user.backend.claim(0, 0, [entry], 1)[0].answer == "RUN"
    error = encode_error(TaskError("TASK_CRASHED", "three times"))
    end = FinishEntry(message.id, 0, 0, message.task, message.submitted_ms, "KO", 0, 1, 2, b"", error)
    assert quick_user.backend.finish(0, 0, [end], "h/w9") == ["DONE"]
    with RoleHost(quick, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        letter = decode_dead_letter(records_of(quick, quick.kafka_dead_letter_topic, 1)[0])
        assert (letter.id, letter.message) == (message.id, "three times")
        until(lambda: host.shared.partitions[0].watermark == 1, "the watermark")


def test_isolated_tasks(quick: Settings, quick_user: QueueUser, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with RoleHost(quick, own=(0,)) as host:
        host.start("isolator")
        host.start("worker", "w0", (0,))
        ids = quick_user.send([quick_user.message("t.isolated_pid") for _ in range(10)], partition=0)
        pids = {found["pid"] for found in quick_user.results(ids)}
        assert len(pids) == 10
        big = quick_user.result(quick_user.submit("t.isolated_pid", b"x" * 600_000))
        assert big["payload"] == b"x" * 600_000
        assert big["session"] == big["parent"] != host.pids["isolator"]     # its keeper
        hog = quick_user.error(quick_user.submit("t.isolated_hog"))
        assert (hog.code, hog.error_type) == ("TASK_MEMORY_LIMIT", "MemoryError")
        assert "190.7 MiB" in hog.message
        assert quick_user.error(quick_user.submit("t.isolated_sleep", 30, timeout_s=0.3)).code == "TASK_TIMEOUT"
        assert quick_user.error(quick_user.submit("t.isolated_stuck")).code == "TASK_HARD_TIMEOUT"
        assert quick_user.error(quick_user.submit("t.isolated_crash", str(journal))).code == "TASK_CRASHED"
        assert journal.read_text().split() == ["crash"] * quick.max_crashes
        assert quick_user.result(quick_user.submit("addition", 1, 2)) == 3
        assert not host.statuses


def test_the_isolator_may_die(quick: Settings, quick_user: QueueUser) -> None:
    with RoleHost(quick, own=(0,)) as host:
        host.start("isolator")
        host.start("worker", "w0", (0,))
        task_id = quick_user.submit("t.isolated_sleep", 1.0)
        until(lambda: host.slot("w0").read().task, "the task")
        time.sleep(0.2)
        host.kill("isolator")
        host.status("isolator")
        host.start("isolator")
        assert quick_user.result(task_id) == "slept"


def test_results_are_the_bytes_of_the_codec(quick: Settings, quick_user: QueueUser) -> None:
    with RoleHost(quick, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        record = quick_user.ended(quick_user.submit("addition", 2**70, 1))
        assert record.result == codec.encode(2**70 + 1, limit=100)
