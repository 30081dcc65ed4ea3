"""Real Debian hosts with systemd for the tests of the deployment: boot, run, cut off, cut the power, take snapshots.

    with Hosts(3) as hosts:                             # host1, host2, host3 at 10.78.0.11, .12, .13
        hosts.inventory(Path("inventory.yml"), {"kafka": ["host1", "host2", "host3"]}, {"yadtq_secure": True})
        hosts["host1"].run("systemctl is-active ssh")   # at its console: works when the network does not
        hosts["host1"].ssh("hostname")                  # as ansible sees it
        hosts["host2"].cut()                            # its cable is pulled; heal() puts it back
        hosts["host3"].power_cut()
        hosts["host3"].boot()

Each host is a systemd-nspawn of its own on an overlay of one image, in its own network namespace, and reaches what this
machine reaches (apt works). They share the kernel, so their clocks are one clock and their files can be read from here
(`host.root`). What they wrote outlives a power cut: it is the processes that end, not the page cache that is lost.
A child sweeps everything when this process ends, however it ends. One thread may use a set at a time. Needs root.
"""
from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tests.deploy.lab.image import Unavailable, equip, image, why_not
from tests.deploy.lab.machine import REBOOTED, HostError, Machine, overlay
from tests.deploy.lab.network import SETS, Network
from tests.deploy.lab.sweep import folder_of, sweep

ROOT = Path(__file__).resolve().parents[3]
RUN_S = 60.0
SSH_S = 15.0
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root",
                "LANG": "C.UTF-8", "TERM": "dumb"}
_SSH_OPTIONS = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes",
                "ConnectTimeout=10")
Done = subprocess.CompletedProcess[str]


class Host:
    """One host. `root` is its file system as seen from here."""

    def __init__(self, number: int, network: Network, folder: Path, lower: list[Path], key: Path) -> None:
        self.number, self._network, self._key = number, network, key
        self.name, self.address = f"host{number}", network.address(number)
        self.folder = folder / self.name
        self.root = self.folder / "root"
        self._image = lower
        self.layers: list[Path] = []                    # of its snapshots, the latest first
        self.folder.mkdir()
        self.machine = Machine(network.namespace(number), self.root, self.folder / "console", self.name,
                               network.namespace(number))
        self.mount()

    def __repr__(self) -> str:
        return f"<{self.name} {self.address}>"

    # ---- talking to it ----------------------------------------------------------------------------------------------
    def attempt(self, command: str, *, user: str = "root", timeout_s: float = RUN_S, given: str | None = None) -> Done:
        """Run a shell command at its console, as `user`, whatever becomes of it; works without a network."""
        whole = ["nsenter", "-t", str(self.machine.leader()), "-a", "--"]
        whole += ["sh", "-c", command] if user == "root" else ["runuser", "-u", user, "--", "sh", "-c", command]
        return self._call(whole, command, timeout_s, given)

    def run(self, command: str, *, user: str = "root", timeout_s: float = RUN_S, given: str | None = None) -> str:
        """The same; its output without the last line's end. HostError if it fails."""
        return self._checked(command, self.attempt(command, user=user, timeout_s=timeout_s, given=given))

    def ssh(self, command: str, *, timeout_s: float = RUN_S) -> str:
        """Run a command over ssh, as root; its output. HostError if it fails."""
        return self._checked(command, self._call([*self.ssh_command(), command], command, timeout_s, None))

    def ssh_command(self) -> list[str]:
        """How to log in from this machine."""
        options = [word for option in _SSH_OPTIONS for word in ("-o", option)]
        return ["ssh", "-i", str(self._key), *options, f"root@{self.address}"]

    def _call(self, whole: list[str], command: str, timeout_s: float, given: str | None) -> Done:
        try:
            return subprocess.run(whole, input=given, stdin=subprocess.DEVNULL if given is None else None,
                                  capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False,
                                  env=_ENVIRONMENT)
        except subprocess.TimeoutExpired as error:
            told = "".join(part.decode(errors="replace") if isinstance(part, bytes) else part or ""
                           for part in (error.stdout, error.stderr))
            raise HostError(f"{self.name}: not done within {timeout_s:g} s: {command}\n{told[-2000:]}") from None

    def _checked(self, command: str, done: Done) -> str:
        if done.returncode:
            raise HostError(f"{self.name}: status {done.returncode}: {command}\n{(done.stdout + done.stderr)[-4000:]}")
        return done.stdout.removesuffix("\n")

    # ---- its power --------------------------------------------------------------------------------------------------
    def boot(self, wait: bool = True) -> None:
        """Switch it on; returns when systemd has booted."""
        self.machine.boot()
        if wait:
            self.machine.wait_ready()

    def reboot(self) -> None:
        """`systemctl reboot`, until it is up again."""
        self.attempt("systemctl reboot", timeout_s=20)
        status = self.machine.wait_ended(120)
        if status != REBOOTED:
            raise HostError(f"{self.name} ended with {status}, not for a reboot")
        self.machine.power_cut()                        # what an unclean end of nspawn may have left
        self.boot()

    def power_off(self) -> None:
        """Shut it down in order."""
        self.machine.power_off()

    def power_cut(self) -> None:
        """Every process ends at once, unasked."""
        self.machine.power_cut()

    # ---- its network ------------------------------------------------------------------------------------------------
    def cut(self, peer: Host | None = None, way: str = "both") -> None:
        """Pull its cable; with a `peer` only drop what goes "out" to it, comes "in" from it, or "both"."""
        if peer is None:
            self._network.cut(self.number)
        else:
            self._network.cut_from(self.number, peer.number, way)

    def heal(self) -> None:
        """Undo all of its cuts."""
        self._network.heal(self.number)

    # ---- its disk ---------------------------------------------------------------------------------------------------
    def mount(self) -> None:
        """Its file system, on top of its snapshots."""
        overlay(self.root, [*self.layers, *self._image], self.folder / "upper", self.folder / "work")

    def replace(self) -> None:
        """Cut its power, and boot a bare host in its place."""
        self.power_cut()
        self.unmount()
        shutil.rmtree(self.folder / "upper")
        self.layers = []
        self.mount()
        self.boot()

    def unmount(self) -> None:
        """It must be off."""
        subprocess.run(["umount", str(self.root)], check=True)
        shutil.rmtree(self.folder / "work")


class Hosts:
    """A set of hosts; a context manager. Each set of a machine has a number, the first that is free."""

    def __init__(self, count: int = 3) -> None:
        if reason := why_not():
            raise Unavailable(reason)
        self.count = count
        self._hosts: dict[str, Host] = {}
        self._snapshots: dict[str, dict[str, list[Path]]] = {}
        self._lock, self.number = _take_number()
        self.folder = folder_of(self.number)
        self.key = self.folder / "key"
        self._reaper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Hosts:
        """Boot them all."""
        base = image()
        sweep(self.number)                              # of a reaper that was killed
        self._reaper = subprocess.Popen([sys.executable, "-m", "tests.deploy.lab.sweep", str(self.number)], cwd=ROOT,
                                        stdin=subprocess.PIPE, start_new_session=True, pass_fds=[self._lock.fileno()])
        try:
            self._make(base)
            self.boot_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing."""
        if self._reaper is not None:
            assert self._reaper.stdin is not None
            self._reaper.stdin.close()
            if self._reaper.wait(120):
                raise HostError(f"set {self.number} was not swept: see above")
        for host in self:
            host.machine.power_cut()                    # they have ended: take note of it
        self._lock.close()

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def __len__(self) -> int:
        return len(self._hosts)

    def _make(self, base: Path) -> None:
        self.folder.mkdir(mode=0o711)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        network = Network(self.number)
        network.up(self.count)
        common = self.folder / "common"                 # what all hosts of the set have on top of the image
        root = common / "root"
        overlay(root, [base], common / "upper", common / "work")
        equip(root, {network.address(n): f"host{n}" for n in range(1, self.count + 1)})
        (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
        (root / "root/.ssh/authorized_keys").write_bytes(self.key.with_suffix(".pub").read_bytes())
        (root / "etc/ssh/sshd_config.d/test.conf").write_text("UseDNS no\nPasswordAuthentication no\n")
        subprocess.run(["umount", str(root)], check=True)
        for number in range(1, self.count + 1):
            host = Host(number, network, self.folder, [common / "upper", base], self.key)
            self._hosts[host.name] = host

    # ---- all of them ------------------------------------------------------------------------------------------------
    def boot_all(self) -> None:
        """Switch on those that are off, side by side."""
        off = [host for host in self if not host.machine.running]
        for host in off:
            host.boot(wait=False)
        for host in off:
            host.machine.wait_ready()

    def heal(self) -> None:
        """Undo all cuts."""
        for host in self:
            host.heal()

    def snapshot(self, name: str) -> None:
        """Shut all down, keep their disks as they are under a name, and boot them."""
        for host in self:
            host.power_off()
        self._snapshots[name] = {}
        for host in self:
            host.unmount()
            layer = host.folder / f"layer-{name}"
            (host.folder / "upper").rename(layer)
            host.layers.insert(0, layer)
            self._snapshots[name][host.name] = list(host.layers)
            host.mount()
        self.boot_all()

    def restore(self, name: str) -> None:
        """Give all hosts the disks of a snapshot, heal all cuts, and boot them (a second or two)."""
        self.heal()
        for host in self:
            host.power_cut()
            host.unmount()
            shutil.rmtree(host.folder / "upper")
            host.layers = list(self._snapshots[name][host.name])
            host.mount()
        self.boot_all()

    def inventory(self, path: Path, groups: Mapping[str, Sequence[str]],
                  variables: Mapping[str, Any] | None = None) -> Path:
        """Write an inventory for ansible: which hosts are in which group, and variables for all of them."""
        options = " ".join(f"-o {option}" for option in _SSH_OPTIONS)
        common = {"ansible_user": "root", "ansible_ssh_private_key_file": str(self.key),
                  "ansible_ssh_common_args": options, "ansible_python_interpreter": "/usr/bin/python3"}
        found = {"all": {
            "hosts": {host.name: {"ansible_host": host.address} for host in self},
            "vars": {**common, **(variables or {})},
            "children": {name: {"hosts": {key: {} for key in hosts}} for name, hosts in groups.items()}}}
        path.write_text(json.dumps(found, indent=2) + "\n")      # JSON is YAML
        return path

    def ansible_environment(self) -> dict[str, str]:
        """The environment for ansible, so that its connections end with the set."""
        return {**os.environ, "ANSIBLE_HOME": str(self.folder / "ansible"), "ANSIBLE_NOCOLOR": "1"}


def _take_number() -> tuple[IO[str], int]:
    """The first number that nobody has, and its lock."""
    for number in SETS:
        lock = Path(f"/run/lock/yadtq-hosts-{number}").open("w")  # noqa: SIM115 - it is held as long as the set
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock, number
        except BlockingIOError:
            lock.close()
    raise Unavailable(f"all {len(SETS)} sets of hosts of this machine are taken")
