"""`up` starts what is missing and says where; `down` ends exactly that; others' servers are used and left alone.

The script is run as setup.sh runs it, on folders of the test's own; ports are the test's own, too.
"""
from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from local_servers import kafka_answers, port_is_free, random_free_port, redis_answers, start_time
from tests.support.services import ROOT, KafkaServer, RedisServer
from yadtq.config import Settings

SCRIPT = ROOT / "packaging" / "setup" / "local_stack.py"
Run = Callable[..., subprocess.CompletedProcess[str]]


def clean_env() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("YADTQ_")}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Calls the script; what it started is ended after the test."""
    def call(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-W", "ignore", SCRIPT, "--root", tmp_path, *arguments], text=True,
                              capture_output=True, timeout=110, env=clean_env() | env, check=False)
    yield call
    call("down")
    assert not any("pid" in known for known in state(tmp_path).values())


def state(root: Path) -> dict[str, dict[str, int]]:
    file = root / ".yadtq" / "state.json"
    return json.loads(file.read_text()) if file.exists() else {}


def sourced(root: Path) -> dict[str, str]:
    """The environment of a shell after `source .yadtq/env`."""
    command = f". {shlex.quote(str(root / '.yadtq' / 'env'))} && env -0"
    out = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, env=clean_env()).stdout
    return dict(entry.partition("=")[::2] for entry in out.split("\0") if entry)


def test_redis_of_its_own_beside_a_named_kafka(run: Run, kafka: KafkaServer, redis_server: RedisServer,
                                               tmp_path: Path) -> None:
    named = {"YADTQ_KAFKA_SERVERS": kafka.bootstrap, "YADTQ_REDIS_PORT": str(redis_server.port)}  # the port is taken
    first = run("up", "--no-daemon", **named)
    assert first.returncode == 0, first.stderr
    assert kafka.bootstrap in first.stdout
    mine = state(tmp_path)["redis"]
    assert mine["port"] > redis_server.port
    assert "kafka" not in state(tmp_path)
    settings = Settings.load(None, env=sourced(tmp_path))
    assert (settings.redis_host, settings.redis_port) == ("127.0.0.1", mine["port"])
    assert list(settings.bootstrap) == [kafka.bootstrap]
    with redis.Redis(port=mine["port"]) as connection:
        connection.set("kept", "yes")

    again = run("up", "--no-daemon", **named)
    assert again.returncode == 0, again.stderr
    assert state(tmp_path)["redis"] == mine

    assert run("down").returncode == 0
    assert not redis_answers(mine["port"])
    assert redis_answers(redis_server.port)
    assert kafka_answers(kafka.port)
    assert "nothing" in run("down").stdout

    # a shell that sourced .yadtq/env names our own Redis: that is no reason to look for it as for somebody else's
    sourced_env = {k: v for k, v in sourced(tmp_path).items() if k.startswith("YADTQ_")}
    (tmp_path / ".yadtq" / "state.json").unlink()  # nor after a clean
    third = run("up", "--no-daemon", **sourced_env)
    assert third.returncode == 0, third.stderr + third.stdout
    with redis.Redis(port=state(tmp_path)["redis"]["port"]) as connection:
        assert connection.get("kept") == b"yes"


def test_a_named_redis_that_is_away_is_an_error_that_says_who_named_it(run: Run, kafka: KafkaServer,
                                                                      tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text(f'task_timeout = 7\nredis_host = "127.0.0.1"\nredis_port = {random_free_port()}\n')
    done = run("up", "--no-daemon", "--config", str(config), YADTQ_KAFKA_SERVERS=kafka.bootstrap)
    assert done.returncode == 1
    assert "Redis can't be reached" in done.stderr
    assert f"{config}:2" in done.stderr
    assert not any("pid" in known for known in state(tmp_path).values())


def test_settings_of_the_users_file_are_in_the_generated_one(run: Run, kafka: KafkaServer, tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text(f'task_timeout = 7\nkafka_servers = "{kafka.bootstrap}"\nredis_port = {random_free_port()}\n')
    done = run("up", "--no-daemon", "--config", str(config))
    assert done.returncode == 0, done.stderr
    settings = Settings.load(None, env=sourced(tmp_path))
    assert settings.task_timeout == 7
    assert settings.redis_port == state(tmp_path)["redis"]["port"]
    assert (tmp_path / ".yadtq" / "yadtq.toml").stat().st_mode & 0o077 == 0  # it may hold a password

    config.write_text("task_timeout = -1\ntask_tmeout = 3\n")
    wrong = run("up", "--no-daemon", "--config", str(config))
    assert wrong.returncode == 1
    assert f"{config}:2" in wrong.stderr
    assert "task_timeout" in wrong.stderr


def test_a_server_that_died_is_told_and_started_again_and_never_another_process_ended(
        run: Run, kafka: KafkaServer, tmp_path: Path) -> None:
    named = {"YADTQ_KAFKA_SERVERS": kafka.bootstrap, "YADTQ_REDIS_PORT": str(random_free_port())}
    assert run("up", "--no-daemon", **named).returncode == 0
    assert run("status").returncode == 0
    pid = state(tmp_path)["redis"]["pid"]
    os.kill(pid, signal.SIGKILL)
    gone_by = time.monotonic() + 10
    while start_time(pid) is not None and time.monotonic() < gone_by:
        time.sleep(0.02)
    told = run("status")
    assert told.returncode == 1
    assert "DIED" in told.stdout
    assert run("up", "--no-daemon", **named).returncode == 0
    assert state(tmp_path)["redis"]["pid"] != pid
    assert run("down").returncode == 0

    bystander = subprocess.Popen(["sleep", "60"])
    try:  # the pid of a stale state.json is another process by now
        stale = state(tmp_path) | {"redis": {"pid": bystander.pid, "started": "then/1", "port": 1}}
        (tmp_path / ".yadtq" / "state.json").write_text(json.dumps(stale))
        assert run("down").returncode == 0
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait(5)


@pytest.mark.integration
def test_interrupted_up_leaves_nothing_and_kafka_keeps_its_data(run: Run, tmp_path: Path) -> None:
    ports = {"YADTQ_KAFKA_PORT": str(random_free_port()), "YADTQ_REDIS_PORT": str(random_free_port())}
    starting = subprocess.Popen([sys.executable, "-W", "ignore", SCRIPT, "--root", tmp_path, "up", "--no-daemon"],
                                env=clean_env() | ports, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert starting.stdout is not None
    for line in starting.stdout:
        if "starting kafka" in line:
            break
    time.sleep(0.5)
    starting.send_signal(signal.SIGINT)
    said, _ = starting.communicate(timeout=60)
    assert starting.returncode == 130, said
    assert all(port_is_free(int(port)) for port in ports.values())

    done = run("up", "--no-daemon", **ports)
    assert done.returncode == 0, done.stderr
    known = state(tmp_path)["kafka"]
    assert known["port"] == int(ports["YADTQ_KAFKA_PORT"])
    assert kafka_answers(known["port"])
    assert run("down").returncode == 0
    assert not kafka_answers(known["port"])
    assert (tmp_path / ".yadtq" / "kafka" / "data" / "meta.properties").exists()


def test_the_socket_of_a_deep_checkout_moves_to_a_place_that_fits(tmp_path: Path) -> None:
    from stack_config import LONGEST_SOCKET, control_socket

    assert control_socket(Path("/home/u/yadtq/.yadtq")) == "/home/u/yadtq/.yadtq/yadtqd.sock"
    moved = Path(control_socket(tmp_path / ("x" * LONGEST_SOCKET) / ".yadtq"))
    try:
        assert len(str(moved)) <= LONGEST_SOCKET
        assert moved.parent.stat().st_mode & 0o777 == 0o700
    finally:
        moved.parent.rmdir()
