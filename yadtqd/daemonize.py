"""`yadtqd --daemon`: become a daemon through python-daemon, and let the launching command wait until it is up.

`launch` runs in the command; its return is the command's exit status. The daemon itself is a grandchild, detached, with
standard error in the log file. It happens before any epoll, shared memory or socket exists: python-daemon closes every
descriptor that it is not told to keep.
"""
from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable
from typing import NoReturn

import daemon

from yadtq.errors import ConfigurationError
from yadtqd.exits import DaemonExit

UP_WITHIN_S = 60.0      # the daemon calls itself up after 15 s at the latest, whatever it waits for
_MESSAGE_BYTES = 8192


class ReadyPipe:
    """The daemon's end of the pipe on which the launching command waits."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._told = False

    def up(self, waits: str) -> None:
        """The daemon is up; `waits` says what it still waits for."""
        self._tell(DaemonExit.OK, waits)

    def failed(self, status: int, reason: str) -> None:
        """The daemon ends with this status, for this reason; nothing if it had been up."""
        self._tell(status, reason)

    def _tell(self, status: int, text: str) -> None:
        if not self._told:
            with contextlib.suppress(OSError):      # the command was interrupted: the daemon goes on without it
                os.write(self.fd, f"{int(status)} {text}".encode()[:_MESSAGE_BYTES])
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, self.fd, inheritable=False)   # its number stays taken: children are told to close it
            os.close(null)
            self._told = True


def launch(run: Callable[[ReadyPipe], int], log_file: str, keep_fds: list[int]) -> int:
    """Start `run(pipe)` as a daemon; 0 once it is up, else its exit status with the reason on standard error."""
    try:
        log = open(log_file, "a", encoding="utf-8")  # noqa: SIM115 (it is the daemon's standard error, for its life)
    except OSError as error:
        raise ConfigurationError(f"the log file {log_file} can't be written: {error.strerror}; set log_file") from error
    read_fd, write_fd = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        _become_daemon(run, ReadyPipe(write_fd), log, keep_fds)
    os.close(write_fd)
    log.close()
    for fd in keep_fds:
        os.close(fd)    # the lock is the daemon's from here on
    os.waitpid(pid, 0)
    return _await(read_fd, log_file)


def _become_daemon(run: Callable[[ReadyPipe], int], pipe: ReadyPipe, log: object, keep_fds: list[int]) -> NoReturn:
    status = int(DaemonExit.FAILED)
    try:
        context = daemon.DaemonContext(  # type: ignore[no-untyped-call]
            umask=0o027, working_directory="/", signal_map={}, detach_process=True,
            files_preserve=[pipe.fd, *keep_fds], stdout=log, stderr=log)
        context.open()  # type: ignore[no-untyped-call]
        status = run(pipe)
    except BaseException as error:  # noqa: BLE001 (whatever it is, the command that waits must hear of it)
        pipe.failed(status, f"{type(error).__name__}: {error}")
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(status)


def _await(fd: int, log_file: str) -> int:
    deadline = time.monotonic() + UP_WITHIN_S
    while (left_s := deadline - time.monotonic()) > 0:
        if select.select([fd], [], [], left_s)[0]:
            message = os.read(fd, _MESSAGE_BYTES).decode(errors="replace")
            number, _, text = message.partition(" ")
            status = int(number) if number else int(DaemonExit.FAILED)
            text = text if number else "it ended before it was up"
            if status == DaemonExit.OK:
                print(f"yadtqd is up{f', but {text}' if text else ''}")
            else:
                print(f"yadtqd did not start: {text}\nIts log is {log_file}", file=sys.stderr)
            return status
    print(f"yadtqd was not up within {UP_WITHIN_S:g} s; its log is {log_file}", file=sys.stderr)
    return int(DaemonExit.NOT_UP_IN_TIME)
