"""What happened to the tasks of a test, event by event: written by whoever saw it, read by tests.support.guarantees.

Events come from the handlers themselves, the clients and whoever breaks things, to files of their own in one folder.
A line is one write with O_APPEND: it is whole or absent, and it survives the SIGKILL of whoever wrote it. Times are
seconds of CLOCK_BOOTTIME, which all processes of a machine share; what is compared with a due time is Unix time in ms.
"""
from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

ENDS = frozenset({"SUCCESS", "FAILED", "CANCELLED"})
NOT_FOUND = "NOT_FOUND"         # the status of a read that found nothing


def now() -> float:
    """Seconds of CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Event(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    at: float = 0.0                     # when it was over, as far as its writer knows


class Submitted(_Event, tag="submit", tag_field="e"):
    """A client has submitted it, or tried to."""

    id: str
    kind: str                           # what sort of task it is, for people and for Rules
    called: float
    outcome: str = "accepted"           # accepted, refused (it can't run), unknown
    key: str = ""
    group: str = ""
    due_ms: int = 0                     # 0: at once
    expires_ms: int = 0                 # 0: never
    max_retries: int = 0
    expect: tuple[str, ...] = ()        # how it may end: "SUCCESS", or the code of its error; empty: anyhow


class Started(_Event, tag="start", tag_field="e"):
    """A handler has begun. `run` is unlike every other run's."""

    id: str
    run: str
    attempt: int = -1                   # -1: the handler was not told
    pid: int = 0
    worker: str = ""
    wall_ms: int = 0


class Ended(_Event, tag="end", tag_field="e"):
    """A handler has come to its end by itself."""

    id: str
    run: str
    how: str = "returned"               # returned, raised


class Read(_Event, tag="read", tag_field="e"):
    """A client has been told how a task stands."""

    id: str
    called: float
    status: str                         # a TaskStatus, or NOT_FOUND
    value: str | None = None            # the run in a result, the code of an error; None: was not asked for


class Cancelled(_Event, tag="cancel", tag_field="e"):
    """A client has asked to cancel it, and was answered."""

    id: str
    called: float
    answer: str                         # CONFIRMED, ASKED, ENDED


class Letter(_Event, tag="letter", tag_field="e"):
    """It is in the dead-letter topic."""

    id: str
    code: str


class Fault(_Event, tag="fault", tag_field="e"):
    """Somebody broke something, from `begun` to `at`."""

    kind: str
    target: str
    begun: float
    recovered_s: float = -1.0           # how long until all was well, where that was looked at
    note: str = ""


Event = Submitted | Started | Ended | Read | Cancelled | Letter | Fault
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


class Journal:
    """Appends events to one file; any thread and any forked child may use it."""

    def __init__(self, path: Path | str) -> None:
        self._path = str(path)
        self._fd = -1
        self._pid = 0
        self._lock = threading.Lock()

    def write(self, *events: Event) -> None:
        """Append events: one write for each, in order."""
        if self._pid != os.getpid():
            with self._lock:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
                self._pid = os.getpid()
        for event in events:
            os.write(self._fd, _encoder.encode(event) + b"\n")


@dataclass(slots=True)
class Task:
    """Everything that is known of one task, each list in the order of the times."""

    id: str
    submits: list[Submitted] = field(default_factory=list)
    starts: list[Started] = field(default_factory=list)
    ends: list[Ended] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    cancels: list[Cancelled] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        """Was a client told that it will be done?"""
        return any(s.outcome == "accepted" for s in self.submits)

    @property
    def kind(self) -> str:
        """What sort of task it is."""
        return self.submits[0].kind if self.submits else "?"

    def events(self) -> list[Event]:
        """All of it, by time."""
        found: list[Event] = [*self.submits, *self.starts, *self.ends, *self.reads, *self.cancels, *self.letters]
        return sorted(found, key=lambda event: event.at)


_LISTS = {Submitted: "submits", Started: "starts", Ended: "ends", Read: "reads", Cancelled: "cancels",
          Letter: "letters"}


@dataclass(slots=True)
class History:
    """All tasks and all faults."""

    tasks: dict[str, Task] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @classmethod
    def of(cls, events: Iterable[Event]) -> History:
        """The history of some events, whatever their order."""
        history = cls()
        for event in events:
            if isinstance(event, Fault):
                history.faults.append(event)
                continue
            task = history.tasks.get(event.id)
            if task is None:
                task = history.tasks[event.id] = Task(event.id)
            getattr(task, _LISTS[type(event)]).append(event)
        for task in history.tasks.values():
            for name in _LISTS.values():
                getattr(task, name).sort(key=lambda event: event.at)
        history.faults.sort(key=lambda fault: fault.begun)
        return history

    @classmethod
    def read(cls, folder: Path) -> History:
        """The history in the files of a folder."""
        return cls.of(event for path in sorted(folder.glob("*.events")) for event in _events(path))


def _events(path: Path) -> Iterable[Event]:
    with path.open("rb") as lines:
        for line in lines:
            yield _decoder.decode(line)
