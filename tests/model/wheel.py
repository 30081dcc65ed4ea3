"""The timing wheel as a model: a delayed task starts no earlier than it is due, is published, and runs once.

Two levels and the log for what is due sooner than the narrowest is wide, each a log with its committed offset. Two
schedulers, of which one may be a zombie. Where a record goes is decided by yadtqd.wheel.where_to itself;
the worker's side is the core protocol in one step. A tick is half the narrowest width, time goes from one at which
something is decided otherwise to the next, and what may happen may also happen later: schedulers are slow at times.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.model.book import NONE, Book, Copy
from tests.model.checker import Step
from tests.model.delivery import FROZEN, IDLE, UP, put
from tests.model.operations import Token
from yadtq.delayed import SHORT, WIDTHS_MS, level_of
from yadtqd.wheel import where_to

TICK_MS = WIDTHS_MS[0] // 2
LOGS = (0, 1, SHORT)                # the levels that are modelled, as numbered in yadtq.delayed
TASK, WORKER = Copy(0), Token(0, 1)


class Rules(NamedTuple):
    """Those of the wheel; all on is the protocol."""

    lease: bool = True              # 10: a look at the lease before each publish
    claim: bool = True              # the worker claims (off: every copy runs)
    produce_first: bool = True      # 10: produce, then commit
    due_decides: bool = True        # 10: only `due` decides when it is published (off: how long it lay)


class Scenario(NamedTuple):
    """What may happen."""

    name: str
    rules: Rules = Rules()
    due: int = 19                   # ticks after the beginning: 9.5 s go by way of all levels
    crash: int = 1
    freeze: int = 1
    unknown: int = 1                # acknowledgements that are lost
    expire: int = 1                 # the record is dropped when nothing can come again


LOOKS, SENT, COMMITTED = "looks", "sent", "committed"     # what a scheduler has done with a level's head


class Scheduler(NamedTuple):
    """A process; per log its position and what it did there."""

    mode: str = IDLE
    heads: tuple[tuple[int, str], ...] = ()


class State(NamedTuple):
    """Between two steps. Times are ticks."""

    left: tuple[int, ...]                               # crashes, freezes, lost acknowledgements, expiries
    now: int = 0
    logs: tuple[tuple[int, ...], ...] = ((), (), ())    # when each record entered
    committed: tuple[int, ...] = (0, 0, 0)
    fired: int = 0                                      # copies in the task log
    read: int = 0                                       # of which the worker has dealt with
    record: int = NONE
    runs: int = 0
    schedulers: tuple[Scheduler, ...] = (Scheduler(), Scheduler())
    owner: int = -1
    submitted: bool = False
    broken: str = ""


CRASH, FREEZE, UNKNOWN, EXPIRE = range(4)


class Wheel:
    """The model of one scenario, for the checker."""

    def __init__(self, scenario: Scenario) -> None:
        self._sc, self._rules, self._book = scenario, scenario.rules, Book()

    def start(self) -> State:
        sc = self._sc
        return State((sc.crash, sc.freeze, sc.unknown, sc.expire))

    def steps(self, state: State) -> Iterator[Step[State]]:
        if state.broken:
            return
        if state.now < self._sc.due:
            now = self._next_time(state)
            yield f"time: it is {now}", True, state._replace(now=now)
        if not state.submitted:
            yield self._submit(state)
        for number, scheduler in enumerate(state.schedulers):
            yield from self._process(state, number, scheduler)
        if state.read < state.fired:
            yield self._work(state)
        ended = self._book.records[state.record]
        if state.left[EXPIRE] and ended is not None and ended.ended and self._nothing_comes(state):
            yield "redis: the record is dropped", False, _spend(state._replace(record=NONE), EXPIRE)

    def violation(self, state: State) -> str | None:
        return state.broken or None

    def owed(self, state: State) -> str | None:
        return "LOST: the task never runs" if state.submitted and not state.runs and not state.broken else None

    def _next_time(self, state: State) -> int:
        """The next at which anything is decided otherwise than now."""
        widths = [WIDTHS_MS[level] // TICK_MS for level in LOGS if level != SHORT]
        times: set[int] = {self._sc.due, *(self._sc.due - width + more for width in widths for more in (0, 1))}
        times |= {entered + width for log, width in zip(state.logs, widths, strict=False) for entered in log}
        return min(time for time in times if time > state.now)

    # ---- client and worker ------------------------------------------------------------------------------------------
    def _submit(self, state: State) -> Step[State]:
        to = LOGS.index(_level(self._sc.due - state.now))
        queued = self._book.submit(NONE, 0, 0).record
        return (f"client: submits it for {self._sc.due}, to level {to}", False,
                _append(state, to)._replace(submitted=True, record=queued))

    def _work(self, state: State) -> Step[State]:
        """The worker deals with the next copy, from its claim to its end."""
        after = state._replace(read=state.read + 1)
        claimed = self._book.claim(state.record, 0, 0, WORKER, TASK, state.read)
        if claimed.word != "RUN" and self._rules.claim:
            return f"worker: claims a copy -> {claimed.word}", True, after
        if state.now < self._sc.due:
            after = after._replace(broken=f"EARLY: it starts at {state.now} and is due at {self._sc.due}")
        elif state.runs:
            after = after._replace(broken="ATTEMPTS: it runs twice")
        ended = self._book.finish(claimed.record, 0, 0, WORKER, TASK, state.read, "OK")
        return "worker: claims a copy, runs it", True, after._replace(record=ended.record, runs=state.runs + 1)

    def _nothing_comes(self, state: State) -> bool:
        return state.read == state.fired and all(at == len(log) for at, log in
                                                 zip(state.committed, state.logs, strict=True))

    # ---- schedulers -------------------------------------------------------------------------------------------------
    def _process(self, state: State, number: int, scheduler: Scheduler) -> Iterator[Step[State]]:
        name = f"scheduler{number}"
        if scheduler.mode == IDLE:
            free = state.owner == -1 or state.schedulers[state.owner].mode == FROZEN
            if free and (number == 0 or state.schedulers[0].mode != IDLE):
                heads = tuple((at, LOOKS) for at in state.committed)
                yield (f"{name}: gets the levels, reads from {state.committed}", True,
                       _with(state._replace(owner=number), number, Scheduler(UP, heads)))
            return
        if scheduler.mode == FROZEN:
            alone = state.schedulers[1 - number].mode == FROZEN
            yield f"{name}: thaws", alone, _with(state, number, scheduler._replace(mode=UP))
            return
        gone = _with(state._replace(owner=-1 if state.owner == number else state.owner), number, Scheduler())
        if state.left[CRASH]:
            yield f"FAULT: {name} dies", False, _spend(gone, CRASH)
        if state.left[FREEZE]:
            frozen = _with(state, number, scheduler._replace(mode=FROZEN))
            yield f"FAULT: {name} freezes", False, _spend(frozen, FREEZE)
        if state.owner != number:
            yield f"{name}: learns that it lost the levels", True, gone
        for log in range(len(LOGS)):
            yield from self._head(state, number, scheduler, log)

    def _head(self, state: State, number: int, scheduler: Scheduler, log: int) -> Iterator[Step[State]]:
        """The next step with the head of a level, if it is time for one."""
        at, stage = scheduler.heads[log]
        if at >= len(state.logs[log]):
            return
        name, owns = f"scheduler{number}: level {log} @{at}", state.owner == number
        if stage == SENT:
            committed = state.committed if not owns else put(state.committed, log, at + 1)
            yield f"{name}: commits past it", True, _head(state._replace(committed=committed), number, log, at + 1)
            return
        moved = self._moved(state, log, at)
        if moved is None or not (owns or not self._rules.lease):
            return
        what, after = moved
        if not self._rules.produce_first and stage == LOOKS:
            committed = put(state.committed, log, at + 1) if owns else state.committed
            yield (f"{name}: commits past it", True,
                   _head(state._replace(committed=committed), number, log, at, COMMITTED))
            return
        following = (at, SENT) if stage == LOOKS else (at + 1, LOOKS)
        yield f"{name}: {what}", True, _head(after, number, log, *following)
        if state.left[UNKNOWN] and stage == LOOKS:
            yield f"{name}: {what}, no acknowledgement", False, _spend(after, UNKNOWN)

    def _moved(self, state: State, log: int, at: int) -> tuple[str, State] | None:
        """Where the head of a level goes now; None: nowhere yet."""
        due_ms, now_ms = self._sc.due * TICK_MS, state.now * TICK_MS
        to = where_to(LOGS[log], due_ms, state.logs[log][at] * TICK_MS, now_ms)
        if to is None:
            return None
        if to == SHORT:                                 # it waits in the heap until it is due
            if due_ms > now_ms and self._rules.due_decides:
                return None
            return "is published to the task log", state._replace(fired=state.fired + 1)
        return f"hops to level {LOGS.index(to)}", _append(state, LOGS.index(to))


def _level(left: int) -> int:
    return level_of(left * TICK_MS)


def _with(state: State, number: int, scheduler: Scheduler) -> State:
    return state._replace(schedulers=put(state.schedulers, number, scheduler))


def _head(state: State, number: int, log: int, at: int, stage: str = LOOKS) -> State:
    scheduler = state.schedulers[number]
    return _with(state, number, scheduler._replace(heads=put(scheduler.heads, log, (at, stage))))


def _append(state: State, log: int) -> State:
    return state._replace(logs=put(state.logs, log, (*state.logs[log], state.now)))


def _spend(state: State, what: int) -> State:
    return state._replace(left=put(state.left, what, state.left[what] - 1))


HOLDS = [
    Scenario("wheel, by way of all levels", freeze=0, crash=0, expire=0),
    Scenario("wheel, a zombie", due=3, crash=0),
    Scenario("wheel, due very soon", due=1),
]
FULL = [
    Scenario("wheel, by way of all levels, a crash", freeze=0),
    Scenario("wheel, by way of all levels, a zombie", crash=0, unknown=0),
    Scenario("wheel, due soon", due=4),
]
BREAKS = [
    Scenario("a scheduler does not look at its lease", Rules(lease=False), due=3),
    Scenario("a delayed task is not claimed", Rules(claim=False), due=3),
    Scenario("commit, then produce", Rules(produce_first=False), due=3),
    Scenario("a record is published when it has lain long enough", Rules(due_decides=False), due=19),
]
