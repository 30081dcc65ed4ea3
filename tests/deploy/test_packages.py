"""The Debian packages on a host of their own: installed, used, upgraded under way, removed, purged; and built twice.

One bare Debian 12, without the playbook: what an administrator meets who types `apt install`. The packages are built as
for the other tests of this folder, this version and one with a suffix; each test begins with a disk as it needs it.
"""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.deploy.lab.hosts import ROOT, Host, Hosts
from tests.deploy.stage import Packages

DEBS = "srv/debs"
PYTHON = "/usr/lib/yadtq/venv/bin/python3"
APT = "DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0"
TESTING = ("pytest", "pluggy", "iniconfig", "pytest-timeout", "hypothesis", "sortedcontainers", "packaging", "pygments")
# what the unit tests read beside the packages; those that test the checkout itself can't run without it
BESIDE = ("docs", "packaging", "pyproject.toml", "requirements", "systemd", "tests")
OF_THE_CHECKOUT = ("test_layout.py", "test_setup_sh.py", "test_local_stack.py", "test_debian_packages.py",
                   "test_package_parts.py", "test_systemd_units.py", "test_services.py")
NAP = '''
import time
from yadtq import task


@task("nap", timeout_s=60)
def nap(name, seconds):
    with open("/var/lib/yadtq/naps", "a") as file:
        print("begun", name, file=file, flush=True)
        time.sleep(seconds)
        import yadtq.testing, rich.table, numpy.random      # from the files that an upgrade replaces
        print("ended", name, file=file, flush=True)
    return name
'''


@pytest.fixture(scope="module")
def hosts(packages: Packages) -> Iterator[Hosts]:
    """One host, with the packages of both versions; "bare" is its disk before anything was installed."""
    with Hosts(1) as booted:
        for name, folder in (("now", packages.now), ("next", packages.next)):
            target = booted["host1"].root / DEBS / name
            target.mkdir(parents=True)
            for deb in folder.glob("*.deb"):
                shutil.copy(deb, target)
        booted.snapshot("bare")
        yield booted


@pytest.fixture
def bare(hosts: Hosts) -> Host:
    """Nothing is installed."""
    hosts.restore("bare")
    return hosts["host1"]


@pytest.fixture(scope="module")
def equipped(hosts: Hosts) -> Hosts:
    """"complete" is the disk with Redis and both packages, installed by apt, and a task type of the user's own."""
    hosts.restore("bare")
    host = hosts["host1"]
    host.run(f"{APT} update", timeout_s=120)
    host.run(f"{APT} install --no-install-recommends redis-server /{DEBS}/now/*.deb", timeout_s=400)
    (host.root / "srv/shop").mkdir()
    (host.root / "srv/shop/jobs.py").write_text(NAP)
    append(host, "etc/default/yadtqd", "PYTHONPATH=/srv/shop\n")
    append(host, "etc/yadtq/yadtq.toml", 'tasks = ["jobs"]\n')
    host.run("systemctl restart yadtqd")
    works(host)
    hosts.snapshot("complete")
    return hosts


@pytest.fixture
def complete(equipped: Hosts) -> Host:
    """Everything is installed and works."""
    equipped.restore("complete")
    works(equipped["host1"])
    return equipped["host1"]


def append(host: Host, file: str, text: str) -> None:
    with (host.root / file).open("a") as opened:
        opened.write(text)


def works(host: Host, limit_s: float = 90) -> None:
    """A task is submitted and answered."""
    deadline = time.monotonic() + limit_s
    while (done := host.attempt("yadtq submit addition 40 2 --wait 10")).stdout.strip() != "42":
        assert time.monotonic() < deadline, done.stdout + done.stderr + host.attempt("yadtqctl status").stdout
        time.sleep(0.5)


def failed_units(host: Host) -> str:
    return host.run("systemctl list-units --failed --plain --no-legend")


def exist(host: Host, *paths: str) -> list[str]:
    return [path for path in paths if host.attempt(f"test -e {path}").returncode == 0]


def ask(host: Host, *names: str) -> list[str]:
    """What stat tells of each: owner:group mode."""
    return host.run(f"stat -c '%U:%G %a' {' '.join(names)}").splitlines()


# ---- installing -----------------------------------------------------------------------------------------------------
def test_installing_where_neither_kafka_nor_redis_is(bare: Host) -> None:
    bare.run("ip link set lo up; ip link set eth0 down")                     # nothing is downloaded
    bare.run(f"dpkg -i /{DEBS}/now/yadtq_*.deb", timeout_s=120)
    bare.run("systemctl is-active yadtqd.service yadtqd.socket && systemctl is-enabled yadtqd.service yadtqd.socket")
    assert failed_units(bare) == ""
    status = json.loads(bare.run("yadtqctl status --json"))["daemon"]
    assert status["state"] == "DEGRADED"
    assert "waiting for Kafka" in str(status)
    assert bare.run("systemctl is-system-running --wait") == "running"


def test_who_may_read_and_write_what(bare: Host) -> None:
    bare.run(f"dpkg -i /{DEBS}/now/yadtq_*.deb", timeout_s=120)
    assert ask(bare, "/etc/yadtq/yadtq.toml", "/etc/yadtq/credentials", "/var/lib/yadtq", "/run/yadtq/yadtqd.sock") == [
        "root:yadtq 640", "root:root 700", "yadtq:yadtq 750", "root:yadtq 660"]
    assert bare.run("find /usr/lib/yadtq -not -user root -o -type f -perm /022") == ""
    assert bare.run("ps -o user= -C yadtqd | sort -u") == "yadtq"
    assert bare.attempt("yadtqctl ping", user="nobody").returncode == 4


def test_the_environment_is_whole_and_of_debians_python(bare: Host) -> None:
    bare.run(f"dpkg -i /{DEBS}/now/yadtq_*.deb", timeout_s=120)
    code = """
import base64, hashlib, importlib.metadata, sys
assert sys.prefix == "/usr/lib/yadtq/venv" and sys.base_prefix == "/usr", (sys.prefix, sys.base_prefix)
import confluent_kafka, crc32c, hiredis, kafka, msgspec, numpy, yadtq, yadtqd, client
for found in importlib.metadata.distributions():
    for file in found.files:
        if file.hash:
            digest = hashlib.new(file.hash.mode, file.locate().read_bytes()).digest()
            assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == file.hash.value, file
print(len(list(importlib.metadata.distributions())))
"""
    assert int(bare.run(f"{PYTHON} -", given=code)) >= 18
    assert bare.run("head -qn1 /usr/lib/yadtq/venv/bin/yadtq*").splitlines() == [f"#!{PYTHON}"] * 3
    # compiled: a start writes nothing and compiles nothing
    sources, compiled = (bare.run(f"find /usr/lib/yadtq -name '{name}' | wc -l") for name in ("*.py", "*.pyc"))
    assert sources == compiled
    assert bare.run("for name in yadtq yadtqctl yadtqd; do $name --version; done").count("version") == 3
    assert bare.run("bash -c 'source /usr/share/bash-completion/completions/yadtqctl; complete -p yadtqctl'")


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the tests' libraries are for the Python that runs this")
def test_the_unit_tests_pass_against_the_installed_environment(bare: Host) -> None:
    bare.run(f"dpkg -i /{DEBS}/now/yadtq_*.deb && systemctl stop yadtqd", timeout_s=120)
    check = bare.root / "srv/check"
    for name in BESIDE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, check / name, ignore=shutil.ignore_patterns("__pycache__", *OF_THE_CHECKOUT))
        else:
            shutil.copy(source, check / name)
    for name in TESTING:
        for file in distribution(name).files or ():
            if not file.parts[0].startswith("..") and "__pycache__" not in file.parts:
                target = check / "libraries" / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.locate(), target)
    code = ("import sys; sys.path += ['/srv/check/libraries']; import pytest, yadtq, yadtqd;"
            "assert yadtq.__file__.startswith(sys.prefix) and yadtqd.__file__.startswith(sys.prefix);"
            "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-c', '/srv/check/pyproject.toml', "
            "'/srv/check/tests/unit']))")
    done = bare.attempt(f'cd / && {PYTHON} -c "{code}"', timeout_s=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert " passed" in done.stdout


# ---- working --------------------------------------------------------------------------------------------------------
def test_after_apt_install_a_task_is_run(complete: Host) -> None:
    assert failed_units(complete) == ""
    assert complete.run("yadtq submit multiplication 6 7 --wait 20") == "42"
    assert ask(complete, "/etc/kafka/server.properties", "/var/lib/kafka") == ["root:kafka 640", "kafka:kafka 750"]
    assert "yadtq_tasks" in complete.run("yadtq-kafka-topics --bootstrap-server 127.0.0.1:9092 --list")
    assert "LeaderId" in complete.run(
        "yadtq-kafka-metadata-quorum --bootstrap-server 127.0.0.1:9092 describe --status")
    assert "yadtq" in complete.run("yadtq-kafka-consumer-groups --bootstrap-server 127.0.0.1:9092 --list")


# ---- upgrading ------------------------------------------------------------------------------------------------------
def naps(host: Host) -> dict[str, list[str]]:
    """What became of each nap: its events in order."""
    found: dict[str, list[str]] = {}
    for line in host.run("cat /var/lib/yadtq/naps").splitlines():
        event, name = line.split()
        found.setdefault(name, []).append(event)
    return found


def test_an_upgrade_interrupts_no_task_and_keeps_what_was_configured(complete: Host) -> None:
    names = [f"nap{number}" for number in range(12)]
    ids = [complete.run(f"yadtq submit nap {name} 3") for name in names]
    deadline = time.monotonic() + 20
    while not exist(complete, "/var/lib/yadtq/naps"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    before = complete.run("cat /etc/yadtq/yadtq.toml /etc/default/yadtqd")
    supervisor = complete.run("systemctl show -P MainPID yadtqd")
    complete.run(f"{APT} install /{DEBS}/next/yadtq_*.deb", timeout_s=240)
    assert complete.run("dpkg-query -W -f '${Version}' yadtq").endswith("+next")
    assert complete.run("systemctl show -P MainPID yadtqd") not in ("0", supervisor)
    assert complete.run("cat /etc/yadtq/yadtq.toml /etc/default/yadtqd") == before
    for name, id_ in zip(names, ids, strict=True):
        assert name in complete.run(f"yadtq result {id_} --wait 60", timeout_s=90)
    assert naps(complete) == {name: ["begun", "ended"] for name in names}
    assert failed_units(complete) == ""


def test_kafka_upgraded_and_started_again_has_its_tasks(complete: Host) -> None:
    complete.run("systemctl stop yadtqd.socket yadtqd")
    id_ = complete.run("yadtq submit power 2 10")
    complete.run(f"{APT} install --reinstall /{DEBS}/now/yadtq-kafka_*.deb", timeout_s=240)
    complete.run("systemctl is-active kafka && systemctl start yadtqd")
    assert complete.run(f"yadtq result {id_} --wait 60", timeout_s=90) == "1024"


# ---- removing -------------------------------------------------------------------------------------------------------
KEPT = ("/etc/yadtq/yadtq.toml", "/etc/default/yadtqd", "/var/lib/yadtq", "/var/log/yadtq")
KEPT_OF_KAFKA = ("/etc/kafka/server.properties", "/etc/default/kafka", "/var/lib/kafka/data",
                 "/var/log/kafka/kafka.log")


def test_removal_keeps_and_purge_takes(complete: Host) -> None:
    complete.run("echo secret > /etc/yadtq/credentials/redis_password")
    complete.run(f"{APT} remove yadtq yadtq-kafka", timeout_s=240)
    assert exist(complete, "/usr/lib/yadtq", "/usr/bin/yadtqd", "/usr/share/yadtq-kafka/libs",
                 "/run/yadtq/yadtqd.sock") == []
    assert exist(complete, *KEPT, *KEPT_OF_KAFKA) == [*KEPT, *KEPT_OF_KAFKA]
    assert complete.attempt("pgrep -u yadtq,kafka").stdout == ""
    assert failed_units(complete) == ""

    complete.run(f"{APT} install /{DEBS}/now/*.deb", timeout_s=240)             # and comes back as it was
    complete.run("rm -f /etc/yadtq/credentials/redis_password && systemctl restart yadtqd")
    works(complete)
    assert 'tasks = ["jobs"]' in complete.run("cat /etc/yadtq/yadtq.toml")

    complete.run("echo mine > /etc/yadtq/tls/ca.crt; echo secret > /etc/yadtq/credentials/redis_password")
    complete.run(f"{APT} purge yadtq yadtq-kafka", timeout_s=240)
    gone = (*KEPT, "/etc/yadtq/credentials", "/etc/kafka", "/var/lib/kafka", "/var/log/kafka", "/var/lib/yadtq-kafka",
            "/etc/logrotate.d/yadtq", "/lib/systemd/system/yadtqd.service.d")
    assert exist(complete, *gone) == []
    assert exist(complete, "/etc/yadtq/tls/ca.crt") == ["/etc/yadtq/tls/ca.crt"]   # somebody else's
    assert complete.run("dpkg -l | grep -c yadtq || true") == "0"
    assert complete.run("find /etc/systemd -name '*yadtq*' -o -name '*kafka*'") == ""
    complete.run("rm -r /etc/yadtq")


# ---- as built -------------------------------------------------------------------------------------------------------
def members(deb: Path) -> dict[str, tuple[str, int, str, float, bytes]]:
    """Every file of a package: kind, mode, target, time and content."""
    with (subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as process,
          tarfile.open(fileobj=process.stdout, mode="r|") as archive):
        return {member.name: (str(member.type), member.mode, member.linkname, member.mtime,
                              archive.extractfile(member).read() if member.isreg() else b"")
                for member in archive}


def test_the_same_checkout_gives_the_same_bytes(packages: Packages) -> None:
    now, later = ({file.name: file.read_bytes() for file in folder.iterdir()}
                  for folder in (packages.now, packages.next))
    same = {name for name in now if name.endswith((".whl", ".gz", "_all.deb", "_all.cdx.json"))}
    assert len(same) == 6
    assert [name for name in same if now[name] != later[name]] == []
    first, second = (members(*folder.glob("yadtq_*.deb")) for folder in (packages.now, packages.next))
    assert {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)} == {
        "./usr/share/doc/yadtq/changelog.Debian.gz"}


def test_nothing_of_the_machine_that_built_it_is_inside(packages: Packages, tmp_path: Path) -> None:
    for deb in packages.now.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--raw-extract", str(deb), str(tmp_path / deb.name)], check=True)
    words = [str(ROOT), sysconfig.get_path("purelib"), os.path.expanduser("~") + "/."]
    found = subprocess.run(["grep", "-rlF", *(part for word in words for part in ("-e", word)), str(tmp_path)],
                           capture_output=True, text=True, check=False).stdout.splitlines()
    assert found == []
    assert [*tmp_path.rglob("direct_url.json"), *tmp_path.rglob("_remote.repositories")] == []


@pytest.mark.skipif(not shutil.which("lintian"), reason="lintian is not installed")
def test_lintian_finds_no_error(packages: Packages) -> None:
    told = subprocess.run(["lintian", "--allow-root", "--fail-on=error,warning", *map(str, packages.now.glob("*.deb"))],
                          capture_output=True, text=True, check=False, timeout=600)
    assert told.returncode == 0, told.stdout + told.stderr
