"""The servers under the tests are real, keep their data and port across every kind of death, and never outlive the run.

One small broker and one Redis of the test's own; an interpreter that is killed while it has both.
"""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from local_servers import end_process, kafka_answers, redis_answers, start_time
from tests.support.services import ROOT, KafkaServer, RedisServer


def wait_until(condition, deadline_s: float = 10.0) -> bool:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_redis_keeps_its_data_and_port_across_stop_and_is_silent_when_frozen(own_redis: RedisServer) -> None:
    with redis.Redis(port=own_redis.port, socket_timeout=5) as connection:
        connection.set("a", "1")
        assert connection.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert connection.config_get("append*")["appendonly"] == "yes"
    own_redis.restart()
    with redis.Redis(port=own_redis.port, socket_timeout=5) as connection:
        assert connection.get("a") == b"1"
    own_redis.freeze()
    assert not redis_answers(own_redis.port, timeout_s=0.2)
    own_redis.thaw()
    assert redis_answers(own_redis.port, timeout_s=5)
    own_redis.wipe()
    assert not own_redis.running
    own_redis.start()
    with redis.Redis(port=own_redis.port, socket_timeout=5) as connection:
        assert connection.get("a") is None


@pytest.mark.integration
def test_kafka_keeps_topics_across_stop_and_kill_and_is_silent_when_frozen(own_kafka: KafkaServer) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    def topics() -> set[str]:
        return set(AdminClient({"bootstrap.servers": own_kafka.bootstrap}).list_topics(timeout=20).topics)

    admin = AdminClient({"bootstrap.servers": own_kafka.bootstrap})
    admin.create_topics([NewTopic("kept", 2, 1)])["kept"].result(20)
    own_kafka.restart()
    assert "kept" in topics()
    own_kafka.kill()
    assert not own_kafka.running
    own_kafka.start()
    assert "kept" in topics()
    own_kafka.freeze()
    assert not kafka_answers(own_kafka.port, timeout_s=0.3)
    own_kafka.thaw()
    assert kafka_answers(own_kafka.port, timeout_s=10)


def test_servers_die_with_a_killed_test_run(tmp_path: Path) -> None:
    run = subprocess.Popen([sys.executable, "-m", "tests.support.services", "up", str(tmp_path), "--redis"], cwd=ROOT,
                           stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    port = int(run.stdout.readline().rpartition("=")[2])
    assert redis_answers(port)
    run.kill()
    run.wait(10)
    run.stdout.close()
    assert wait_until(lambda: not redis_answers(port, timeout_s=0.2))


def test_end_process_leaves_a_reused_pid_alone() -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        assert end_process(sleeper.pid, "another-boot/1", 1.0)
        assert sleeper.poll() is None
        assert end_process(sleeper.pid, start_time(sleeper.pid), 5.0)
        assert sleeper.wait(5) == -signal.SIGTERM
    finally:
        sleeper.kill()
        sleeper.wait(5)


def test_end_process_kills_what_ignores_the_first_signal() -> None:
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    stubborn = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    stubborn.stdout.close()
    assert not end_process(stubborn.pid, start_time(stubborn.pid), 0.2)
    assert stubborn.wait(5) == -signal.SIGKILL


def test_start_time_of_a_process_that_ended_is_none() -> None:
    child = subprocess.Popen(["true"])
    assert wait_until(lambda: os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None)
    assert start_time(child.pid) is None  # a zombie has ended, too
    child.wait(5)
