"""Removes what a set of test hosts left behind, and is the child that does so when its parent has ended, however.

Needs nothing but the set's number: processes, mounts, namespaces, the bridge and the folder are found by their names.
`python3 -m tests.deploy.lab.sweep N` waits for the end of its standard input, which its parent holds open, then sweeps;
it inherits the lock of the set, so nobody takes the number before it is done.
"""
from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.deploy.lab.machine import forget, kill, mounts_below
from tests.deploy.lab.network import Network

MOST = 9                # hosts of a set


def folder_of(number: int) -> Path:
    """Where a set keeps its overlays, keys and logs."""
    return Path(f"/var/tmp/yadtq-hosts-{number}")


def sweep(number: int) -> None:
    """Leave nothing of a set. Safe to repeat."""
    network, folder = Network(number), folder_of(number)
    for host in range(1, MOST + 1):
        kill(network.namespace(host))
        forget(network.namespace(host))
    for control in folder.glob("ansible/cp/*"):         # connections that ansible keeps open for a while
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["ssh", "-O", "exit", "-o", f"ControlPath={control}", "any"], capture_output=True,
                           timeout=5, check=False)
    network.down()
    for _ in range(50):
        for mount in mounts_below(folder):
            subprocess.run(["umount", "-l", mount], capture_output=True, check=False)
        if not list(mounts_below(folder)):
            break
        time.sleep(0.1)
    else:
        raise OSError(f"could not unmount what is beneath {folder}")
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Wait for our parent's end, then sweep."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    sys.stdin.buffer.read()
    sweep(int(sys.argv[1]))


if __name__ == "__main__":
    main()
