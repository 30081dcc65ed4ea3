"""The program `yadtq` on a real Kafka and a real Redis: what it prints, and how it ends."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from tests.support.played_worker import PlayedWorker
from tests.support.services import random_free_port
from yadtq.cli import exits
from yadtq.config import Settings
from yadtq.heartbeat import Heartbeat, encode_heartbeat
from yadtq.transport import open_producer

pytestmark = pytest.mark.integration


class Program:
    """Runs `yadtq` with the test's servers, from the environment as a shell would."""

    def __init__(self, settings: Settings) -> None:
        names = ("kafka_servers", "kafka_task_topic", "kafka_heartbeat_topic", "kafka_dead_letter_topic",
                 "kafka_delayed_topic", "redis_host", "redis_port")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("YADTQ_")}
        self.environment = kept | {f"YADTQ_{name.upper()}": str(getattr(settings, name)) for name in names}

    def __call__(self, *arguments: str, status: int = 0, stdin: str = "", **environment: str) -> str:
        done = subprocess.run([sys.executable, "-m", "yadtq.cli", *arguments], input=stdin, capture_output=True,
                              text=True, env=self.environment | environment, timeout=60, check=False)
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback (most recent call last)" not in done.stderr or status == exits.TASK_FAILED
        self.errors = done.stderr
        return done.stdout

    def json(self, *arguments: str, status: int = 0, **options: str) -> object:
        return json.loads(self(*arguments, "--json", status=status, **options))


@pytest.fixture
def yadtq(settings: Settings) -> Program:
    return Program(settings)


def test_topics_are_made_and_grown(yadtq, settings):
    name, had = settings.kafka_task_topic, settings.num_partitions
    assert yadtq.json("topics")["topics"][name] == had
    assert yadtq.json("-o", f"num_partitions={had + 2}", "topics")["topics"][name] == had       # not unless asked to
    yadtq("-o", f"num_partitions={had + 2}", "topics")
    assert "yadtq topics --grow" in yadtq.errors
    assert yadtq.json("-o", f"num_partitions={had + 2}", "topics", "--grow")["topics"][name] == had + 2
    assert f"{had + 2}\n" in yadtq("topics", "--grow").splitlines(keepends=True)[0]


def test_submit_wait_and_result(yadtq, settings):
    with PlayedWorker(settings):
        assert yadtq("submit", "addition", "1", "-2.5", "--wait") == "-1.5\n"
        task_id = yadtq("submit", "echo", '{"a": [1, null]}').strip()
        assert yadtq("result", task_id) == '{"a": [1, null]}\n'
        assert yadtq.json("result", task_id) == {"id": task_id, "result": {"a": [1, None]}}
        assert yadtq.json("submit", "echo", "word", "--task-id", "mine", "--key", "k") == {"id": "mine"}
        yadtq("result", "mine")
        status = yadtq.json("status", "mine")
        assert (status["status"], status["task"], status["worker"]) == ("SUCCESS", "echo", "played/w0")
        assert "SUCCESS" in yadtq("status", "mine")
        assert len(yadtq.json("result", "mine", task_id)) == 2


def test_a_failed_task(yadtq, settings):
    with PlayedWorker(settings):
        yadtq("submit", "fail", "the reason", "--wait", status=exits.TASK_FAILED)
        assert "TASK_FAILED: the reason" in yadtq.errors
        assert "played_worker.py" in yadtq.errors
        answer = yadtq.json("submit", "fail", "the reason", "--wait", status=exits.TASK_FAILED)
        assert (answer["error"]["code"], answer["error"]["type"]) == ("TASK_FAILED", "ValueError")
        listed = yadtq.json("tasks", "--status", "failed", "--limit", "1")
        assert [one["error"]["message"] for one in listed] == ["the reason"]
        assert answer["id"] == listed[0]["id"]
        assert "the reason" in yadtq("tasks", "--since", "1h", "--task", "fail")
        assert yadtq("tasks", "--until", "1h") == "no tasks\n"
        assert yadtq.json("tasks", "--count")["FAILED"] == 2


def test_batches(yadtq, settings):
    lines = '{"task": "addition", "args": [1, 2]}\n\n{"task": "echo", "args": ["x"]}\n'
    with PlayedWorker(settings):
        shown = yadtq("submit", "--batch", "-", "--wait", stdin=lines).splitlines()
        assert [line.split("  ")[1] for line in shown] == ["3", "x"]
    assert len(yadtq.json("submit", "--batch", "-", stdin=lines)["ids"]) == 2
    answer = yadtq.json("submit", "--batch", "-", status=exits.REFUSED, stdin=lines + '{"task": "no good"}')
    assert list(answer["refused"]) == ["3"]
    yadtq("submit", "--batch", "-", status=exits.USAGE, stdin="{no json")
    assert "line 1" in yadtq.errors


def test_cancel_and_clear(yadtq):
    task_id = yadtq("submit", "addition", "1").strip()
    yadtq("result", task_id, "--timeout", "0.1", status=exits.TIMEOUT)
    assert yadtq("cancel", task_id) == f"{task_id}  CONFIRMED\n"
    assert yadtq.json("cancel", task_id)["answers"] == {task_id: "ENDED"}
    yadtq("result", task_id, status=exits.TASK_FAILED)
    yadtq("clear", status=exits.REFUSED, stdin="n\n")
    yadtq("clear", status=exits.REFUSED)
    assert "nothing was cleared" in yadtq.errors
    assert yadtq("clear", stdin="y\n") == "1 tasks cleared\n"
    assert yadtq.json("clear", "--yes") == {"cleared": 0}


def test_workers(yadtq, settings):
    assert "is yadtqd running" in yadtq("workers")          # there are no topics yet
    yadtq("submit", "addition", "1")                        # makes them
    assert "is yadtqd running" in yadtq("workers")
    producer = open_producer(settings)
    for name, age_ms in (("h/w0", 0), ("h/w1", 60_000)):
        producer.send(settings.kafka_heartbeat_topic, 0, encode_heartbeat(Heartbeat(
            worker_id=name, host="h", pid=5, partitions=[0], sent_ms=int(time.time() * 1000) - age_ms, interval_s=5.0,
            expires_after_s=15.0, task="addition", task_since_ms=int(time.time() * 1000))))
    assert producer.close(10) == 0
    table = yadtq("workers")
    assert "h/w0" in table
    assert "RUNNING" in table
    fields = yadtq.json("workers")
    assert [one["id"] for one in fields["workers"]] == ["h/w0", "h/w1"]
    assert fields["broker_outage"] is False


@pytest.mark.parametrize(("arguments", "said"), [
    (("submit",), "which task"), (("submit", "addition", "[1"), "not valid JSON"),
    (("submit", "addition", "1", "--wiat"), "no such option: --wiat"),
    (("submit", "addition", "--kwargs", "5"), "JSON object"), (("tasks", "--since", "never"), "no time"),
    (("tasks", "--status", "odd"), "odd"), (("-o", "redis_prt=1", "tasks"), "redis_port"),
    (("-o", "x", "tasks"), "NAME=VALUE"),
    (("--config", "/no/such.toml", "tasks"), "/no/such.toml"), (("status",), "ID"), (("nothing",), "nothing")])
def test_wrong_usage(yadtq, arguments, said):
    yadtq(*arguments, status=exits.USAGE)
    assert said in yadtq.errors


def test_refused_and_unknown(yadtq):
    yadtq("submit", "bad name", status=exits.REFUSED)
    yadtq("-o", "max_payload_bytes=64", "submit", "echo", "x" * 100, status=exits.REFUSED)
    assert "PAYLOAD_TOO_LARGE" in yadtq.errors
    yadtq("status", "nope", status=exits.NOT_FOUND)
    yadtq("result", "nope", status=exits.NOT_FOUND)
    assert yadtq.json("result", "nope", status=exits.NOT_FOUND)["error"]["code"] == "TASK_NOT_FOUND"


def test_servers_that_are_away_are_named_with_what_to_do(yadtq):
    port = random_free_port()
    yadtq("--redis", f"127.0.0.1:{port}", "--connect-timeout", "0.5", "tasks", status=exits.UNREACHABLE)
    assert f"127.0.0.1:{port}" in yadtq.errors
    assert "./setup.sh up" in yadtq.errors
    yadtq("--kafka-servers", f"127.0.0.1:{port}", "--connect-timeout", "0.5", "submit", "addition",
          status=exits.UNREACHABLE)
    assert "is Kafka running at" in yadtq.errors
    assert yadtq("--kafka-servers", f"127.0.0.1:{port}", "tasks") == "no tasks\n"       # needs no Kafka


def test_about(yadtq):
    assert "yadtq" in yadtq("version")
    assert yadtq.json("version")["kafka-python"]
    for shell in ("bash", "zsh", "fish"):
        assert "_YADTQ_COMPLETE" in yadtq("completion", shell)
    listed = yadtq("--help")
    for status, meaning in exits.TABLE:
        assert f"{status:>3}  {meaning}" in listed
    words = {"COMP_WORDS": "yadtq sub", "COMP_CWORD": "1", "_YADTQ_COMPLETE": "bash_complete"}
    assert "submit" in yadtq(**words)
    words |= {"COMP_WORDS": "yadtq submit matrix", "COMP_CWORD": "2"}
    assert "matrix_addition" in yadtq(**words)


@pytest.mark.parametrize("name", ["submit", "result", "status", "tasks", "cancel", "clear", "workers", "version",
                                  "completion"])
def test_every_command_has_help_an_example_and_json(yadtq, name):
    shown = yadtq(name, "--help")
    assert "--json" in shown
    assert f"yadtq {name}" in shown
