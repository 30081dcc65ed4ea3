"""The load of a run from outside: its process, what is in the dead letters at the end, and violations told in full."""
from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.support.guarantees import Violation
from tests.support.history import History, Journal, Letter, now
from tests.support.services import ROOT, reap_with_us
from yadtq.config import Settings
from yadtq.dead_letter import decode_dead_letter
from yadtq.transport import open_consumer


class LoadProcess:
    """The load, in its own process; its log goes to `folder`, its events to `history`."""

    def __init__(self, settings: Mapping[str, Any], folder: Path, history: Path, seed: int, rate: float, rare_s: float,
                 most_open: int) -> None:
        config = {"settings": settings, "seed": seed, "folder": str(history), "rate": rate, "rare_s": rare_s,
                  "most_open": most_open}
        path = folder / "load.json"
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        with (folder / "load.log").open("ab") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "tests.fault.chaos.load", str(path)], cwd=ROOT,
                                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                                             start_new_session=True)
        reap_with_us(self._process.pid)
        self.figures: dict[str, int] = {}
        self.finished = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if said.get("finished"):
                self.finished.set()
            else:
                self.figures = said

    def say(self, command: str) -> None:
        """Tell it something."""
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()

    def finish(self, limit_s: float) -> bool:
        """Have it submit nothing more and wait for the end of everything; False when it did not come back."""
        self.say(f"finish {limit_s:g}")
        deadline = time.monotonic() + limit_s + 300
        while not self.finished.wait(1):
            if self._process.poll() is not None or time.monotonic() > deadline:
                return False
        return True

    def end(self) -> None:
        """Be gone."""
        self._process.kill()
        self._process.wait(10)
        self._listener.join(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def told(history: History, found: Iterable[Violation]) -> Iterable[str]:
    """Everything about the tasks of these violations, and the faults around them."""
    for violation in found:
        yield f"{violation}"
        events = [event for id_ in violation.ids for event in history.tasks[id_].events()]
        begin, end = min(event.at for event in events) - 15, max(event.at for event in events)
        events += [fault for fault in history.faults if fault.at >= begin and fault.begun <= end]
        for event in sorted(events, key=lambda event: event.at):
            yield f"    {event.at:.4f}  {event}"


def read_letters(settings: Settings, journal: Journal) -> None:
    """Note what is in the dead-letter topic now."""
    consumer = open_consumer(settings)
    consumer.assign(settings.kafka_dead_letter_topic, {0: 0})
    deadline, quiet = time.monotonic() + 30, 0
    while quiet < 4 and time.monotonic() < deadline:
        records = consumer.poll(1000, 0.5)
        quiet = 0 if records else quiet + 1
        for record in records:
            letter = decode_dead_letter(record.value)
            journal.write(Letter(id=letter.id, code=letter.code, at=now()))
    consumer.close()
