"""Fixtures of the deployed cluster: packages built, hosts booted bare, deployed by the real playbook, kept.

Everything is made once a run. A module that changes more than it mends asks for `fresh_cluster`: all disks as they were
after the deployment. `python -m tests.deploy` runs this; the normal collection leaves the folder out (it needs root).
"""
from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy import stage
from tests.deploy.cluster import Cluster, Played
from tests.deploy.lab.hosts import Hosts
from tests.deploy.lab.image import why_not
from tests.deploy.report import Report

SHORT = os.environ.get("YADTQ_TEST_DEPLOY") == "short"
REPORT = os.environ.get("YADTQ_TEST_DEPLOY_REPORT", "")
INTRO = """Written by `sudo ./setup.sh test-deploy --report docs/deploy-proof.md`: three bare Debian 12 hosts with
systemd (each a systemd-nspawn with a network of its own, all on one machine), deployed by the real playbook over ssh,
then checked from outside. What each check does is in `tests/deploy/`."""
_report = Report()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "three_hosts: needs more than one host; left out of the short form")
    config.addinivalue_line("markers", "full: left out of the short form, to save time")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_not()
    for item in items:
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
        elif SHORT and any(map(item.get_closest_marker, ("three_hosts", "full"))):
            item.add_marker(pytest.mark.skip(reason="not in the short form"))
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900))       # deploying is part of the first test that asks for it


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    result = outcome.get_result()       # type: ignore[attr-defined]
    if result.when == "call" or result.outcome != "passed":
        _report.results.append((item.nodeid, result.outcome, result.duration))


def pytest_sessionfinish(exitstatus: int) -> None:
    if REPORT:
        _report.notes["machine"] = f"{os.cpu_count()} processors, {_memory_gb():.0f} GB, Linux {platform.release()}"
        Path(REPORT).write_text(_report.markdown("The proof of the deployment", INTRO))


def _memory_gb() -> float:
    found = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found[1]) / 1e6 if found else 0.0


@pytest.fixture(scope="session")
def report() -> Report:
    """What this run tells at its end."""
    return _report


@pytest.fixture(scope="session")
def packages(report: Report) -> stage.Packages:
    """This version's packages and those of a version before it."""
    begun = time.monotonic()
    built = stage.build_packages()
    report.figure("building the packages", time.monotonic() - begun)
    return built


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """One bare host in the short form, else three."""
    with Hosts(1 if SHORT else 3) as booted:
        yield booted


@pytest.fixture(scope="session")
def deployment(hosts: Hosts, packages: stage.Packages, report: Report,
               tmp_path_factory: pytest.TempPathFactory) -> tuple[Cluster, Played]:
    """The cluster, and how the playbook went that made it out of bare hosts; "deployed" is the snapshot of that."""
    cluster = stage.prepare(hosts, packages, tmp_path_factory.mktemp("deploy"))
    begun = time.monotonic()
    played = cluster.play("deploy.yml")
    cluster.settle()
    cluster.works()
    report.figure(f"`ansible-playbook -i inventory deploy.yml`, from {len(hosts)} bare hosts to a task that is done",
                  time.monotonic() - begun, limit=600)
    report.transcript("ansible-playbook -i inventory deploy.yml", stage.short_transcript(played.output))
    hosts.snapshot("deployed")
    cluster.settle(180)
    return cluster, played


@pytest.fixture(scope="session")
def cluster(deployment: tuple[Cluster, Played]) -> Cluster:
    """The deployed cluster. Leave it as it was."""
    return deployment[0]


@pytest.fixture(scope="module")
def fresh_cluster(cluster: Cluster) -> Iterator[Cluster]:
    """The same, as it was after its deployment; may be ruined."""
    cluster.hosts.restore("deployed")
    cluster.settle(180)
    yield cluster
    cluster.hosts.restore("deployed")
    cluster.settle(180)
