"""What an operator does with systemctl and journalctl on a deployed host, and what the units promise."""
from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.deploy.cluster import Cluster, unit, wait_until
from tests.deploy.lab.hosts import Host
from tests.deploy.lab.machine import HostError, members
from tests.deploy.report import Report
from yadtq.errors import TaskFailed

SERVICES = ("yadtqd.service", "yadtqd.socket", "kafka.service", "redis-server.service")
EXPOSURE = 2.0


@pytest.fixture
def host(cluster: Cluster) -> Host:
    return cluster.first


@pytest.fixture(autouse=True)
def settled(cluster: Cluster) -> None:
    cluster.settle()


def main_pid(host: Host) -> int:
    """The pid of the supervisor, as the host knows it."""
    return int(unit(host, "yadtqd", "MainPID")["MainPID"])


def here(host: Host, pid: int) -> int:
    """The pid here of a process of the host."""
    for own in members(host.machine.name):
        if re.search(rf"^NSpid:\s+{own}\s+{pid}$", Path(f"/proc/{own}/status").read_text(), re.M):
            return own
    raise AssertionError(f"{host.name} has no process {pid}")


def wait_replaced(cluster: Cluster, host: Host, old: int, limit_s: float) -> float:
    """Seconds until another supervisor is active."""
    def replaced() -> bool:
        told = unit(host, "yadtqd", "MainPID", "ActiveState")
        return told["ActiveState"] == "active" and int(told["MainPID"]) not in (0, old)
    return wait_until(replaced, limit_s, "a new supervisor")


def test_every_service_is_on_and_starts_at_boot(cluster: Cluster) -> None:
    for host in cluster.hosts:
        assert host.run("systemctl is-system-running --wait") == "running", host.run("systemctl --failed")
        for name in SERVICES:
            assert unit(host, name, "ActiveState", "UnitFileState") == {"ActiveState": "active",
                                                                        "UnitFileState": "enabled"}, name


@pytest.mark.parametrize("name", ["yadtqd.service", "kafka.service"])
def test_units_are_hardened_and_clean(host: Host, name: str, report: Report) -> None:
    told = host.run(f"systemd-analyze security --no-pager {name}")
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
    assert found, told
    report.figure(f"`systemd-analyze security {name}`", float(found[1]), "exposure", EXPOSURE)
    checked = host.attempt(f"systemd-analyze verify {name}")
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_status_has_a_live_line_and_says_what_runs(cluster: Cluster, host: Host, report: Report) -> None:
    told = host.run("systemctl status --no-pager --full yadtqd", timeout_s=20)
    report.transcript("systemctl status yadtqd", told)
    line = unit(host, "yadtqd", "StatusText")["StatusText"]
    assert re.search(r"\d+ workers?", line), line
    assert re.search(r"\d+ partitions?", line), line
    assert "lag" in line


def test_the_journal_has_priorities_and_fields(cluster: Cluster, host: Host) -> None:
    with cluster.client() as client:
        deadly = client.submit_task("chaos.poison", args=["none", "exit"])
        with pytest.raises(TaskFailed, match="TASK_CRASHED"):
            client.get_result(deadly, timeout=90)
    told = "".join(one.run(f"journalctl -q -u yadtqd YADTQ_TASK_ID={deadly} -o json --no-pager")
                   for one in cluster.hosts)
    entries = [json.loads(line) for line in told.replace("}{", "}\n{").splitlines()]
    assert entries, "the journal does not name the task that killed its process"
    assert {entry["PRIORITY"] for entry in entries} <= {"3", "4", "6"}
    assert any("YADTQ_WORKER" in entry for entry in entries)
    assert host.run("journalctl -q -u yadtqd -p debug -n 1 -o cat --no-pager")


def test_stop_drains_and_start_comes_back(cluster: Cluster, host: Host, report: Report) -> None:
    begun = time.monotonic()
    host.run("systemctl stop yadtqd", timeout_s=90)
    report.figure("`systemctl stop yadtqd`, idle", time.monotonic() - begun)
    assert unit(host, "yadtqd", "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}
    begun = time.monotonic()
    host.run("systemctl start yadtqd", timeout_s=90)
    report.figure("`systemctl start yadtqd`, until its workers consume", time.monotonic() - begun)
    cluster.settle()


def test_reload_returns_when_every_child_is_new_and_the_supervisor_is_the_same(cluster: Cluster, host: Host,
                                                                               report: Report) -> None:
    before, pid = cluster.status(host), main_pid(host)
    begun = time.monotonic()
    host.run("systemctl reload yadtqd", timeout_s=120)
    report.figure("`systemctl reload yadtqd`, all children replaced one by one", time.monotonic() - begun)
    after = cluster.status(host)
    assert main_pid(host) == pid
    old = {child["pid"] for child in (*before["workers"], *before["roles"])}
    assert not old & {child["pid"] for child in (*after["workers"], *after["roles"])}


def test_a_reload_of_a_bad_configuration_fails_and_changes_nothing(cluster: Cluster, host: Host) -> None:
    config = host.root / "etc/yadtq/yadtq.toml"
    good, before = config.read_bytes(), cluster.status(host)
    try:
        with config.open("ab") as file:
            file.write(b'\nfetch_batch = "many"\n')
        with pytest.raises(HostError, match="yadtqd"):
            host.run("systemctl reload yadtqd", timeout_s=60)
    finally:
        with config.open("wb") as file:
            file.write(good)
    assert {w["name"]: w["pid"] for w in cluster.status(host)["workers"]} == {
        w["name"]: w["pid"] for w in before["workers"]}
    assert unit(host, "yadtqd", "ActiveState")["ActiveState"] == "active"


def test_restart_keeps_the_socket_and_is_a_new_supervisor(cluster: Cluster, host: Host) -> None:
    pid, inode = main_pid(host), host.run("stat -c %i /run/yadtq/yadtqd.sock")
    host.run("systemctl restart yadtqd", timeout_s=120)
    assert main_pid(host) != pid
    assert host.run("stat -c %i /run/yadtq/yadtqd.sock") == inode
    assert host.run("stat -c '%U %G %a' /run/yadtq/yadtqd.sock") == "root yadtq 660"


def test_a_killed_supervisor_is_back_at_once(cluster: Cluster, host: Host, report: Report) -> None:
    pid = main_pid(host)
    host.run("systemctl kill --signal=KILL --kill-who=main yadtqd")
    report.figure("a killed supervisor is active again", wait_replaced(cluster, host, pid, 20))


def test_a_frozen_supervisor_is_killed_by_the_watchdog_and_comes_back(cluster: Cluster, host: Host,
                                                                      report: Report) -> None:
    pid, watchdog_us = main_pid(host), int(host.run("systemctl show yadtqd -p WatchdogUSec --value | "
                                                    "sed 's/[^0-9]*s$/000000/'"))
    begun = time.monotonic()
    os.kill(here(host, pid), signal.SIGSTOP)
    wait_replaced(cluster, host, pid, watchdog_us / 1e6 + 25)
    report.figure("a frozen supervisor is replaced (watchdog)", time.monotonic() - begun, limit=watchdog_us / 1e6 + 10)
    assert "watchdog" in host.run("journalctl -q -u yadtqd --no-pager -n 200").lower()


def test_kafka_and_redis_restart_as_asked_and_work_goes_on(cluster: Cluster, host: Host, report: Report) -> None:
    for name in ("kafka", "redis"):
        pid = unit(host, name, "MainPID")
        begun = time.monotonic()
        host.run(f"systemctl restart {name}", timeout_s=180)
        report.figure(f"`systemctl restart {name}`", time.monotonic() - begun)
        assert unit(host, name, "MainPID") != pid
        cluster.works(90)


def test_the_target_stops_and_starts_the_suite_of_a_host(cluster: Cluster, host: Host) -> None:
    host.run("systemctl stop yadtq.target", timeout_s=180)      # waits for the target, not for what it stops
    for name in ("yadtqd", "kafka"):
        wait_until(lambda unit_=name: unit(host, unit_, "ActiveState")["ActiveState"] == "inactive", 120,
                   f"{name} to stop")
    host.run("systemctl start yadtq.target", timeout_s=180)
    cluster.settle()


def test_a_host_that_reboots_comes_back_by_itself(cluster: Cluster, host: Host, report: Report) -> None:
    begun = time.monotonic()
    host.reboot()
    cluster.settle(120)
    report.figure("`systemctl reboot`, until the host consumes its partitions again", time.monotonic() - begun)
    cluster.works()
