"""One chaos run from its begin to its verdict: stage, load, nemesis, heal, wait, check.

Keeps everything (logs, the history, the report) in its folder when something did not hold; the folder is removed else.
"""
from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fault.chaos import figures
from tests.fault.chaos.load_process import LoadProcess, read_letters, told
from tests.fault.chaos.nemesis import Nemesis
from tests.fault.chaos.plan import FREEZES, KINDS, Step, plan
from tests.fault.chaos.stage import NAMES, Stage
from tests.support.guarantees import Rules, unexcused, violations
from tests.support.history import History, Journal

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
        load = LoadProcess(_settings(stage), folder, stage.history, order.seed, order.rate, order.rare_s,
                           order.most_open)
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
            read_letters(stage.settings("load"), Journal(stage.history / "letters.events"))
        finally:
            abort.set()
            load.end()
        failures += nemesis.failures
    return _verdict(order, folder, took_s, failures, memory.samples, load.figures, say)


def _settings(stage: Stage) -> dict[str, Any]:
    settings = stage.settings("load")
    return {name: getattr(settings, name) for name in CONNECTION} | NAMES


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
    for line in told(history, [*broken[:SHOWN], *[v for v in found if v.excused][:3]]):
        say(line)
    return report


def _short(load: dict[str, int]) -> str:
    return f"{load.get('accepted', 0)} accepted, {load.get('open', 0)} open"


def free_seed() -> int:
    """A seed that nobody chose."""
    return int.from_bytes(os.urandom(3), "big")
