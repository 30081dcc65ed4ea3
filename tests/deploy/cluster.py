"""A cluster that the real playbooks deployed, seen from outside: playbooks, daemons, the client of an application.

Knows nothing that an operator does not know: configuration and passwords are read where the deployment put them, the
daemons are asked over their control sockets (which are reached through /proc, so a cut network does not matter).
"""
from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from tests.deploy.docs_commands import Block
from tests.deploy.lab.hosts import ROOT, Host, Hosts
from tests.deploy.lab.machine import HostError
from yadtq import YADTQClient
from yadtq.config import Settings
from yadtq.errors import ControlError, YADTQError
from yadtqd.control_client import ControlClient

PLAYBOOKS = ROOT / "ansible"
PLAY_S = 900.0
SETTLED_S = 90.0
CONFIG = "etc/yadtq/yadtq.toml"
CREDENTIALS = "etc/yadtq/credentials"
SOCKET = "run/yadtq/yadtqd.sock"
_RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.M)


class PlayFailed(Exception):
    """A playbook ended with an error; the message is the end of what it said."""


@dataclass(frozen=True)
class Played:
    """What became of a playbook's run. `took_s` in seconds; the counts are sums over the hosts."""

    output: str
    took_s: float
    status: int = 0
    changed: int = 0
    failed: int = 0
    hosts: dict[str, int] = field(default_factory=dict)         # what changed, host by host

    @classmethod
    def of(cls, output: str, took_s: float, status: int) -> Played:
        """Read ansible's recap."""
        rows = _RECAP.findall(output)
        return cls(output, took_s, status, sum(int(row[2]) for row in rows),
                   sum(int(row[3]) + int(row[4]) for row in rows), {row[0]: int(row[2]) for row in rows})


def program(name: str) -> str:
    """An ansible program: of our own environment, else of the machine."""
    own = Path(sys.executable).with_name(name)
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed: pip install 'ansible-core>=2.16'")
    return found


def wait_until(condition: Callable[[], Any], limit_s: float, what: str, every_s: float = 0.1) -> float:
    """Seconds until `condition` is true; AssertionError that says `what` when it is not in time."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < limit_s, f"not within {limit_s:g} s: {what}"
        time.sleep(every_s)
    return time.monotonic() - begun


class Cluster:
    """The hosts, the inventory that they are deployed with, and what runs on them."""

    def __init__(self, hosts: Hosts, home: Path) -> None:
        """`home` is the operator's on the controller: its yadtq/ has inventory, vault and the vault's password."""
        self.hosts, self.home = hosts, home
        self.partitions = 0                             # of the task topic: what the inventory says
        self.inventory, self.log = home / "yadtq" / "inventory.yml", home / "ansible.log"

    @property
    def first(self) -> Host:
        """The host on which single things are tried."""
        return next(iter(self.hosts))

    # ---- playbooks --------------------------------------------------------------------------------------------------
    def play(self, playbook: str, *arguments: str, limit_s: float = PLAY_S, check: bool = True) -> Played:
        """Run a playbook of the project as an operator does: from its folder, over ssh. PlayFailed if it fails."""
        return self._run([program("ansible-playbook"), "-i", str(self.inventory), playbook, *arguments], limit_s, check)

    def controller(self, *blocks: Block, limit_s: float = PLAY_S) -> Played:
        """Run blocks of docs/deploy.md as they stand, one after the other; PlayFailed if one fails."""
        return self._run(["bash", "-c", "\n".join(block.script for block in blocks)], limit_s, True)

    def environment(self) -> dict[str, str]:
        """That of a shell on the controller."""
        programs = Path(program("ansible-playbook")).parent
        return self.hosts.ansible_environment() | {
            "HOME": str(self.home), "ANSIBLE_VAULT_PASSWORD_FILE": str(self.home / "yadtq" / "vault-password"),
            "PATH": f"{programs}:{os.environ['PATH']}"}

    def secrets(self) -> list[str]:
        """What must be found nowhere: the values of the vault."""
        told = subprocess.run([program("ansible-vault"), "view", str(self.home / "yadtq/group_vars/all/vault.yml")],
                              capture_output=True, text=True, check=True, env=self.environment())
        return [line.split(": ")[1].strip() for line in told.stdout.splitlines() if line.startswith("vault_")]

    def _run(self, command: list[str], limit_s: float, check: bool) -> Played:
        begun, lines = time.monotonic(), []
        with subprocess.Popen(command, cwd=PLAYBOOKS, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, env=self.environment(),
                              start_new_session=True) as process, self.log.open("a") as log:
            watchdog = threading.Timer(limit_s, os.killpg, (process.pid, signal.SIGKILL))
            watchdog.start()
            assert process.stdout is not None
            log.write(f"$ {' '.join(command)}\n")
            try:
                for line in process.stdout:
                    lines.append(line)
                    log.write(line)
                    log.flush()
                process.wait()
            except BaseException:                   # Ctrl-C does not reach a session of its own
                os.killpg(process.pid, signal.SIGKILL)
                raise
            finally:
                watchdog.cancel()
        played = Played.of("".join(lines), time.monotonic() - begun, process.returncode)
        if check and (played.status or played.failed):
            raise PlayFailed(f"{command[-1]} ended with {played.status} after {played.took_s:.0f} s:\n"
                             f"{played.output[-6000:]}")
        return played

    # ---- the daemons ------------------------------------------------------------------------------------------------
    def status(self, host: Host) -> dict[str, Any]:
        """What the host's daemon says of itself; ControlError or HostError when nobody answers."""
        found: dict[str, Any]
        with ControlClient(f"/proc/{host.machine.leader()}/root/{SOCKET}") as control:
            found = control.call("status")
        return found

    def owned(self, host: Host) -> set[int]:
        """The partitions that running workers of a host consume now; none while it can't be asked."""
        try:
            status = self.status(host)
        except (ControlError, HostError, OSError):
            return set()
        running = {worker["name"] for worker in status["workers"] if worker["state"] == "RUNNING"}
        return {row["partition"] for row in status["partitions"] if row["owned"] and row["worker"] in running}

    def state(self, host: Host) -> str:
        """RUNNING, DEGRADED ..., or "" while nobody answers."""
        try:
            return str(self.status(host)["daemon"]["state"])
        except (ControlError, HostError, OSError):
            return ""

    def settled(self) -> bool:
        """Is every daemon in good health, and every partition consumed by exactly one of them?"""
        parts = [self.owned(host) for host in self.hosts]
        return (sum(map(len, parts)) == len(set().union(*parts)) == self.partitions
                and all(parts) and all(self.state(host) == "RUNNING" for host in self.hosts))

    def settle(self, limit_s: float = SETTLED_S) -> float:
        """Wait until it has settled; the seconds that it took."""
        try:
            return wait_until(self.settled, limit_s, "the cluster to settle", 0.25)
        except AssertionError as error:
            told = {host.name: (self.state(host), sorted(self.owned(host))) for host in self.hosts}
            raise AssertionError(f"{error}: {told}") from None

    # ---- applications -----------------------------------------------------------------------------------------------
    def options(self, host: Host | None = None) -> dict[str, Any]:
        """What a client of the cluster has to set, with paths as they are seen from here and with passwords."""
        root = (host or self.first).root
        wanted = ("kafka_", "redis_", "transport", "num_partitions")
        found = {name: value for name, value in tomllib.loads((root / CONFIG).read_text()).items()
                 if name.startswith(wanted)}
        for name, value in found.items():
            if name.endswith("_file") and value:
                found[name] = str(root / str(value).lstrip("/"))
        for path in sorted((root / CREDENTIALS).glob("*_password")):
            if not {path.name, f"{path.name}_file"} & set(found):
                found[path.name] = path.read_text().removesuffix("\n")
        return found

    def settings(self, **more: Any) -> Settings:
        """The same as settings."""
        return Settings(**self.options() | more)

    def client(self, **more: Any) -> YADTQClient:
        """A client of the cluster, on this machine."""
        return YADTQClient(settings=self.settings(**more), connect_timeout_s=60)

    # ---- Redis, as its Sentinels see it -----------------------------------------------------------------------------
    def _ask_sentinels(self, *command: str) -> list[Any]:
        settings, answers = self.settings(), []
        for address in settings.redis_sentinels.split(","):
            host, _, port = address.strip().partition(":")
            options: dict[str, Any] = {}
            if settings.redis_ssl:
                options = {"ssl": True, "ssl_ca_certs": settings.redis_ssl_ca_file}
            with contextlib.suppress(redis.RedisError, OSError), redis.Redis(
                    host, int(port), username=settings.redis_sentinel_username or None,
                    password=settings.redis_sentinel_password or None, decode_responses=True, retry=None,
                    socket_connect_timeout=1, socket_timeout=1, **options) as sentinel:
                answers.append(sentinel.execute_command("SENTINEL", *command, settings.redis_sentinel_master))
        return answers

    def primary_address(self) -> str:
        """The address of the primary that two Sentinels agree on; "" while there is none."""
        told = Counter(answer[0] for answer in self._ask_sentinels("GET-MASTER-ADDR-BY-NAME") if answer)
        address, votes = told.most_common(1)[0] if told else ("", 0)
        return address if votes >= 2 else ""

    def follows(self, host: Host) -> bool:
        """Is the host's Redis a replica that is in step, as all Sentinels see it?"""
        def well(replicas: list[Any]) -> bool:
            rows = [row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True)) for row in replicas]
            return any(row["ip"] == host.address and row["flags"] == "slave" and row["master-link-status"] == "ok"
                       for row in rows)
        answers = self._ask_sentinels("REPLICAS")
        return bool(answers) and all(map(well, answers))

    def works(self, limit_s: float = 30.0) -> float:
        """Seconds until a task that is submitted now, and again until it is accepted, has its result."""
        begun = time.monotonic()
        with self.client() as client:
            while True:
                try:
                    task_id = client.submit_task("addition", args=[1, 2], submit_timeout_s=limit_s)
                    if client.get_result(task_id, timeout=limit_s) == 3:
                        return time.monotonic() - begun
                except YADTQError as error:
                    if time.monotonic() - begun > limit_s:
                        raise AssertionError(f"no task was done within {limit_s:g} s: {error}") from error


def unit(host: Host, name: str, *properties: str) -> Mapping[str, str]:
    """Properties of a unit, as systemd tells them."""
    told = host.run(f"systemctl show {name} {' '.join(f'-p {key}' for key in properties)}")
    return dict(line.split("=", 1) for line in told.splitlines())
