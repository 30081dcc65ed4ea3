"""The control socket that systemd made for us (socket activation): taken once, at the start of the command yadtqd.

Runs in the supervisor's one thread before anything is forked. The variables are taken out of the environment, so that
no child believes that they are its own, and every descriptor that was passed is closed on exec. Only a listening unix
stream socket is taken; systemd keeps its own copy of it, so that connections wait there while the daemon restarts.
"""
from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping

from yadtq.errors import ConfigurationError

log = logging.getLogger(__name__)

FIRST_FD = 3
NAME = "control"                # FileDescriptorName= in yadtqd.socket
VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


def take_listener(env: MutableMapping[str, str] = os.environ, first_fd: int = FIRST_FD) -> socket.socket | None:
    """The control listener that systemd passed to this process, None when there is none.

    Of several, the one named "control", or else the only one. What else was passed is closed. ConfigurationError when
    it is no listening unix stream socket: the unit would then promise what nobody keeps.
    """
    fds, pid, names = (env.pop(name, "") for name in VARIABLES)
    if pid != str(os.getpid()) or not fds.isdecimal():
        return None
    passed = range(first_fd, first_fd + int(fds))
    for fd in passed:
        os.set_inheritable(fd, False)
    named = dict(zip(passed, names.split(":"), strict=False))
    chosen = next((fd for fd, name in named.items() if name == NAME), passed[0] if len(passed) == 1 else None)
    for fd in passed:
        if fd != chosen:
            log.warning("systemd passed a descriptor %d (%s) that nobody uses; it is closed", fd, named.get(fd, ""))
            os.close(fd)
    return None if chosen is None else _checked(chosen)


def path_of(listener: socket.socket) -> str:
    """Where it listens; "" for one that has no path."""
    name = listener.getsockname()
    return name if isinstance(name, str) and not name.startswith("\0") else ""


def _checked(fd: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise ConfigurationError(f"systemd passed descriptor {fd}, which is no socket: {error}") from error
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM \
            or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise ConfigurationError(f"systemd passed descriptor {fd}, which is no listening unix stream socket; "
                                 "ListenStream= of yadtqd.socket is a path")
    return sock
