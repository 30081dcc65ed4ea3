"""How a log line looks: plain, in colour, for the journal, or as JSON. Used by `yadtq.log` in any thread; pure.

    plain    2026-07-01T12:00:00.123+0200 INFO     w3[4711] yadtqd.processor: [task=0198... partition=2] finished
    color    12:00:00.123 INFO     w3 yadtqd.processor: ...       (the level in its colour)
    journal  <6>w3 yadtqd.processor: ...                          (the journal knows time and pid)
    json     {"time": "...", "level": "INFO", "process": "w3", "pid": 4711, "logger": "...", "message": "...", ...}

No text of a user can forge a line: control characters are escaped, and further lines of a message are indented.
"""
from __future__ import annotations

import json
import logging
import time
from typing import Any, NamedTuple

COLORS = {"DEBUG": "cyan", "INFO": "green", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "red,bg_white"}
PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}

_ESCAPES = {n: f"\\x{n:02x}" for n in (*range(32), 127, *range(128, 160)) if chr(n) not in "\n\t"}
_ESCAPES_ALL = _ESCAPES | {ord("\n"): "\\n", ord("\t"): "\\t"}        # for what stands within a line


class Context(NamedTuple):
    """What a line is about; empty where it is about no task, worker or partition in particular."""

    task_id: str = ""
    worker: str = ""
    partition: int = -1


class PlainFormatter(logging.Formatter):
    """Time, level, process with pid, logger, context, message."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, with its traceback below it."""
        return f"{self.head(record)} {record.name}: {about(record)}{self.body(record)}"

    def head(self, record: logging.LogRecord) -> str:
        """What stands before the logger's name."""
        return f"{iso_time(record)} {record.levelname:<8} {self.process}[{record.process}]"

    def body(self, record: logging.LogRecord) -> str:
        """The message and its traceback, harmless to whoever reads line by line."""
        return self.text(record).replace("\n", "\n    ")

    def text(self, record: logging.LogRecord) -> str:
        """The message and its traceback, harmless to terminals."""
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if record.stack_info:
            text += "\n" + self.formatStack(record.stack_info)
        return harmless(text)


class JournalFormatter(PlainFormatter):
    """Each line with its priority as `<N>`, as systemd reads it from standard error."""

    def format(self, record: logging.LogRecord) -> str:
        """The lines, the same priority before each."""
        priority = f"<{PRIORITIES.get(record.levelno, 6)}>"
        return priority + super().format(record).replace("\n", "\n" + priority)

    def head(self, record: logging.LogRecord) -> str:
        """The process alone: the journal adds time, level and pid."""
        return self.process


class JsonFormatter(PlainFormatter):
    """One JSON object a line; `code` is there when an error of YADTQ was logged with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The object, in one line."""
        fields: dict[str, Any] = {"time": iso_time(record), "level": record.levelname, "process": self.process,
                                  "pid": record.process, "logger": record.name, "message": record.getMessage()}
        for name in ("task_id", "worker"):
            if value := getattr(record, name, ""):
                fields[name] = value
        if getattr(record, "partition", -1) >= 0:
            fields["partition"] = record.partition      # type: ignore[attr-defined]  # set by the filter
        if record.exc_info and record.exc_info[1] is not None:
            fields["error_type"] = type(record.exc_info[1]).__name__
            fields["traceback"] = self.formatException(record.exc_info)
            if code := getattr(record.exc_info[1], "code", None):
                fields["code"] = str(code)
        return json.dumps(fields, default=str)


class ColorFormatter(PlainFormatter):
    """The level in its colour, the rest as the terminal has it."""

    def __init__(self, process: str) -> None:
        from colorlog import ColoredFormatter
        super().__init__(process)
        self._level = ColoredFormatter("%(log_color)s%(levelname)-8s", log_colors=COLORS, force_color=True)

    def head(self, record: logging.LogRecord) -> str:
        """The time of day, the level in colour, the process."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        return f"{clock}.{int(record.msecs):03d} {self._level.formatMessage(record)} {self.process}"


_STYLES: dict[str, type[PlainFormatter]] = {"plain": PlainFormatter, "color": ColorFormatter,
                                            "journal": JournalFormatter, "json": JsonFormatter}


def formatter(style: str, process: str) -> logging.Formatter:
    """The formatter of a style: "plain", "color", "journal" or "json"."""
    return _STYLES[style](process)


def harmless(text: str) -> str:
    """A text whose control characters are escaped, but for line ends and tabs."""
    return text.translate(_ESCAPES)


def about(record: logging.LogRecord) -> str:
    """The context of a line, such as "[task=... worker=host/w3 partition=2] "; empty when there is none."""
    parts = [f"{name}={value}" for name, value in (("task", getattr(record, "task_id", "")),
                                                   ("worker", getattr(record, "worker", ""))) if value]
    if (partition := getattr(record, "partition", -1)) >= 0:
        parts.append(f"partition={partition}")
    return f"[{' '.join(parts)}] ".translate(_ESCAPES_ALL) if parts else ""


def iso_time(record: logging.LogRecord) -> str:
    """Local time to the millisecond with its offset, which sorts and can be compared between hosts."""
    local = time.localtime(record.created)
    return time.strftime("%Y-%m-%dT%H:%M:%S", local) + f".{int(record.msecs):03d}" + time.strftime("%z", local)
