"""The units on a deployed host, beyond what `systemctl` is for: the socket, the credentials, the rights and limits."""
from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.cluster import SOCKET, Cluster, unit, wait_until
from tests.deploy.lab.hosts import Host
from yadtq.errors import ControlError, TaskFailed
from yadtqd.control_client import ControlClient

DROP_IN = "etc/systemd/system/yadtqd.service.d/99-test.conf"


@pytest.fixture
def host(cluster: Cluster) -> Host:
    return cluster.first


@pytest.fixture(autouse=True)
def settled(cluster: Cluster, host: Host) -> Iterator[None]:
    cluster.settle()
    yield
    host.run("systemctl start yadtqd", timeout_s=180)


@pytest.fixture
def drop_in(host: Host) -> Iterator[Path]:
    """A file for settings of the unit, as `systemctl edit` makes it; without it again afterwards."""
    path = host.root / DROP_IN
    path.parent.mkdir(parents=True, exist_ok=True)
    yield path
    path.unlink(missing_ok=True)
    host.run("systemctl daemon-reload && systemctl restart yadtqd", timeout_s=180)


# ---- the socket -----------------------------------------------------------------------------------------------------
def test_who_asks_during_a_restart_waits_and_is_answered(host: Host) -> None:
    path = f"/proc/{host.machine.leader()}/root/{SOCKET}"
    over, pids, wrong = threading.Event(), set(), []

    def ask() -> None:
        while not over.is_set():
            try:
                with ControlClient(path, timeout_s=120) as control:
                    pids.add(control.call("ping")["pid"])
            except ControlError as error:
                if "closed the connection" not in str(error):      # accepted in the last moment of the old daemon
                    wrong.append(str(error))
            time.sleep(0.02)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        wait_until(lambda: pids, 30, "an answer of the old daemon")
        host.run("systemctl restart yadtqd", timeout_s=180)
        wait_until(lambda: len(pids) == 2, 60, "an answer of the new daemon")
    finally:
        over.set()
        asking.join(130)
    assert not wrong


def test_a_stopped_daemon_stays_so_when_it_is_asked(host: Host) -> None:
    host.run("systemctl stop yadtqd", timeout_s=120)
    asked = host.attempt("yadtqctl status")
    assert (asked.returncode, "DAEMON_NOT_RUNNING" in asked.stderr) == (3, True)
    time.sleep(1)
    for name in ("yadtqd.service", "yadtqd.socket"):
        assert unit(host, name, "ActiveState")["ActiveState"] == "inactive"
    host.run("systemctl start yadtqd", timeout_s=120)
    assert unit(host, "yadtqd.socket", "ActiveState")["ActiveState"] == "active"


def test_an_operator_that_drains_it_has_stopped_it(host: Host) -> None:
    host.run("yadtqctl drain --wait 90", timeout_s=120)
    for name in ("yadtqd.service", "yadtqd.socket"):
        wait_until(lambda name=name: unit(host, name, "ActiveState")["ActiveState"] == "inactive", 20, f"no {name}")
    assert unit(host, "yadtqd", "Result")["Result"] == "success"
    host.run("systemctl start yadtqd", timeout_s=120)


def test_a_connection_to_the_socket_alone_starts_the_daemon(host: Host) -> None:
    host.run("systemctl stop yadtqd && systemctl start yadtqd.socket", timeout_s=120)
    assert "STARTING" in host.run("yadtqctl --timeout 120 ping", timeout_s=150)


# ---- credentials ----------------------------------------------------------------------------------------------------
def test_passwords_come_as_credentials_and_nobody_else_sees_them(host: Host) -> None:
    names = host.run("ls /etc/yadtq/credentials").split()
    told = host.run("yadtqd --check-config")
    for name in names:
        assert re.search(rf'{name} = "\*+" +# credential {name}$', told, re.M)
        secret = (host.root / "etc/yadtq/credentials" / name).read_text().strip()
        assert secret not in host.run("systemctl show yadtqd")
        assert secret not in host.run("cat /proc/$(systemctl show yadtqd -p MainPID --value)/environ | tr '\\0' '\\n'")
    copies = "/run/credentials/yadtqd.service"
    assert host.run(f"cat {copies}/*", user="yadtq").split() == [
        (host.root / "etc/yadtq/credentials" / name).read_text().strip() for name in sorted(names)]
    assert host.attempt(f"ls {copies}", user="nobody").returncode != 0


# ---- rights and limits ----------------------------------------------------------------------------------------------
def test_handlers_have_what_they_need_and_no_more(cluster: Cluster) -> None:
    with cluster.client() as client:
        needs = client.get_result(client.submit_task("deploy.needs"), timeout=60)
        may_not = client.get_result(client.submit_task("deploy.may_not"), timeout=60)
    assert {name: told for name, told in needs.items() if told != "ok"} == {}
    assert {name for name, told in may_not.items() if told == "ok"} == set()


def test_isolated_attempts_keep_their_memory_limit(cluster: Cluster) -> None:
    with cluster.client() as client:
        assert client.get_result(client.submit_task("deploy.hungry", args=[50]), timeout=60) == 50_000_000
        with pytest.raises(TaskFailed, match="TASK_MEMORY_LIMIT"):
            client.get_result(client.submit_task("deploy.hungry", args=[500]), timeout=60)


def test_out_of_memory_ends_a_worker_and_not_the_daemon(cluster: Cluster, host: Host, drop_in: Path) -> None:
    drop_in.write_text("[Service]\nMemoryMax=500M\nMemorySwapMax=0\n")
    host.run("systemctl daemon-reload && systemctl restart yadtqd", timeout_s=180)
    cluster.settle()
    before = {one.name: unit(one, "yadtqd", "MainPID") for one in cluster.hosts}
    died = 0
    with cluster.client() as client:
        for task_id in [client.submit_task("deploy.devour", args=[1500], timeout_s=60)
                        for _ in range(cluster.partitions)]:        # some of them come to this host
            try:
                client.get_result(task_id, timeout=200)
            except TaskFailed:
                died += 1
    assert died
    assert "was killed by SIGKILL while it ran task" in host.run("journalctl -q -u yadtqd -p err --no-pager")
    assert {one.name: unit(one, "yadtqd", "MainPID") for one in cluster.hosts} == before
    assert unit(host, "yadtqd", "ActiveState")["ActiveState"] == "active"
    cluster.settle()
    cluster.works()


def test_it_works_with_a_cgroup_of_its_own(cluster: Cluster, host: Host, drop_in: Path) -> None:
    drop_in.write_text("[Service]\nDelegate=yes\nProtectControlGroups=no\n")
    host.run("systemctl daemon-reload && systemctl restart yadtqd", timeout_s=180)
    assert unit(host, "yadtqd", "Delegate")["Delegate"] == "yes"
    cluster.settle()
    host.run("systemctl reload yadtqd", timeout_s=180)      # a control process beside it
    cluster.settle()
    cluster.works()
