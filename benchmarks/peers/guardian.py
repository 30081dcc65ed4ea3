"""Ends what a benchmark started, however the benchmark ends.

Owns a small process in a session of its own, which is told every process group that is started and the working
folder. When the pipe to it closes, because its parent has ended or was killed, it kills what is left of those groups
and removes the folder. It never looks for processes by name.
"""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

_CODE = """
import os, shutil, signal, sys
for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(name, signal.SIG_IGN)
groups, folder = set(), None
for line in sys.stdin:
    what, value = line[0], line[1:].strip()
    if what == "+":
        groups.add(int(value))
    elif what == "-":
        groups.discard(int(value))
    else:
        folder = value
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
if folder:
    shutil.rmtree(folder, ignore_errors=True)
"""


class Guardian:
    """Use as a context; `watch` every child that was started with `start_new_session=True`."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen([sys.executable, "-S", "-c", _CODE], stdin=subprocess.PIPE,
                                         start_new_session=True)
        self._tell(f"={folder}")

    def __enter__(self) -> Guardian:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def watch(self, pid: int) -> None:
        """The group that `pid` leads is to end with us."""
        self._tell(f"+{pid}")

    def end_group(self, pid: int) -> None:
        """Kill what is left of the group that `pid` led, and forget it."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        self._tell(f"-{pid}")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
