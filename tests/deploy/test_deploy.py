"""One command made a cluster out of bare hosts: what it made, that a second run changes nothing, who may do what."""
from __future__ import annotations

import re
import subprocess

import pytest

from tests.deploy import stage
from tests.deploy.cluster import Cluster, Played
from tests.deploy.lab.hosts import Host
from tests.deploy.report import Report

FORBIDDEN = ("/etc/yadtq/yadtq.toml", "/etc/yadtq/x", "/etc/x", "/usr/lib/yadtq/x", "/usr/bin/x", "/root/x", "/home/x",
             "/var/lib/kafka/x", "/var/lib/redis/x", "/var/lib/x", "/var/x", "/boot/x", "/run/x", "/opt/x", "/srv/x",
             "/etc/systemd/system/x.service", "/sys/kernel/x", "/proc/sys/kernel/x", "/dev/x")
OWN = ("/var/lib/yadtq/x", "/var/log/yadtq/x", "/tmp/x")
UNREADABLE = ("/etc/shadow", "/etc/yadtq/credentials/redis_password", "/etc/kafka/server.properties",
              "/etc/redis/redis.conf", "/root/.ssh/authorized_keys")


@pytest.fixture
def host(cluster: Cluster) -> Host:
    return cluster.first


def test_bare_hosts_become_a_cluster_with_one_command(deployment: tuple[Cluster, Played]) -> None:
    cluster, played = deployment
    assert set(played.hosts) >= {host.name for host in cluster.hosts}
    assert all(played.hosts[host.name] for host in cluster.hosts)
    assert cluster.settled()


def test_a_second_run_changes_nothing(cluster: Cluster, report: Report) -> None:
    again = cluster.play("deploy.yml")
    changes = re.findall(r"TASK \[(.*?)\](?:(?!TASK \[).)*?^changed: (.*?)$", again.output, re.M | re.S)
    assert again.changed == 0, changes
    report.figure("the second run, which changes nothing", again.took_s)


def test_check_and_diff_tell_what_would_change_and_change_nothing(cluster: Cluster, host: Host) -> None:
    config = "/etc/yadtq/yadtq.toml"
    clean = cluster.play("deploy.yml", "--check", "--diff")
    assert clean.changed == 0, clean.output[-3000:]
    before = host.run(f"sha256sum {config}; systemctl show -p MainPID yadtqd kafka redis-server")
    told = cluster.play("deploy.yml", "--check", "--diff", "-e", '{"yadtqd_settings": {"max_worker_retries": 7}}')
    assert told.changed > 0
    assert re.search(r"^\+.*max_worker_retries = 7", told.output, re.M), told.output[-3000:]
    assert host.run(f"sha256sum {config}; systemctl show -p MainPID yadtqd kafka redis-server") == before


def test_an_operator_looks_and_root_submits(cluster: Cluster, host: Host, report: Report) -> None:
    """The README's steps on the host. Who may only look needs the group; who submits needs the passwords."""
    command = "CREDENTIALS_DIRECTORY=/etc/yadtq/credentials yadtq submit addition 1 2 --wait"
    said = host.run(command)
    assert said == "3"
    status = host.run("yadtqctl status", user=stage.OPERATOR)
    assert "RUNNING" in status
    assert host.run("yadtqctl status --check >/dev/null && echo well", user=stage.OPERATOR) == "well"
    report.transcript("On a host", f"# {command}\n{said}\n$ yadtqctl status\n{status}")


def test_who_is_not_in_the_group_gets_nowhere(cluster: Cluster, host: Host) -> None:
    host.run("id outsider >/dev/null 2>&1 || useradd --create-home outsider")
    refused = host.attempt("yadtqctl status", user="outsider")
    assert refused.returncode == 4, refused.stderr
    connect = "import socket; socket.socket(socket.AF_UNIX).connect('/run/yadtq/yadtqd.sock')"
    assert "PermissionError" in host.attempt(f'python3 -c "{connect}"', user="outsider").stderr
    for path in ("/etc/yadtq/yadtq.toml", *UNREADABLE):
        if host.attempt(f"test -e {path}").returncode == 0:
            assert host.attempt(f"cat {path}", user="outsider").returncode != 0, path
    assert host.attempt("ls /var/lib/yadtq /var/lib/kafka", user="outsider").stdout == ""


def test_handlers_write_nowhere_but_in_the_folders_of_the_daemon(cluster: Cluster) -> None:
    with cluster.client() as client:
        assert client.get_result(client.submit_task("deploy.writable", args=[FORBIDDEN]), timeout=30) == []
        assert client.get_result(client.submit_task("deploy.writable", args=[OWN]), timeout=30) == list(OWN)
        assert client.get_result(client.submit_task("deploy.readable", args=[UNREADABLE]), timeout=30) == []
        uid, gid, no_new_privileges = client.get_result(client.submit_task("deploy.who"), timeout=30)
    assert uid > 0
    assert gid > 0
    assert no_new_privileges == 1


def test_no_secret_is_in_a_log_a_command_line_or_a_file_that_all_may_read(cluster: Cluster) -> None:
    secrets = "\n".join(cluster.secrets())
    assert not any(secret in cluster.log.read_text() for secret in cluster.secrets())
    for host in cluster.hosts:
        host.run("umask 077; cat > /run/secrets-of-the-test", given=secrets)
        journal = host.attempt("journalctl --no-pager -o export | grep -a -F -c -f /run/secrets-of-the-test")
        assert journal.stdout.strip() == "0", host
        lines = host.attempt("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -a -F -c -f /run/secrets-of-the-test")
        assert lines.stdout.strip() == "0", host
        found = host.attempt("find /etc /usr /var /opt /srv /home /run -xdev -type f -perm -o=r -size -20M -not -path "
                             "'/run/secrets-of-the-test' -print0 | xargs -0 grep -l -a -F -f "
                             "/run/secrets-of-the-test", timeout_s=120)
        host.run("rm /run/secrets-of-the-test")
        open_to_all = [path for path in found.stdout.splitlines() if reachable(host, path)]
        assert open_to_all == [], host


def reachable(host: Host, path: str) -> bool:
    """Can anybody get there? A file that all may read in a folder that few may enter is no leak."""
    return host.attempt(f"cat '{path}'", user="nobody").returncode == 0


def test_tls_is_on_between_hosts_and_plain_connections_get_nowhere(cluster: Cluster) -> None:
    if len(cluster.hosts) == 1:
        pytest.skip("one host talks to itself")
    settings = cluster.settings()
    assert settings.kafka_security_protocol == "SASL_SSL"
    assert settings.redis_ssl
    for port in (settings.redis_port, 26379):
        plain = subprocess.run(["redis-cli", "-h", cluster.first.address, "-p", str(port), "ping"], timeout=10,
                               capture_output=True, text=True, check=False)
        assert "PONG" not in plain.stdout


def test_the_status_playbook_tells_how_the_hosts_are(cluster: Cluster, report: Report) -> None:
    told = cluster.play("status.yml")
    assert told.changed == 0
    for host in cluster.hosts:
        assert host.name in told.output
    report.transcript("ansible-playbook -i inventory status.yml", stage.short_transcript(told.output))
