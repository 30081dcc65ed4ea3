"""Defaults of the configuration that depend on the machine: its name, and where the daemon's socket and pid file lie.

Pure but for what it asks the operating system; creates nothing. Used by `yadtq.config` in every process.
"""
from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yadtq.config import Settings

RUN_DIR = "/run/yadtq"                      # made by systemd (RuntimeDirectory=) or tmpfiles.d


def of_this_machine(settings: Settings) -> Iterator[tuple[str, str]]:
    """The options that were left empty, with what they are here."""
    if not settings.host_name:
        yield "host_name", socket.gethostname()
    if not settings.control_socket:
        yield "control_socket", control_socket()
    if not settings.pid_file:
        yield "pid_file", f"{run_dir()}/yadtqd.pid"


def control_socket() -> str:
    """Where the daemon listens for commands, and is looked for, when nothing else was configured."""
    return f"{run_dir()}/yadtqd.sock"


def run_dir() -> str:
    """The folder of the control socket and pid file for whoever runs this; nothing is created."""
    if os.getuid() == 0 or os.path.isdir(RUN_DIR):
        return RUN_DIR
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return f"{runtime}/yadtq" if runtime else f"/tmp/yadtq-{os.getuid()}"  # noqa: S108 (the daemon checks its owner)
