"""Task types that look at the place where the daemon runs its workers: what they may write, what they can see."""
from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from yadtq.tasks import task


@task("deploy.writable")
def writable(paths: list[str]) -> list[str]:
    """Those of these paths that this process can create or write (nothing of it is left)."""
    found = []
    for path in map(Path, paths):
        existed = os.path.exists(path)      # no error where we may not even look
        try:
            with path.open("ab"):
                found.append(str(path))
        except OSError:
            continue
        if not existed:
            path.unlink()
    return found


@task("deploy.readable")
def readable(paths: list[str]) -> list[str]:
    """Those of these files that this process can read."""
    return [path for path in paths if os.access(path, os.R_OK)]


@task("deploy.who")
def who() -> list[int]:
    """Our user and group, and whether new privileges can be had (the NoNewPrivs line of our status)."""
    status = Path("/proc/self/status").read_text()
    return [os.getuid(), os.getgid(), int(status.split("NoNewPrivs:")[1].split()[0])]


@task("deploy.hungry", isolated=True, memory_limit="200M")
def hungry(mb: int) -> int:
    """Needs so much memory, in a process of its own that may have 200 MB."""
    return len(b"x" * (mb * 1_000_000))


@task("deploy.devour")
def devour(mb: int) -> int:
    """Needs so much memory, in its worker, which nothing limits but the unit."""
    return len(b"x" * (mb * 1_000_000))


@task("deploy.needs", isolated=True)
def needs() -> dict[str, str]:
    """What isolated attempts and ordinary handlers need of the kernel: "ok", or what came instead."""
    return _tried({
        "a program": lambda: subprocess.run(["/bin/true"], check=True, start_new_session=True),
        "memfd": lambda: os.close(os.memfd_create("x")),
        "pidfd": lambda: os.close(os.pidfd_open(os.getpid())),
        "a temporary file": lambda: Path("/tmp/yadtq-test").touch(),
        "a unix socket": lambda: [end.close() for end in socket.socketpair()],
        "a TCP socket": lambda: socket.create_server(("127.0.0.1", 0)).close(),
        "the state folder": lambda: Path("/var/lib/yadtq/test").touch(),
    })


@task("deploy.may_not", isolated=True)
def may_not() -> dict[str, str]:
    """What the hardening forbids: "ok" where it does not."""
    return _tried({
        "write to /etc": lambda: Path("/etc/yadtq-test").touch(),
        "write to its own code": lambda: Path("/usr/lib/yadtq/test").touch(),
        "look at homes": lambda: os.listdir("/root"),
        "see where the passwords come from": lambda: os.listdir("/etc/yadtq/credentials"),
        "change its user": lambda: os.setuid(0),
        "leave its root": lambda: os.chroot("/"),
        "gain priority": lambda: os.nice(-5),
        "listen to the wire": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
        "make a namespace": lambda: subprocess.run(["/usr/bin/unshare", "--user", "/bin/true"], check=True,
                                                   stderr=subprocess.DEVNULL),
    })


def _tried(calls: dict[str, Callable[[], object]]) -> dict[str, str]:
    found = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = "ok"
        except (OSError, subprocess.SubprocessError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found
