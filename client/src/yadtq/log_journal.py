"""Lines for systemd's journal with fields, by its native protocol: a datagram a line to its socket.

    MESSAGE=w3 yadtqd.processor: ...   PRIORITY=6   YADTQ_TASK_ID=0198...   YADTQ_WORKER=host/w3   YADTQ_PARTITION=2

Used by `yadtq.log` in any thread of any process. Never waits for a journal that does not read, but for a moment in a
worker: what the socket does not take goes to the fallback, standard error with `<N>` prefixes, which loses the fields
and no text. (python-systemd has the same protocol, but waits for as long as the journal likes, and needs a compiler.)
"""
from __future__ import annotations

import array
import contextlib
import errno
import logging
import os
import select
import socket
import struct
import time
from collections.abc import Iterator

from yadtq.log_format import PRIORITIES, PlainFormatter, about, harmless

SOCKET = "/run/systemd/journal/socket"
MAX_LENGTH = 64 * 1024          # of a message, in characters; a longer one is cut: no task fills the journal by a line
SETTLE_S = 0.1                  # the longest wait at a process's end
GRACE_S = 0.002                 # from when the journal has taken a line until it has looked who sent it
_LOST = (errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN, errno.ENOENT)
_CUT = "... (cut: {} characters)"


class JournalHandler(logging.Handler):
    """Sends lines to the journal at `path`; `fallback` gets those that it does not take. OSError: there is none.

    `worker` is the worker of every line that is of no other.
    """

    def __init__(self, process: str, fallback: logging.Handler, *, worker: str = "", patience_s: float,
                 path: str | None = None) -> None:
        super().__init__()
        self._worker = worker
        self._path = SOCKET if path is None else path
        self._process, self._fallback, self._patience_s = process, fallback, patience_s
        self._full = False              # it took nothing the last time: nobody waits for it again
        self._sent_by = 0               # the process that has sent something (a fork inherits the socket)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._sock.setblocking(False)
            self._sock.connect(self._path)
        except OSError:
            self._sock.close()
            raise

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one line, here or there."""
        try:
            taken = self._send(encode(record, self._process, self._worker))
        except Exception:  # noqa: BLE001 (a line that can't be formatted; logging tells it)
            self.handleError(record)
            return
        if not taken:
            self._fallback.handle(record)

    def settle(self, limit_s: float = SETTLE_S) -> None:
        """Wait, at the end of a process, until the journal has read what this one has sent.

        It looks up in /proc whose a line is, and would not know the unit of a process that is gone.
        """
        if self._sent_by != os.getpid():
            return
        deadline = time.monotonic() + limit_s
        with contextlib.suppress(OSError, ValueError):
            while self._unread() and time.monotonic() < deadline:
                time.sleep(0.0005)
            time.sleep(GRACE_S)

    def close(self) -> None:
        """Close the socket and the fallback."""
        self._sock.close()
        self._fallback.close()
        super().close()

    def _send(self, data: bytes) -> bool:
        try:
            try:
                self._sock.send(data)
            except BlockingIOError:
                if self._full or not self._wait():
                    self._full = True
                    return False
                self._sock.send(data)
            except OSError as error:
                if error.errno not in _LOST:
                    return False
                self._sock.connect(self._path)      # the journal has a new socket
                self._sock.send(data)
        except OSError:                             # gone, or the line is too long for it
            return False
        self._full, self._sent_by = False, os.getpid()
        return True

    def _wait(self) -> bool:
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        return bool(self._patience_s and poll.poll(self._patience_s * 1000))

    def _unread(self) -> int:
        """Bytes of ours that the journal has not read yet."""
        import fcntl  # here, since applications import yadtq.log where there is no fcntl
        import termios

        count = array.array("i", [0])
        fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, count)
        return count[0]


def encode(record: logging.LogRecord, process: str, worker: str = "") -> bytes:
    """One line in the journal's native protocol: `NAME=value`, or, with line ends in it, its length and bytes."""
    out = bytearray()
    for name, value in _fields(record, process, worker):
        data = value.encode("utf-8", "backslashreplace")
        if b"\n" in data:
            out += name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
        else:
            out += name.encode() + b"=" + data + b"\n"
    return bytes(out)


def _fields(record: logging.LogRecord, process: str, worker: str) -> Iterator[tuple[str, str]]:
    yield "MESSAGE", _message(record, process)
    yield "PRIORITY", str(PRIORITIES.get(record.levelno, 6))
    yield "SYSLOG_IDENTIFIER", process if process.startswith("yadtq") else "yadtqd"
    yield "YADTQ_PROCESS", process
    yield "YADTQ_LOGGER", harmless(record.name)
    for name, value in (("YADTQ_TASK_ID", getattr(record, "task_id", "")),
                        ("YADTQ_WORKER", getattr(record, "worker", "") or worker)):
        if value:
            yield name, harmless(value)
    if (partition := getattr(record, "partition", -1)) >= 0:
        yield "YADTQ_PARTITION", str(partition)
    if record.exc_info and (code := getattr(record.exc_info[1], "code", None)):
        yield "YADTQ_CODE", harmless(str(code))
    yield "CODE_FILE", record.pathname
    yield "CODE_LINE", str(record.lineno)
    yield "CODE_FUNC", record.funcName or ""


def _message(record: logging.LogRecord, process: str) -> str:
    """As on standard error, but in one piece: the journal shows further lines below the first."""
    text = f"{process} {record.name}: {about(record)}{PlainFormatter(process).text(record)}"
    if len(text) > MAX_LENGTH:
        text = text[:MAX_LENGTH] + _CUT.format(len(text))
    return text
