"""The whole system over TLS, with SCRAM, ACL users and Sentinels, while its Redis primary is killed and then frozen.

A daemon (librdkafka), a load of all kinds of tasks from a client (kafka-python), a primary, a replica, three Sentinels:
both follow each failover without a restart, nothing that was promised is broken (tests/support/guarantees.py), and
everything is committed in the end. Prints how long it took until a submission was accepted again and a result was read.
"""
from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.fault.chaos.load import Load
from tests.support.certificates import Authority
from tests.support.chaos_tasks import HISTORY_FILE
from tests.support.daemon import Daemon, wait_for
from tests.support.guarantees import Rules, unexcused, violations
from tests.support.history import Fault, History, Journal, now
from tests.support.redis_group import DOWN_AFTER_MS, RedisGroup
from tests.support.secure_kafka import SecureKafka
from tests.support.services import running
from yadtq.config import Settings
from yadtqd.exits import DaemonExit
from yadtqd.main import main

pytestmark = [pytest.mark.integration, pytest.mark.fault, pytest.mark.slow]

BACK_S = DOWN_AFTER_MS / 1000 + 13      # until work is done again; 4 to 7 s beside thirty busy processes
RULES = Rules(redis_losses=frozenset({"redis_kill", "redis_freeze"}))


@pytest.fixture
def group(tmp_path: Path) -> Iterator[RedisGroup]:
    with running(RedisGroup(tmp_path, ca=Authority(tmp_path / "ca"))) as group:
        yield group


@pytest.fixture
def settings(group: RedisGroup, tmp_path: Path, topic_prefix: str) -> Iterator[Settings]:
    with running(SecureKafka(tmp_path / "kafka")) as kafka:
        yield Settings(
            kafka_task_topic=f"{topic_prefix}_tasks", kafka_heartbeat_topic=f"{topic_prefix}_heartbeats",
            kafka_dead_letter_topic=f"{topic_prefix}_dead_letters", kafka_delayed_topic=f"{topic_prefix}_delayed",
            kafka_group=topic_prefix, control_socket=str(tmp_path / "yadtqd.sock"), num_partitions=2,
            pid_file=str(tmp_path / "yadtqd.pid"), **kafka.options(), **group.options())


def break_and_mend(group: RedisGroup, how: str, journal: Journal, folder: Path) -> None:
    """Have the primary replaced, see that work goes on while it is away, and bring it back as a replica."""
    old, begun = group.primary(), now()
    old.kill() if how == "kill" else old.freeze()

    def back() -> tuple[float, float] | None:
        tasks = History.read(folder).tasks.values()
        late = [(submit.at, task) for task in tasks for submit in task.submits
                if submit.called > begun and submit.outcome == "accepted"]
        results = [read.at for _, task in late for read in task.reads if read.status == "SUCCESS"]
        return (min(at for at, _ in late) - begun, min(results) - begun) if results else None
    accepted_s, result_s = wait_for(back, BACK_S, f"work goes on after the {how} of the primary")
    print(f"{how}: first accepted submission after {accepted_s:.1f} s, first result after {result_s:.1f} s")
    assert group.primary() is not old
    time.sleep(1)                                       # without a replica
    group.mend(empty=False)
    assert old.info()["role"] == "slave"
    journal.write(Fault(kind=f"redis_{how}", target=old.name, begun=begun, at=now()))


def checked(daemon: Daemon, *changes: str) -> tuple[int, str]:
    """What `yadtqd --check` says with the daemon's configuration and these changes: status, grades, codes."""
    options = [word for change in changes for word in ("-o", change)]
    said = CliRunner().invoke(main, ["--config", str(daemon.config), "--check", *options])
    grades = [line[:4] for line in said.output.splitlines()]
    codes = [word[:-1] for word in said.output.split() if word.endswith("_REFUSED:")]
    return said.exit_code, " ".join(grades + codes)


def test_client_and_daemon_follow_the_primary(group: RedisGroup, settings: Settings, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "test.events")
    secure = {name: value for name in type(settings).__dataclass_fields__ if name.startswith(("kafka_s", "redis_"))
              and (value := getattr(settings, name)) != getattr(Settings(), name)}
    with Daemon(settings, tmp_path, tasks=["tests.support.chaos_tasks"], transport="librdkafka", num_partitions=2,
                env={HISTORY_FILE: str(tmp_path / "host.events")}, **secure) as daemon:
        assert checked(daemon) == (DaemonExit.OK, "ok   ok   ok   ok  ")
        assert checked(daemon, "kafka_sasl_password=wrong", "redis_password=wrong") == (
            DaemonExit.FAILED, "ok   BAD  BAD  BAD  KAFKA_REFUSED KAFKA_REFUSED REDIS_REFUSED")
        before = {worker["pid"] for worker in daemon.wait_running(2)}
        load = Load(settings.replace(transport="kafka-python"), tmp_path, seed=1, rate=120, rare_s=3600, most_open=1500)
        load.start()
        wait_for(lambda: load.figures["accepted"] > 300, 30, "load")
        for how in ("kill", "freeze"):
            break_and_mend(group, how, journal, tmp_path)
            time.sleep(2)
        load.finish(60)
        for client in (load.client, load.reader, load.small):
            client.close()
        after = {worker["pid"] for worker in daemon.wait_running(2)}
        wait_for(lambda: all(one["committed"] >= one["end"] for one in daemon.status()["partitions"]), 30,
                 "everything to be committed")
        log = daemon.log.read_text()
    history = History.read(tmp_path)
    assert unexcused(violations(history, RULES)) == []
    submitted = [submit for task in history.tasks.values() for submit in task.submits]
    assert len(submitted) > 500
    assert after == before, "no worker was restarted"
    assert "Redis was restarted, or another took over" in log
    reads = sum(len(task.reads) for task in history.tasks.values())
    print(f"{len(history.tasks)} tasks, {reads} reads, {len(violations(history, RULES))} excused")
