"""Task types that look at the place where the daemon runs its workers: what they may write, what they can see."""
from __future__ import annotations

import os
from pathlib import Path

from yadtq.tasks import task


@task("deploy.writable")
def writable(paths: list[str]) -> list[str]:
    """Those of these paths that this process can create or write (nothing of it is left)."""
    found = []
    for path in map(Path, paths):
        existed = path.exists()
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
