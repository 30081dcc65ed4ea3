"""The load of a chaos run, in a process of its own: submits a mixed load at a bounded rate, waits, reads, cancels.

Everything that it was told goes into the history. Commands come on its standard input (`burst N`, `finish`), a line of
figures goes to its standard output each second. What is open is bounded: it submits no more until something has ended.
"""
from __future__ import annotations

import collections
import itertools
import json
import queue
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.history import ENDS, NOT_FOUND, Cancelled, History, Journal, Read, Submitted, now
from yadtq import YADTQClient
from yadtq.config import Settings
from yadtq.errors import (
    BackendLost,
    BacklogFull,
    KafkaConnectionError,
    RedisConnectionError,
    ResultTimeout,
    TaskCancelled,
    TaskFailed,
    TaskNotFound,
    TaskSubmissionTimeout,
    YADTQError,
)
from yadtq.task import new_task_id

BATCHES_A_S = 4
KEYS = 8
COLLECTORS = 6
LOOK_S = 3.0
SUBMIT_S = 5.0


@dataclass(frozen=True)
class Kind:
    """How a kind of task is submitted: `args(rng)` without the id, and the options of the submission."""

    task: str
    share: float                        # of the load; 0: one now and then
    args: Callable[[random.Random], list[Any]]
    expect: tuple[str, ...] = ("SUCCESS",)
    options: Callable[[random.Random], dict[str, Any]] = lambda _: {}
    cancel: bool = False


KINDS: dict[str, Kind] = {
    "quick": Kind("chaos.run", 0.79, lambda rng: []),
    "slow": Kind("chaos.run", 0.03, lambda rng: [round(rng.uniform(0.02, 0.2), 3)]),
    "async": Kind("chaos.async", 0.06, lambda rng: [round(rng.uniform(0.0, 0.5), 3)]),
    "failing": Kind("chaos.fail", 0.03, lambda rng: [99], ("TASK_FAILED",)),
    "retrying": Kind("chaos.fail", 0.02, lambda rng: [rng.randint(1, 2)],
                     options=lambda rng: {"max_retries": 3, "retry_backoff_s": 0.2}),
    "given_up": Kind("chaos.fail", 0.005, lambda rng: [99], ("TASK_FAILED",),
                     lambda rng: {"max_retries": 1, "retry_backoff_s": 0.1}),
    "delayed": Kind("chaos.run", 0.03, lambda rng: [],
                    options=lambda rng: {"due": round(time.time() + rng.uniform(0.2, 15), 3)}),
    "unscheduled": Kind("chaos.run", 0.01, lambda rng: [], ("SUCCESS", "CANCELLED"),
                        lambda rng: {"due": round(time.time() + rng.uniform(0.2, 10), 3)}, cancel=True),
    "expiring": Kind("chaos.run", 0.01, lambda rng: [], ("SUCCESS", "TASK_EXPIRED"),
                     lambda rng: {"expires_s": round(rng.uniform(1, 8), 1)}),
    "isolated": Kind("chaos.isolated", 0.02, lambda rng: [0.0]),
    "cancelled": Kind("chaos.run", 0.05, lambda rng: [0.01], ("SUCCESS", "CANCELLED"), cancel=True),
    "poison": Kind("chaos.poison", 0, lambda rng: [rng.choice(["exit", "SIGSEGV", "SIGKILL"])], ("TASK_CRASHED",)),
    "stopped": Kind("chaos.run", 0, lambda rng: [8.0], ("SUCCESS", "CANCELLED"), cancel=True),
    "soft_timeout": Kind("chaos.run", 0, lambda rng: [20.0], ("TASK_TIMEOUT",),
                         lambda rng: {"timeout_s": 0.5, "grace_s": 5}),
    "hard_timeout": Kind("chaos.stubborn", 0, lambda rng: [20.0], ("TASK_HARD_TIMEOUT",),
                         lambda rng: {"timeout_s": 0.5, "grace_s": 0.5}),
}
KEYED = Kind("chaos.run", 0, lambda rng: [round(rng.uniform(0.0, 0.02), 3)])


class Load:
    """`rate` tasks a second, while less than `most_open` are open; `rare_s` between two tasks of the rare kinds."""

    def __init__(self, settings: Settings, folder: Path, seed: int, rate: float, rare_s: float,
                 most_open: int) -> None:
        self.client = YADTQClient(settings=settings, connect_timeout_s=60)
        self.reader = YADTQClient(settings=settings, connect_timeout_s=60)
        self.small = YADTQClient(settings=settings.replace(max_in_flight=500), connect_timeout_s=60)
        self.folder, self.rate, self.rare_s, self.most_open = folder, rate, rare_s, most_open
        self.journal = Journal(folder / "load.events")
        self.rng = random.Random(f"{seed}/load")
        self.stopping = threading.Event()       # submit nothing more
        self.over = threading.Event()
        self.figures: collections.Counter[str] = collections.Counter()
        self.open = 0
        self._lock = threading.Lock()
        self._to_collect: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        self._to_cancel: queue.SimpleQueue[tuple[float, str]] = queue.SimpleQueue()
        self._recent: collections.deque[str] = collections.deque(maxlen=2000)
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin, in threads."""
        submitters = [self._submit_batches, self._submit_keyed, self._submit_rare]
        self._submitters = [self._thread(work) for work in submitters]
        for work in [self._collect] * COLLECTORS + [self._cancel, self._look]:
            self._thread(work)

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work, name=work.__name__, daemon=True)
        thread.start()
        return thread

    # ---- submitting -------------------------------------------------------------------------------------------------
    def _submit_batches(self) -> None:
        common = {name: kind for name, kind in KINDS.items() if kind.share}
        size = max(1, round(self.rate / BATCHES_A_S))
        due = time.monotonic()
        while not self.stopping.is_set():
            due = max(due + 1 / BATCHES_A_S, time.monotonic() - 1)      # what was missed is not made up for
            names = self.rng.choices(list(common), [kind.share for kind in common.values()], k=size)
            self._submit([self._entry(name, common[name]) for name in names])
            self._pause(due)

    def _submit_keyed(self) -> None:
        """A few keys, each with one task after the other: the next is submitted when the one before was accepted."""
        for n in itertools.count():
            if self.stopping.is_set():
                return
            self._submit([self._entry("keyed", KEYED, key=f"key{n % KEYS}")])
            self._pause(time.monotonic() + 0.1)

    def _submit_rare(self) -> None:
        rare = [(name, kind) for name, kind in KINDS.items() if not kind.share]
        for name, kind in itertools.cycle(rare):
            if self.stopping.wait(self.rare_s):
                return
            self._submit([self._entry(name, kind)])

    def _pause(self, until: float) -> None:
        while not self.stopping.is_set() and (time.monotonic() < until or self.open > self.most_open):
            time.sleep(0.005)

    def _entry(self, name: str, kind: Kind, **more: Any) -> tuple[str, Kind, dict[str, Any]]:
        id_ = new_task_id()
        return name, kind, {"task": kind.task, "args": [id_, *kind.args(self.rng)], "task_id": id_,
                            **kind.options(self.rng), **more}

    def _submit(self, batch: list[tuple[str, Kind, dict[str, Any]]]) -> None:
        """Submit until all are accepted: what is unknown is submitted again, with its id."""
        waiting = batch
        while waiting:
            called = now()
            accepted, unknown = self._try(self.client, [entry for _, _, entry in waiting])
            self._note(waiting, called, accepted, unknown)
            waiting = [one for one in waiting if one[2]["task_id"] not in accepted]
            if waiting and self.over.wait(0.2):
                return

    def _try(self, client: YADTQClient, entries: list[dict[str, Any]]) -> tuple[set[str], set[str]]:
        """Submit; the ids that were accepted, and those that nobody knows about."""
        ids = {entry["task_id"] for entry in entries}
        try:
            client.submit_tasks(entries, submit_timeout_s=SUBMIT_S)
            return ids, set()
        except TaskSubmissionTimeout as error:
            self.figures["submissions_unknown"] += 1
            unknown = set(error.task_ids)
            return ids - unknown - set(error.not_sent), unknown
        except (BacklogFull, KafkaConnectionError, RedisConnectionError) as error:
            self.figures[f"submissions_{error.code}"] += 1
            return set(), set()

    def _note(self, batch: list[tuple[str, Kind, dict[str, Any]]], called: float, accepted: set[str],
              unknown: set[str], refused: bool = False) -> None:
        at, taken = now(), []
        for name, kind, entry in batch:
            id_ = entry["task_id"]
            if id_ not in accepted and id_ not in unknown and not refused:
                continue                            # it was not sent, and comes again
            outcome = "accepted" if id_ in accepted else "unknown" if id_ in unknown else "refused"
            self.journal.write(Submitted(
                id=id_, kind=name, called=called, at=at, outcome=outcome, key=entry.get("key", ""),
                max_retries=entry.get("max_retries") or 0, expect=kind.expect,
                due_ms=round(entry.get("due", 0) * 1000),
                expires_ms=int((time.time() + entry["expires_s"]) * 1000) if "expires_s" in entry else 0))
            if outcome == "accepted":
                taken.append(id_)
                if kind.cancel:
                    self._to_cancel.put((time.monotonic() + self.rng.choice([0.0, 0.0, 0.02, 0.3]), id_))
        with self._lock:
            self.open += len(taken)
        self.figures["accepted"] += len(taken)
        self._recent.extend(taken)
        if taken:
            self._to_collect.put(taken)

    def burst(self, count: int) -> None:
        """Submit much more at once than a client takes; what it refuses must never run."""
        def one(size: int) -> None:
            batch = [self._entry("burst", KINDS["quick"]) for _ in range(size)]
            called = now()
            accepted, unknown = self._try(self.small, [entry for _, _, entry in batch])
            self._note(batch, called, accepted, unknown, refused=True)
            if not accepted and not unknown:
                self.figures["refused"] += size

        threads = [threading.Thread(target=one, args=(count // 4,), daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    # ---- results ----------------------------------------------------------------------------------------------------
    def _collect(self) -> None:
        while not self.over.is_set():
            try:
                ids = self._to_collect.get(timeout=0.5)
            except queue.Empty:
                continue
            called = now()
            try:
                found = self.client.get_results(ids, timeout=LOOK_S, return_exceptions=True)
            except YADTQError as error:
                self.figures[f"reads_{error.code}"] += 1
                self._to_collect.put(ids)
                time.sleep(0.1)
                continue
            at = now()
            rest = [id_ for id_, value in zip(ids, found, strict=True) if not self._read(id_, called, at, value)]
            with self._lock:
                self.open -= len(ids) - len(rest)
            if rest:
                self._to_collect.put(rest)

    def _read(self, id_: str, called: float, at: float, value: Any) -> bool:
        """Write down what was read; whether it is an end."""
        read = as_read(id_, called, at, value)
        if read is None:
            return False
        self.journal.write(read)
        ended = read.status in ENDS
        if not ended:
            self.figures[f"reads_{read.status}"] += 1
        return ended

    def _cancel(self) -> None:
        while not self.over.is_set():
            try:
                due, id_ = self._to_cancel.get(timeout=0.5)
            except queue.Empty:
                continue
            time.sleep(max(0.0, due - time.monotonic()))
            called = now()
            try:
                answer = self.reader.cancel_task(id_)
            except YADTQError as error:
                self.figures[f"cancels_{error.code}"] += 1
                continue
            self.journal.write(Cancelled(id=id_, called=called, at=now(), answer=str(answer)))
            self.figures[f"cancels_{answer}"] += 1

    def _look(self) -> None:
        """Look at tasks as an application does, at any time: no read may go back."""
        rng = random.Random(1)
        while not self.over.wait(0.05):
            if not self._recent:
                continue
            id_ = rng.choice(self._recent)
            called = now()
            try:
                status = str(self.reader.get_task_status(id_))
            except TaskNotFound:
                status = NOT_FOUND
            except YADTQError as error:
                self.figures[f"looks_{error.code}"] += 1
                continue
            self.journal.write(Read(id=id_, called=called, at=now(), status=status))

    # ---- the end ----------------------------------------------------------------------------------------------------
    def finish(self, limit_s: float) -> None:
        """Submit nothing more, wait until everything has ended or `limit_s` is over, read everything once more."""
        self.stopping.set()
        deadline = time.monotonic() + limit_s
        for thread in self._submitters:
            thread.join(max(0.0, deadline - time.monotonic()))
        while self.open and time.monotonic() < deadline:
            time.sleep(0.1)
        self.over.set()
        tasks = History.read(self.folder).tasks
        ids = [id_ for id_, task in tasks.items() if any(s.outcome != "refused" for s in task.submits)]
        for start in range(0, len(ids), 500):
            chunk = ids[start:start + 500]
            called = now()
            found = self.reader.get_results(chunk, timeout=2, return_exceptions=True)
            at = now()
            for id_, value in zip(chunk, found, strict=True):
                read = as_read(id_, called, at, value)
                if read is not None:
                    self.journal.write(read)

    def tell(self) -> None:
        """One line of figures."""
        print(json.dumps({"open": self.open, **self.figures}), flush=True)


def as_read(id_: str, called: float, at: float, value: Any) -> Read | None:
    """What `get_results` gave for a task, as an event; None when it only says that it took too long."""
    if isinstance(value, ResultTimeout):
        return None
    if isinstance(value, TaskCancelled):
        return Read(id=id_, called=called, at=at, status="CANCELLED", value=value.code)
    if isinstance(value, TaskFailed):
        return Read(id=id_, called=called, at=at, status="FAILED", value=value.code)
    if isinstance(value, TaskNotFound):
        return Read(id=id_, called=called, at=at, status=NOT_FOUND)
    if isinstance(value, BackendLost):
        return Read(id=id_, called=called, at=at, status="BACKEND_LOST")
    if isinstance(value, BaseException):
        return Read(id=id_, called=called, at=at, status=f"ERROR {value!r:.200}")
    return Read(id=id_, called=called, at=at, status="SUCCESS", value=str(value))


def main() -> None:
    """`python -m tests.fault.chaos.load CONFIG.json`, until its standard input ends."""
    config = json.loads(Path(sys.argv[1]).read_text())
    load = Load(Settings(**config["settings"]), Path(config["folder"]), config["seed"], config["rate"],
                config["rare_s"], config["most_open"])
    load.start()

    def tell() -> None:
        while True:
            load.tell()
            time.sleep(1)

    threading.Thread(target=tell, daemon=True).start()
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "burst":
            threading.Thread(target=load.burst, args=(int(argument),), daemon=True).start()
        elif command == "finish":
            load.finish(float(argument))
            load.tell()
            print(json.dumps({"finished": True}), flush=True)


if __name__ == "__main__":
    main()
