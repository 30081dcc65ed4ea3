"""The test hosts themselves: what a cut cuts, what outlives what, and that nothing of a set is left in any case."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.lab.hosts import Host, Hosts
from tests.deploy.lab.machine import HostError, cgroups_of, mounts_below
from tests.deploy.lab.network import Network
from tests.deploy.lab.sweep import folder_of

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with Hosts(3) as booted:
        yield booted


@pytest.fixture(autouse=True)
def whole(hosts: Hosts) -> Iterator[None]:
    yield
    hosts.heal()
    hosts.boot_all()


def reaches(one: Host, other: Host) -> bool:
    """Can it open a connection to the other's ssh?"""
    code = f"import socket; socket.create_connection(('{other.address}', 22), 1)"
    return one.attempt(f'python3 -c "{code}"').returncode == 0


def left_of(number: int) -> list[str]:
    """What is still there of a set."""
    network, found = Network(number), []
    for host in range(1, 4):
        found += [str(path) for path in cgroups_of(network.namespace(host))]
        found += [str(path) for path in (Path("/run/netns") / network.namespace(host),
                                         Path("/sys/class/net") / network.cable(host)) if path.exists()]
    if Path(f"/sys/class/net/{network.bridge}").exists():
        found.append(network.bridge)
    found += [text for command, text in ((("nft", "list", "tables"), network.table), (("ip", "route"), network.prefix))
              if text in subprocess.run(command, capture_output=True, text=True, check=True).stdout]
    found += mounts_below(folder_of(number))
    return found + [str(folder_of(number))] * folder_of(number).exists()


def test_a_host_is_a_debian_with_systemd_and_ssh_and_little_else(hosts: Hosts) -> None:
    for host in hosts:
        assert host.run("systemctl is-system-running --wait") == "running"
        assert host.ssh("hostname") == host.name
        assert host.run("cat /proc/1/comm") == "systemd"
        assert host.attempt("command -v java || command -v redis-server || command -v pip3").returncode != 0
    assert len({host.run("cat /etc/machine-id") for host in hosts}) == 3


def test_a_command_that_fails_or_hangs_says_so(hosts: Hosts) -> None:
    with pytest.raises(HostError, match=r"status 3: echo why; exit 3\nwhy"):
        hosts["host1"].run("echo why; exit 3")
    with pytest.raises(HostError, match=r"not done within 0.5 s: sleep 60"):
        hosts["host1"].run("sleep 60", timeout_s=0.5)
    assert hosts["host1"].run("id -un", user="nobody") == "nobody"


def test_apt_works_from_inside(hosts: Hosts) -> None:
    hosts["host1"].run("apt-get update && apt-get install -y --no-install-recommends tree && tree --version",
                       timeout_s=110)


def test_memory_limits_are_enforced(hosts: Hosts) -> None:
    greedy = "systemd-run --wait -q -p MemoryMax=50M -p MemorySwapMax=0 python3 -c 'b\"x\" * 300_000_000'"
    assert hosts["host1"].attempt(greedy).returncode != 0


def test_a_pulled_cable_cuts_a_host_off_and_its_console_still_works(hosts: Hosts) -> None:
    one, two, three = hosts
    one.cut()
    assert not reaches(one, two)
    assert not reaches(two, one)
    assert reaches(two, three)
    one.heal()
    assert reaches(one, two)
    assert reaches(two, one)


def test_two_hosts_can_be_cut_from_each_other_alone(hosts: Hosts) -> None:
    one, two, three = hosts
    one.cut(two)
    assert not reaches(one, two)
    assert not reaches(two, one)
    assert reaches(one, three)
    assert reaches(three, two)


@pytest.mark.parametrize(("way", "peer", "arrives"), [("in", "host2", True), ("out", "host3", False)])
def test_a_cut_may_be_one_way(hosts: Hosts, way: str, peer: str, arrives: bool) -> None:
    """What host1 sends still reaches the other when only what comes in is dropped: it waits there for an answer."""
    one, other = hosts["host1"], hosts[peer]
    one.cut(other, way)
    dial = f"import socket; socket.create_connection(('{other.address}', 22), 2)"
    one.attempt(f'python3 -c "{dial}" >/dev/null 2>&1 & sleep 1')
    assert other.run(f"ss -Hnt state syn-recv src {other.address}:22").startswith("0") == arrives


def test_files_outlive_a_power_cut_and_processes_do_not(hosts: Hosts) -> None:
    host = hosts["host2"]
    host.run("echo kept > /var/lib/kept; echo gone > /run/gone; (sleep 1234 >/dev/null 2>&1 &)")
    host.power_cut()
    with pytest.raises(HostError, match="is off"):
        host.run("true")
    assert (host.root / "var/lib/kept").read_text() == "kept\n"
    host.boot()
    assert host.run("cat /var/lib/kept; ls /run/gone 2>&1 | wc -l; pgrep -fc 'sleep 123[4]' || true") == "kept\n1\n0"
    assert host.ssh("hostname") == "host2"


def test_a_host_reboots(hosts: Hosts) -> None:
    host = hosts["host3"]
    booted = "systemctl show -p UserspaceTimestampMonotonic --value"
    before = int(host.run(booted))
    host.reboot()
    assert host.ssh("hostname") == "host3"
    assert int(host.run(booted)) > before


def test_a_snapshot_brings_back_disks_as_they_were(hosts: Hosts) -> None:
    one, two, _ = hosts
    one.run("echo first > /var/lib/state; rm -r /usr/share/doc/sudo")
    hosts.snapshot("deployed")
    one.run("echo second > /var/lib/state; echo more > /var/lib/more; rm /etc/hostname || true")
    two.cut()
    hosts.restore("deployed")
    assert one.run("cat /var/lib/state; ls -d /var/lib/more /usr/share/doc/sudo 2>/dev/null || true") == "first"
    assert reaches(two, one)


def test_nothing_is_left_even_when_the_owner_is_killed() -> None:
    code = ("from tests.deploy.lab.hosts import Hosts\nwith Hosts(2) as h:\n"
            " h['host1'].cut(); h['host2'].run('(sleep 4321 >/dev/null 2>&1 &)'); print(h.number, flush=True); input()")
    owner = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    number = int(owner.stdout.readline())
    assert left_of(number)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    deadline = time.monotonic() + 30
    while (left := left_of(number)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    owner.communicate()
