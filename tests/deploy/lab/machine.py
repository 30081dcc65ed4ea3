"""One booted test host: systemd-nspawn on a root file system, its cgroups, its end; ours to kill at any moment.

A host has a cgroup of its own name in every hierarchy (else two hosts would share one), which is how all of its
processes are found, by anybody, whatever has become of whoever booted it. Standard library only.
"""
from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.deploy.lab.image import INIT

CGROUPS = Path("/sys/fs/cgroup")
BOOT_S = 60.0
OFF_S = 60.0
REBOOTED = 133          # nspawn's exit status when its host has asked for a reboot
# a cgroup for the host in each hierarchy is entered before nspawn begins; what follows `--` is nspawn
_ENTER = 'while [ "$1" != -- ]; do mkdir -p "$1" && echo $$ > "$1/cgroup.procs"; shift; done; shift; exec "$@"'


class HostError(Exception):
    """A host did not do what it was told to."""


def overlay(root: Path, lower: list[Path], upper: Path, work: Path) -> None:
    """Mount an overlay at `root`; the topmost of `lower` comes first."""
    for folder in (root, upper, work):
        folder.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={':'.join(str(layer) for layer in lower)},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(root)], check=True)


def own_cgroups(name: str) -> list[Path]:
    """A cgroup for a host in every hierarchy, beneath ours: where systemd does not run, nobody else makes one."""
    if Path("/run/systemd/system").exists():
        return []
    ours = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        ours[controllers.removeprefix("name=") or "unified"] = path.strip("/")
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS / ours.get("unified", "") / name]
    found = [entry for entry in sorted(CGROUPS.iterdir()) if entry.is_dir() and entry.name != "cpuset"]
    return [entry / ours.get(entry.name, "") / name for entry in found]


def cgroups_of(name: str) -> list[Path]:
    """Every cgroup of the host `name`, whoever made it."""
    wanted = {name, f"{name}.scope", f"machine-{name}.scope"}
    found = []
    for folder, below, _ in os.walk(CGROUPS):
        found += [Path(folder) / entry for entry in below if entry in wanted]
        below[:] = [entry for entry in below if entry not in wanted]
    return found


def members(name: str) -> set[int]:
    """The pids of all processes of a host, nspawn among them."""
    found: set[int] = set()
    for cgroup in cgroups_of(name):
        for folder, _, _ in os.walk(cgroup):
            with contextlib.suppress(OSError):
                found |= {int(pid) for pid in (Path(folder) / "cgroup.procs").read_text().split()}
    return found


def kill(name: str, limit_s: float = 20.0) -> None:
    """End every process of a host at once, as a power cut does."""
    for cgroup in cgroups_of(name):
        with contextlib.suppress(OSError):
            (cgroup / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + limit_s
    while left := members(name):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise HostError(f"{name}: {len(left)} processes did not end: {sorted(left)[:5]}")
        time.sleep(0.02)


def forget(name: str) -> None:
    """Remove the cgroups of a host that has ended."""
    deadline = time.monotonic() + 5
    for cgroup in cgroups_of(name):
        while cgroup.exists() and time.monotonic() < deadline:
            for folder, _, _ in os.walk(cgroup, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
            time.sleep(0.01)
    with contextlib.suppress(OSError):          # nspawn doesn't where /run is on a disk
        Path("/run/systemd/nspawn/propagate", name).rmdir()


class Machine:
    """A host that can be booted, shut down, and cut from its power. Call from one thread at a time."""

    def __init__(self, name: str, root: Path, console: Path, hostname: str = "", network: str = "") -> None:
        """`console` is a file to append to; `network` the name of a network namespace (default: this machine's)."""
        self.name, self.root, self.console, self.network = name, root, console, network
        self.hostname = hostname or name
        self.process: subprocess.Popen[bytes] | None = None
        self._notify: socket.socket | None = None

    @property
    def running(self) -> bool:
        """Is there an nspawn?"""
        return self.process is not None and self.process.poll() is None

    def boot(self) -> None:
        """Begin to boot; `wait_ready` tells when it is up."""
        if self.running:
            raise HostError(f"{self.name} is running")
        cgroups = own_cgroups(self.name)
        command = ["systemd-nspawn", "--quiet", f"--directory={self.root}", f"--machine={self.name}",
                   f"--hostname={self.hostname}", "--console=pipe", "--kill-signal=SIGRTMIN+3", "--register=no",
                   "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--notify-ready=yes"]
        if cgroups:
            command.append("--keep-unit")
        if self.network:
            command += [f"--network-namespace-path=/run/netns/{self.network}", "--capability=CAP_NET_ADMIN"]
        address = self.console.with_suffix(".notify")
        address.unlink(missing_ok=True)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(address))
        with self.console.open("ab") as console:
            self.process = subprocess.Popen(
                ["sh", "-c", _ENTER, "sh", *map(str, cgroups), "--", *command, INIT], stdin=subprocess.DEVNULL,
                stdout=console, stderr=console, start_new_session=True,
                env={**os.environ, "NOTIFY_SOCKET": str(address)})

    def wait_ready(self, limit_s: float = BOOT_S) -> None:
        """Until systemd in there says that it has booted."""
        assert self._notify is not None
        deadline = time.monotonic() + limit_s
        with contextlib.closing(self._notify) as notify:
            while time.monotonic() < deadline and self.running:
                if select.select([notify], [], [], 0.1)[0] and b"READY=1" in notify.recv(4096).split(b"\n"):
                    return
        raise HostError(f"{self.name} did not boot:\n{self.console.read_text(errors='replace')[-1500:]}")

    def wait_ended(self, limit_s: float = OFF_S) -> int:
        """Until it has ended by itself; nspawn's exit status (REBOOTED: it wants to be booted again)."""
        assert self.process is not None
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise HostError(f"{self.name} did not end within {limit_s:g} s") from None

    def power_off(self, limit_s: float = OFF_S) -> None:
        """Shut it down in order; what is left after `limit_s` is killed."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(limit_s)
        self.power_cut()

    def power_cut(self) -> None:
        """Every process at once; what it wrote stays, as on a disk with a battery."""
        kill(self.name)
        if self.process is not None:
            self.process.wait(10)

    def leader(self) -> int:
        """The pid, here, of its init."""
        for pid in members(self.name):
            with contextlib.suppress(OSError):
                if re.search(r"^NSpid:\s+\d+\s+1$", Path(f"/proc/{pid}/status").read_text(), re.M):
                    return pid
        raise HostError(f"{self.name} is off")


def mounts_below(folder: Path) -> Iterator[str]:
    """What is mounted beneath a folder, the innermost first."""
    found = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return reversed([mount for mount in found if mount.startswith(f"{folder}/")])
