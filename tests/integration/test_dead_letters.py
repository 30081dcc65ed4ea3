"""Dead letters on real Kafka and Redis: from a poison task to its second life, and the command line for it.

The client's own logic is in tests/unit/test_dead_letters.py; here is what needs a broker, a worker or a process.
"""
from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.integration.test_cli import Program
from tests.support.queue_user import QueueUser
from tests.support.role_host import RoleHost, until
from tests.support.services import ROOT, random_free_port
from yadtq import TaskStatus, YADTQClient
from yadtq.cli import cli as yadtq_group
from yadtq.cli import exits
from yadtq.codec import encode
from yadtq.config import Settings
from yadtq.dead_letter import DeadLetterMessage, encode_dead_letter
from yadtq.errors import DeadLetterNotFound, TaskFailed
from yadtq.task import TaskError, TaskMessage, encode_error, encode_message, new_task_id
from yadtq.transport import open_admin
from yadtqd.yadtqctl import main as yadtqctl_group

pytestmark = pytest.mark.integration

NOW_MS = int(time.time() * 1000)


@pytest.fixture
def client(settings: Settings) -> Iterator[YADTQClient]:
    with YADTQClient(settings=settings) as one:
        yield one


class Yadtqctl(Program):
    """Runs `yadtqctl`."""

    def __call__(self, *arguments: str, status: int = 0, stdin: str = "", **environment: str) -> str:
        done = subprocess.run([sys.executable, "-m", "yadtqd.yadtqctl", *arguments], input=stdin, capture_output=True,
                              text=True, env=self.environment | environment, timeout=60, check=False, cwd=ROOT)
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        self.errors = done.stderr
        return done.stdout


@pytest.fixture
def yadtqctl(settings: Settings) -> Yadtqctl:
    return Yadtqctl(settings)


def letter(task: str = "report", code: str = "TASK_CRASHED", *, died_s: float = 0, **fields: Any) -> DeadLetterMessage:
    """A letter of a task that is on no topic."""
    message = TaskMessage(id=fields.pop("id", None) or new_task_id(), task=task, args=encode(["c-7", 1], limit=99),
                          kwargs=encode({"x": 2}, limit=99), submitted_ms=NOW_MS - 5000, n=2, key="c-7")
    error = encode_error(TaskError(code, "died of it", "ValueError", "Traceback ...\n  line 5"))
    values: dict[str, Any] = {"id": message.id, "task": task, "code": code, "message": "died of it", "partition": 1,
                              "offset": 9, "worker": "h/w1", "dead_ms": NOW_MS - round(died_s * 1000), "error": error,
                              "original": encode_message(message)}
    return DeadLetterMessage(**values | fields)


RUBBISH = {"task": "", "id": "0:4", "error": b"", "original": b"\xff\xfe rubbish"}


def put(client: YADTQClient, letters: list[DeadLetterMessage]) -> list[str]:
    """Letters, as workers write them."""
    producer = client._connections.kafka.producer
    topic, errors = client.settings.kafka_dead_letter_topic, []
    for start in range(0, len(letters), 1000):
        while producer.pending > 5000:
            time.sleep(0.001)
        items = [(0, encode_dead_letter(one), one.id.encode()) for one in letters[start:start + 1000]]
        producer.send_many(topic, items, lambda index, offset, error: errors.append(error) if error else None)
    assert producer.flush(60) == 0
    assert not errors
    return [one.id for one in letters]


# ---- the whole way --------------------------------------------------------------------------------------------------
def test_a_poison_task_is_replayed_once_it_is_mended(settings: Settings, tmp_path: Path) -> None:
    poison, journal = tmp_path / "poison", tmp_path / "journal"
    running = settings.replace(tasks=("tests.support.handlers",), auto_commit_interval_ms=100)
    poison.touch()
    with RoleHost(running, own=(0, 1, 2, 3)) as host, YADTQClient(settings=running) as client:
        host.start("isolator")
        host.start("worker", "w0", (0, 1, 2, 3))
        task_id = client.submit_task("t.crash_while", [str(poison), str(journal)])
        assert host.status("w0") == -signal.SIGSEGV
        host.start("worker", "w0", (0, 1, 2, 3), suspects=(task_id,))
        for replays in (0, 1):
            with pytest.raises(TaskFailed, match="SIGSEGV"):
                client.get_result(task_id, timeout=30)
            until(lambda replays=replays: [one.replays for one in client.dead_letters()] == [replays], "its letter")
            found = client.get_dead_letter(task_id)
            assert (found.code, found.task) == ("TASK_CRASHED", "t.crash_while")
            assert found.args == [str(poison), str(journal)]
            if replays == 1:
                poison.unlink()
            results: list[object] = []
            assert client.replay_dead_letters(task_id).replayed == (task_id,)
            if replays == 0:
                host.status("w0")                       # it is deadly still
                host.start("worker", "w0", (0, 1, 2, 3), suspects=(task_id,))
        waiter = threading.Thread(target=lambda: results.append(client.get_result(task_id, timeout=30)))
        waiter.start()
        waiter.join(40)
        assert results == ["mended"], "who waits for the old id gets the new result"
        assert list(client.dead_letters()) == []
        with pytest.raises(DeadLetterNotFound):
            client.get_dead_letter(task_id)


def test_who_waits_is_told_of_the_new_result_and_a_repeated_replay_runs_nothing(
        settings: Settings, client: YADTQClient) -> None:
    """The order of steps, with the worker's part played by hand."""
    from tests.support.played_worker import PlayedWorker
    dead = letter("addition", original=b"")
    message = TaskMessage(id=dead.id, task="addition", args=encode([1, 2], limit=99), submitted_ms=NOW_MS, replay=1)
    put(client, [letter("addition", id=dead.id, original=encode_message(message))])
    client.replay_dead_letters(dead.id)
    assert client.get_task_status(dead.id) is TaskStatus.QUEUED
    put(client, [letter("addition", id=dead.id, original=encode_message(message))])     # as if it had not been marked
    results: list[object] = []
    waiter = threading.Thread(target=lambda: results.append(client.get_result(dead.id, timeout=30)))
    waiter.start()
    assert client.replay_dead_letters(dead.id).replayed == (dead.id,)
    with PlayedWorker(settings) as worker:
        waiter.join(40)
        assert results == [3]
        put(client, [letter("addition", id=dead.id, original=encode_message(message))])
        client.replay_dead_letters(dead.id)
        last = client.submit_task("addition", [1], key=dead.id)
        client.get_result(last, timeout=20)
        time.sleep(0.3)
    assert worker.ran.count(dead.id) == 1
    record = client._connections.backend.read([dead.id])[0]
    assert record is not None
    assert (record.state, record.replay) == ("OK", 2)


def test_a_client_killed_between_publishing_and_marking_leaves_one_result(
        settings: Settings, client: YADTQClient, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    message = TaskMessage(id=new_task_id(), task="t.note", args=encode([str(journal), "ran"], limit=999),
                          submitted_ms=NOW_MS)
    put(client, [letter("t.note", id=message.id, original=encode_message(message))])
    code = ("import os, signal, sys; from yadtq import YADTQClient; from yadtq.dead_letter_replay import Replayer\n"
            "Replayer.mark = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
            "YADTQClient().replay_dead_letters(sys.argv[1])")
    died = subprocess.run([sys.executable, "-c", code, message.id], env=Program(settings).environment, timeout=60,
                          check=False)
    assert died.returncode == -signal.SIGKILL
    assert client.get_dead_letter(message.id).replays == 0
    running = settings.replace(tasks=("tests.support.handlers",))
    with RoleHost(running, own=(0, 1, 2, 3)) as host, QueueUser(running) as user:
        host.start("worker", "w0", (0, 1, 2, 3))
        assert user.result(message.id, 30) == "ran"
        assert client.replay_dead_letters(message.id).replayed == (message.id,)
        until(lambda: sum(host.shared.partitions[p].watermark for p in range(4)) == 2, "both copies are done")
    assert journal.read_text() == "ran\n"
    assert list(client.dead_letters()) == []


# ---- many -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("transport", "count"), [("librdkafka", 50_000), ("kafka-python", 10_000)])
def test_many_letters_cost_bounded_time_and_memory_while_more_come(
        settings: Settings, transport: str, count: int) -> None:
    settings = settings.replace(transport=transport)
    with YADTQClient(settings=settings) as client:
        ids = put(client, [letter(died_s=100, message="m" * 400) for _ in range(count)])
        stopping = threading.Event()

        def append() -> None:
            while not stopping.wait(0.01):
                put(client, [letter("late")])

        appender = threading.Thread(target=append)
        appender.start()
        try:
            begun = time.monotonic()
            first = next(iter(client.dead_letters(task="report", limit=1)))
            assert first.id == ids[-1]
            assert time.monotonic() - begun < 10, "the first page does not read everything"
            tracemalloc.start()
            begun = time.monotonic()
            found = sum(1 for _ in client.dead_letters(task="report"))
            took_s, peak = time.monotonic() - begun, tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        finally:
            stopping.set()
            appender.join()
        print(f"{transport}: {count:,} letters in {took_s:.1f} s, at most {peak / 1e6:.0f} MB")
        assert found == count
        assert took_s < 60
        assert peak < 25e6, "40 MB of letters: not all at once"
        assert client.purge_dead_letters(task="report", limit=100) == 100
        assert client.purge_dead_letters(task="report") == count - 100
        assert {one.task for one in client.dead_letters()} == {"late"}
        assert client.purge_dead_letters(everything=True) > 0
        admin = open_admin(settings)
        topic = settings.kafka_dead_letter_topic
        assert admin.begin_offsets(topic) == admin.end_offsets(topic), "nothing is left, not even a mark"
        admin.close()


# ---- the command line -----------------------------------------------------------------------------------------------
def test_listing_and_showing(yadtqctl: Yadtqctl, client: YADTQClient) -> None:
    assert yadtqctl("dlq", "list") == "no dead letters\n"
    old, crashed, rubbish = put(client, [letter(died_s=7200), letter("other", "TASK_FAILED", died_s=60),
                                         letter(code="INVALID_MESSAGE", **RUBBISH)])
    listed = yadtqctl("dlq", "list")
    assert [line.split()[0] for line in listed.splitlines()[1:]] == [rubbish, crashed, old]
    assert "TASK_FAILED: died of it" in listed
    assert "(no task)" in listed
    assert [one["id"] for one in yadtqctl.json("dlq", "list", "--since", "1h", "--code", "TASK_FAILED")] == [crashed]
    assert [one["id"] for one in yadtqctl.json("dlq", "list", "--until", "1h", "--task", "report")] == [old]
    assert [one["id"] for one in yadtqctl.json("dlq", "list", "--id", old)] == [old]
    assert "all" in yadtqctl("dlq", "list", "--count")
    yadtqctl("dlq", "list", "--limit", "1")
    assert "newest 1" in yadtqctl.errors
    shown = yadtqctl("dlq", "show", old)
    for part in ("report", "TASK_CRASHED: died of it", '["c-7", 1]', '{"x": 2}', "partition 1, offset 9", "line 5"):
        assert part in shown
    assert "rubbish" in yadtqctl("dlq", "show", rubbish)
    fields = yadtqctl.json("dlq", "show", crashed)
    assert (fields["args"], fields["kwargs"]) == (["c-7", 1], {"x": 2})
    assert (fields["attempt"], fields["type"]) == (2, "ValueError")
    both = yadtqctl.json("dlq", "show", "nope", old, status=exits.NOT_FOUND)
    assert both[0]["error"]["code"] == "DEAD_LETTER_NOT_FOUND"
    assert len(Program(client.settings).json("dlq", "list")) == 3, "the same in the other command line"


def test_replaying(yadtqctl: Yadtqctl, client: YADTQClient) -> None:
    one, two, three = put(client, [letter(), letter(), letter("other")])
    rubbish, = put(client, [letter(code="INVALID_MESSAGE", **RUBBISH)])
    assert yadtqctl("dlq", "replay", "--task", "report", "--dry-run").split() == [one, two]
    assert yadtqctl.json("dlq", "replay", "--all", "--dry-run") == {
        "replayed": [one, two, three], "skipped": {rubbish: "it is no task (INVALID_MESSAGE)"}, "dry_run": True}
    yadtqctl("dlq", "replay", "--task", "report", stdin="n\n", status=exits.REFUSED)
    assert "Replay 2 dead letters" in yadtqctl.errors
    yadtqctl("dlq", "replay", "--all", status=exits.REFUSED)
    assert "nothing was replayed" in yadtqctl.errors
    assert yadtqctl("dlq", "replay", one) == "1 dead letter replayed\n"
    assert client.get_task_status(one) is TaskStatus.QUEUED
    assert yadtqctl("dlq", "replay", "--task", "report", stdin="y\n") == "1 dead letter replayed\n"
    yadtqctl("dlq", "replay", one, status=exits.NOT_FOUND)
    yadtqctl("dlq", "replay", rubbish, status=exits.REFUSED)
    assert "is no task" in yadtqctl.errors
    assert yadtqctl.json("dlq", "replay", "--all", "--yes")["replayed"] == [three]


def test_purging(yadtqctl: Yadtqctl, client: YADTQClient) -> None:
    put(client, [letter(died_s=7200), letter(), letter("other"), letter(code="INVALID_MESSAGE", **RUBBISH)])
    assert yadtqctl("dlq", "purge", "--until", "1h", "--dry-run") == "1 dead letter would be purged\n"
    yadtqctl("dlq", "purge", "--until", "1h", status=exits.REFUSED)
    assert "nothing was purged" in yadtqctl.errors
    assert yadtqctl("dlq", "purge", "--until", "1h", stdin="y\n") == "1 dead letter purged\n"
    assert yadtqctl.json("dlq", "purge", "0:4", "nope", "--yes", status=exits.NOT_FOUND)["purged"] == 1
    assert yadtqctl("dlq", "purge", "--all", "--yes") == "2 dead letters purged\n"
    assert yadtqctl("dlq", "purge", "--all") == "0 dead letters purged\n"


@pytest.mark.parametrize(("arguments", "said"), [
    (("replay",), "which ones?"), (("purge",), "--dry-run"), (("purge", "x", "--all"), "either ids"),
    (("replay", "--all", "--task", "t"), "either ids"), (("show",), "ID"), (("list", "--since", "never"), "no time"),
    (("list", "--limit", "0"), "limit"), (("lsit",), "lsit")])
def test_wrong_usage(arguments: tuple[str, ...], said: str) -> None:
    for program in (yadtqctl_group, yadtq_group):
        done = CliRunner().invoke(program, ["dlq", *arguments])
        assert (done.exit_code, said in done.output) == (exits.USAGE, True), done.output


def test_a_kafka_that_is_away_is_named_and_completion_knows_the_commands(yadtqctl: Yadtqctl) -> None:
    away = {"YADTQ_KAFKA_SERVERS": f"127.0.0.1:{random_free_port()}"}
    yadtqctl("--timeout", "0.5", "dlq", "list", status=exits.UNREACHABLE, **away)
    assert away["YADTQ_KAFKA_SERVERS"] in yadtqctl.errors
    assert "--config or YADTQ_KAFKA_SERVERS" in yadtqctl.errors
    yadtqctl("--config", "/no/such.toml", "dlq", "list", status=exits.USAGE)
    for words, found in (("yadtqctl dlq re", "replay"), ("yadtqctl dlq list --code TASK_C", "TASK_CRASHED")):
        completing = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_YADTQCTL_COMPLETE": "bash_complete"}
        assert found in yadtqctl(**completing)
    shown = yadtqctl("dlq", "--help")
    for status in (exits.NOT_FOUND, exits.UNREACHABLE, exits.REFUSED):
        assert f"{status:>3}  " in shown
    for name in ("list", "show", "replay", "purge"):
        shown = CliRunner().invoke(yadtqctl_group, ["dlq", name, "--help"]).output
        assert f"yadtqctl dlq {name}" in shown
        assert "--json" in shown
