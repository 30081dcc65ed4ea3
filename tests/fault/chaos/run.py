"""One chaos run from its begin to its verdict: stage, load, nemesis, heal, wait, check.

Keeps everything (logs, the history, the report) in its folder when something did not hold; the folder is removed else.
"""
from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fault.chaos import figures
from tests.fault.chaos.nemesis import Nemesis
from tests.fault.chaos.plan import FREEZES, KINDS, Step, plan
from tests.fault.chaos.stage import Stage
from tests.support.guarantees import Rules, Violation, unexcused, violations
from tests.support.history import History, Journal, Letter, now
from tests.support.services import ROOT, reap_with_us
from yadtq.config import Settings
from yadtq.dead_letter import decode_dead_letter
from yadtq.transport import open_consumer

ALL_DONE_S = 300.0              # from the healing to the end of the last task, at most
SHOWN = 20                      # violations with all their events
HARMLESS = frozenset({"janitor_kill", "burst"})     # nothing runs again because of these
RULES = Rules(redis_losses=frozenset({"redis_kill", "redis_stop"}), harmless=HARMLESS, freezes=FREEZES)
CONNECTION = ("kafka_servers", "redis_host", "redis_port", "transport", "host_name", "control_socket", "pid_file")


@dataclass(frozen=True)
class Order:
    """What is to be run."""

    seed: int
    minutes: float
    transport: str = "librdkafka"
    rate: float = 200.0
    rare_s: float = 6.0
    most_open: int = 4000               # tasks; more would take too long to end on a slow machine
    kinds: tuple[str, ...] = tuple(KINDS)
    folder: Path | None = None
    keep: bool = False


class LoadProcess:
    """The load, in its own process."""

    def __init__(self, stage: Stage, order: Order) -> None:
        from tests.fault.chaos.stage import NAMES

        settings = stage.settings("load")
        config = {"settings": {name: getattr(settings, name) for name in CONNECTION} | NAMES, "seed": order.seed,
                  "folder": str(stage.history), "rate": order.rate, "rare_s": order.rare_s,
                  "most_open": order.most_open}
        path = stage.folder / "load.json"
        path.write_text(json.dumps(config))
        with (stage.folder / "load.log").open("ab") as log:
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
            told = json.loads(line)
            if told.get("finished"):
                self.finished.set()
            else:
                self.figures = told

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


def run(order: Order, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run it; the report. `report["failures"]` is empty when all holds."""
    steps = plan(order.seed, order.minutes * 60, order.kinds)
    say(f"seed {order.seed}, {order.minutes:g} minutes, {order.transport}; the plan:")
    for step in steps:
        say(f"  {step}")
    folder = order.folder or Path(tempfile.mkdtemp(prefix="yadtq-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    report = _play(order, steps, folder, say)
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    if report["failures"] or order.keep:
        say(f"logs, history and report are in {folder}")
    else:
        shutil.rmtree(folder)
    return report


def _play(order: Order, steps: list[Step], folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    failures: list[str] = []
    with Stage(folder, order.transport) as stage:
        load = LoadProcess(stage, order)
        memory = figures.Memory(lambda: [("load", load.pid), *stage.processes()])
        memory.start()
        abort = threading.Event()
        begun = time.monotonic()
        nemesis = Nemesis(stage, steps, lambda count: load.say(f"burst {count}"),
                          lambda text: say(f"{text}   [{_short(load.figures)}]"))
        try:
            nemesis.run(abort)
            abort.wait(max(0.0, begun + order.minutes * 60 - time.monotonic()))
            took_s = time.monotonic() - begun
            nemesis.heal()
            say(f"healed; {load.figures.get('open')} tasks are open")
            if not load.finish(ALL_DONE_S):
                failures.append("the load did not come to its end")
            say(f"load: {load.figures}")
            memory.stop()
            _read_letters(stage.settings("load"), Journal(stage.history / "letters.events"))
        finally:
            abort.set()
            load.end()
        failures += nemesis.failures
    return _verdict(order, folder, took_s, failures, memory.samples, load.figures, say)


def _verdict(order: Order, folder: Path, took_s: float, failures: list[str],
             samples: list[tuple[float, str, int, int]], load: dict[str, int],
             say: Callable[[str], None]) -> dict[str, Any]:
    history = History.read(folder / "history")
    found = violations(history, RULES)
    tasks = figures.tasks(history, found)
    broken = unexcused(found)
    failures += [str(violation) for violation in broken[:SHOWN]]
    report = {"seed": order.seed, "transport": order.transport, "minutes": took_s / 60,
              "rate": tasks["accepted"] / took_s, "tasks": tasks, "faults": figures.faults(history),
              "memory": figures.memory(samples), "load": load, "failures": failures}
    for line in figures.lines(report):
        say(line)
    for line in _told(history, [*broken[:SHOWN], *[v for v in found if v.excused][:3]]):
        say(line)
    return report


def _told(history: History, found: Iterable[Violation]) -> Iterable[str]:
    """Everything about the tasks of these violations, and the faults around them."""
    for violation in found:
        yield f"{violation}"
        events = [event for id_ in violation.ids for event in history.tasks[id_].events()]
        begin, end = min(event.at for event in events) - 15, max(event.at for event in events)
        events += [fault for fault in history.faults if fault.at >= begin and fault.begun <= end]
        for event in sorted(events, key=lambda event: event.at):
            yield f"    {event.at:.4f}  {event}"


def _read_letters(settings: Settings, journal: Journal) -> None:
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


def _short(load: dict[str, int]) -> str:
    return f"{load.get('accepted', 0)} accepted, {load.get('open', 0)} open"


def free_seed() -> int:
    """A seed that nobody chose."""
    return int.from_bytes(os.urandom(3), "big")
