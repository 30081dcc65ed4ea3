"""The pid file: a lock that says that one yadtqd runs here, and its pid for people and tools.

Used by `yadtqd` before it daemonizes, kept by the supervisor until its end. The lock (flock) is what counts: it goes
with the process however that dies, so a file left behind by a SIGKILL blocks nobody.
"""
from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

from yadtq.errors import AlreadyRunning, ConfigurationError


class PidFile:
    """Locks `path` at once; AlreadyRunning with the other's pid, ConfigurationError when the folder can't be used."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        prepare_folder(self.path.parent, "pid_file")
        self.fd = self._lock()

    def _lock(self) -> int:
        while True:
            try:
                fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            except OSError as error:
                raise ConfigurationError(f"the pid file {self.path} can't be written: {error.strerror}; "
                                         "set pid_file") from error
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.pread(fd, 32, 0).decode(errors="replace").strip()
                os.close(fd)
                raise AlreadyRunning(f"another yadtqd, pid {pid or 'not known yet'}, holds {self.path}") from None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self.path), os.fstat(fd)):
                    return fd
            os.close(fd)    # its owner took it away between our open and our lock

    def write(self) -> None:
        """Write the pid of this process: after daemonizing, which changes it."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)

    def remove(self) -> None:
        """Take the file away and give the lock back, in this order."""
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self.fd)


def prepare_folder(folder: Path, option: str) -> None:
    """Make sure that `folder` is there, ours or root's, and writable; else ConfigurationError that says what to do."""
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise ConfigurationError(f"{option}: the folder {folder} can't be made: {error.strerror}; make it, "
                                 f"or set {option}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigurationError(f"{option}: {folder} is no folder; set {option}")
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigurationError(f"{option}: the folder {folder} belongs to another user (uid {status.st_uid}), "
                                 f"who could replace what is in it; set {option}")
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise ConfigurationError(f"{option}: uid {os.geteuid()} may not write to {folder}; change its owner, "
                                 f"or set {option}")
