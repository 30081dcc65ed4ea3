"""Logging of the programs (yadtqd, yadtqctl, yadtq): where lines go, how they look, and which task they are about.

`setup` is called by each process of a program once it knows its settings, and again in each forked child. Importing
this module, or yadtq, configures nothing: an application that uses the client keeps its own logging. `context` is for
the workers' processors, in any thread or asyncio task. Never opens a connection, never starts a thread, and never waits
long for a reader that does not read: lines are dropped then, and counted.
"""
from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import select
import stat
import sys
import time
from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import IO, TYPE_CHECKING

from yadtq.log_format import Context, formatter
from yadtq.log_journal import JournalHandler
from yadtq.log_limit import Outage, RepeatFilter

if TYPE_CHECKING:
    from yadtq.config import Settings

__all__ = ["Outage", "RepeatFilter", "chosen_format", "context", "current", "set_level", "settle",
           "setup"]

# Libraries whose chatter helps nobody: warnings and worse only, and each of them at most twice a minute.
NOISY = ("kafka", "confluent_kafka", "librdkafka", "redis", "asyncio", "concurrent")
REPEAT_WINDOW_S = 30.0
WORKER_PATIENCE_S = 0.2         # how long a line waits for a reader that lags (a full pipe); the supervisor never waits
_CHUNK_BYTES = 4096             # what a pipe that says it is writable takes without waiting (PIPE_BUF)
_DROPPED = "%d lines were dropped here: nobody read the log"


def setup(settings: Settings, *, process: str, worker: str = "", stream: IO[str] | None = None,
          env: Mapping[str, str] | None = None) -> None:
    """Sends the log of this process where the settings say; `process` ("supervisor", "w3") stands in each line.

    `worker` ("host/w3") is the field that all lines of this process have in the journal, whichever thread writes them.

    Safe to call again, after a fork too: it replaces what it set up before, and nothing else. `stream` (standard error)
    and `env` (os.environ) are for tests.
    """
    env = os.environ if env is None else env
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Ours)]:
        root.removeHandler(old)
        old.close()
    handler: logging.Handler
    if settings.log_file:
        handler = _File(settings.log_file, encoding="utf-8", errors="backslashreplace", delay=True)
        style = "plain" if settings.log_format == "auto" else settings.log_format
    else:
        out = sys.stderr if stream is None else stream
        fd = _may_block(out)
        patience_s = 0.0 if process == "supervisor" else WORKER_PATIENCE_S
        handler = _Stream(out) if fd is None else _Pipe(fd, patience_s=patience_s)
        style = chosen_format(settings.log_format, out, env)
    handler.setFormatter(formatter(style, process))
    if style == "journal" and not settings.log_file and _is_journal(out, env.get("JOURNAL_STREAM", "")):
        with contextlib.suppress(OSError):              # no journal, or it is closed to us: prefixes will do
            handler = _Journal(process, handler, worker=worker, patience_s=patience_s)
    handler.addFilter(_add_context)
    handler.addFilter(RepeatFilter(NOISY, REPEAT_WINDOW_S))
    root.addHandler(handler)
    logging.captureWarnings(True)
    set_level(settings.log_level)


def settle() -> None:
    """At the end of a process: a moment for the journal to see whose lines these are. Nothing where there is none."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Journal):
            handler.settle()


def set_level(level: str) -> None:
    """The least level that is logged from now on; noisy libraries stay at WARNING unless it is DEBUG."""
    number = logging.getLevelNamesMapping()[level]
    quiet = number if number <= logging.DEBUG else max(number, logging.WARNING)
    for name, wanted in (("", number), *((name, quiet) for name in NOISY)):
        logger = logging.getLogger(name)
        if logger.level != wanted:      # setLevel writes to every logger, to pages that a forked process shares
            logger.setLevel(wanted)


def chosen_format(wanted: str, stream: IO[str], env: Mapping[str, str]) -> str:
    """What "auto" means for this stream: journal, color or plain. Anything else was asked for and is kept."""
    if wanted != "auto":
        return wanted
    if _is_journal(stream, env.get("JOURNAL_STREAM", "")):
        return "journal"
    if stream.isatty() and not env.get("NO_COLOR") and env.get("TERM") != "dumb":
        return "color"
    return "plain"


def _is_journal(stream: IO[str], journal: str) -> bool:
    """Whether a stream is the one that systemd connected to its journal (device:inode in JOURNAL_STREAM)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal == f"{status.st_dev}:{status.st_ino}"


# ---- what a line is about -------------------------------------------------------------------------------------------
_Fields = tuple[str, str, int]      # of Context; plain tuples here, since a named one takes three times as long to make
_current: ContextVar[_Fields] = ContextVar("yadtq_log_context", default=("", "", -1))


class context:
    """Fields that every line of this thread or asyncio task carries from now on, or within a `with` block.

    Fields that are not given stay as they are. Costs well under a microsecond, so that it is affordable for each task.

    Example:
        >>> with context(task_id="0198c5d2-...", partition=2):
        ...     logging.getLogger("yadtqd.processor").info("retried")
    """

    __slots__ = ("_token",)

    def __init__(self, task_id: str | None = None, worker: str | None = None, partition: int | None = None) -> None:
        now = _current.get()
        self._token: Token[_Fields] = _current.set((now[0] if task_id is None else task_id,
                                                    now[1] if worker is None else worker,
                                                    now[2] if partition is None else partition))

    def __enter__(self) -> context:
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


def current() -> Context:
    """The context of this thread or asyncio task."""
    return Context(*_current.get())


def _add_context(record: logging.LogRecord) -> bool:
    """The context of a line, unless it brought its own (`extra={"task_id": ..., "partition": ...}`)."""
    for name, value in zip(Context._fields, _current.get(), strict=True):
        record.__dict__.setdefault(name, value)
    return True


# ---- where lines go -------------------------------------------------------------------------------------------------
class _Ours:
    """Marks the handlers that `setup` made, so that it takes away no other."""


class _File(_Ours, logging.handlers.WatchedFileHandler):
    """A log file that is opened anew after logrotate has moved it; every process of the daemon appends to it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line. A folder that is gone or closed to us must not end whoever has something to say."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)


class _Stream(_Ours, logging.StreamHandler[IO[str]]):
    """Standard error, where it is a terminal or a file."""

    def close(self) -> None:
        """Nothing is closed: standard error is not ours."""
        logging.Handler.close(self)


class _Journal(_Ours, JournalHandler):
    """systemd's journal, where standard error is connected to it."""


class _Pipe(_Ours, logging.Handler):
    """Standard error, where somebody has to read it: a line that is not taken in time is dropped, and counted.

    It writes what a pipe takes without waiting once it says that it is writable. While nothing is taken, no line waits.
    """

    def __init__(self, fd: int, *, patience_s: float) -> None:
        super().__init__()
        self._fd, self._patience_s = fd, patience_s
        self._dropped = 0
        self._torn = False                              # the last line was cut off in its middle

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line, or counts it as dropped."""
        try:
            text = self.format(record) + "\n"
            if self._dropped:
                note = logging.LogRecord(__name__, logging.WARNING, __file__, 0, _DROPPED, (self._dropped,), None)
                text = self.format(note) + "\n" + text
            if self._write(("\n" * self._torn + text).encode("utf-8", "backslashreplace")):
                self._dropped, self._torn = 0, False
            else:
                self._dropped += 1
        except OSError:                                 # the reader is gone: there is nobody to tell
            self._dropped += 1
        except Exception:                               # noqa: BLE001 (a line that can't be formatted; logging tells it)
            self.handleError(record)

    def _write(self, data: bytes) -> bool:
        deadline = time.monotonic() + (0.0 if self._dropped else self._patience_s)
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        for at in range(0, len(data), _CHUNK_BYTES):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self._torn = self._torn or at > 0
                return False
            os.write(self._fd, data[at:at + _CHUNK_BYTES])
        return True


def _may_block(stream: IO[str]) -> int | None:
    """The descriptor of a pipe or socket, whose reader may stop reading; None for files and terminals."""
    try:
        fd = stream.fileno()
        mode = os.fstat(fd).st_mode
    except (OSError, ValueError):
        return None
    return fd if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None
