"""A rolling upgrade under load, the way back, and an uninstallation that leaves nothing."""
from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.cluster import Cluster
from tests.deploy.lab.hosts import Host
from tests.deploy.report import Report
from tests.deploy.stage import Packages, short_transcript
from tests.deploy.trial import Trial

LEFT = ("/etc/yadtq", "/usr/lib/yadtq", "/usr/bin/yadtq", "/usr/bin/yadtqd", "/usr/bin/yadtqctl", "/var/lib/yadtq",
        "/var/log/yadtq", "/run/yadtq", "/etc/kafka", "/usr/share/yadtq-kafka", "/var/lib/kafka", "/var/log/kafka",
        "/lib/systemd/system/yadtqd.service", "/lib/systemd/system/kafka.service", "/etc/default/kafka")


def installed(host: Host) -> str:
    """The version of the package yadtq."""
    return host.run("dpkg-query -W -f '${Version}' yadtq")


@pytest.mark.full
def test_an_upgrade_and_a_rollback_under_load_lose_nothing(
        fresh_cluster: Cluster, packages: Packages, report: Report, tmp_path: Path) -> None:
    cluster = fresh_cluster
    old, new = packages.version(packages.now), packages.version(packages.next)
    supervisors = {host.name: cluster.status(host)["daemon"]["pid"] for host in cluster.hosts}
    with Trial(cluster, tmp_path) as trial:
        with trial.fault("upgrade", "all"):
            played = cluster.play("upgrade.yml", "-e", f"yadtq_packages_dir={packages.next}", "-e",
                                  f"yadtq_version={new}")
            assert {installed(host) for host in cluster.hosts} == {new}
            cluster.settle()
        report.figure("`ansible-playbook upgrade.yml`, under load", played.took_s)
        report.transcript("ansible-playbook -i inventory upgrade.yml", short_transcript(played.output))
        assert all(cluster.status(host)["daemon"]["pid"] != supervisors[host.name] for host in cluster.hosts)
        trial.goes_on()
        with trial.fault("rollback", "all"):
            played = cluster.play("rollback.yml", "-e", f"yadtq_version={old}")
            assert {installed(host) for host in cluster.hosts} == {old}
            cluster.settle()
        report.figure("`ansible-playbook rollback.yml`, under load", played.took_s)
        trial.goes_on()
        figures = trial.finish()
    report.figure("upgrade and rollback: tasks accepted under load", figures["accepted"], "tasks")
    report.figure("upgrade and rollback: tasks lost", figures["lost"], "tasks", limit=0)
    report.figure("upgrade and rollback: tasks that ran again", figures["run_again"], "tasks")


def test_an_uninstallation_leaves_nothing(fresh_cluster: Cluster, report: Report) -> None:
    cluster = fresh_cluster
    played = cluster.play("uninstall.yml", "-e", "yadtq_uninstall=yes", "-e", "yadtq_purge_data=true")
    for host in cluster.hosts:
        there = f"ls -d {' '.join(LEFT)} 2>/dev/null; find /etc/yadtq /etc/kafka 2>/dev/null"
        assert host.attempt(there).stdout == "", host
        known = host.attempt("dpkg-query -W -f '${Package} ${db:Status-Status}\\n' yadtq yadtq-kafka 2>/dev/null")
        assert [line for line in known.stdout.splitlines() if not line.endswith(" not-installed")] == [], host
        for user in ("yadtq", "kafka"):
            assert host.attempt(f"pgrep -u {user} -a").stdout == "", host
        state = host.attempt("systemctl is-system-running --wait; systemctl --failed --no-legend")
        assert state.stdout == "running\n", host
    report.transcript("ansible-playbook -i inventory uninstall.yml", short_transcript(played.output))
