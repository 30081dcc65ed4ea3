"""Suspects as a model: a task that kills its process is found and given up, its innocent neighbour never is.

One partition with two tasks. POISON kills whatever process runs it, or with `killer="host"` the whole host; GOOD ends
well if it is left alone. From outside, the worker is killed (a child of its dies with it) or the supervisor (all die,
and what it saw is forgotten).

Who is suspect is decided as in yadtqd.suspicion: by the claim of an older epoch, narrowed down by what the supervisor
saw in the dead worker's slot. A suspect runs in a child process; how its runs are counted is operations.lone, and when
it is given up is yadtqd.isolated_call. Tasks are begun in the order of the log by one thread; lone runs may lie side by
side, each in a child of its own, but no body runs in the worker meanwhile.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.model.book import NONE, Book, Copy
from tests.model.checker import Step
from tests.model.delivery import put
from tests.model.operations import Token

POISON, GOOD = 0, 1
NAMES = ("poison", "good")
COPIES = (Copy(POISON), Copy(GOOD))
ME, BEFORE = 2, 1                   # epochs: the running worker's, and one for all before it
TOKEN = Token(0, ME)


class Rules(NamedTuple):
    """Those about suspects; all on is the protocol."""

    from_claims: bool = True        # 9: the claim of an older epoch makes a suspect (off: only what the supervisor saw)
    alone_counts: bool = True       # 9: only a death while it ran alone counts (off: whenever its worker died)
    counted_before: bool = True     # 9: `lone` + 1 is written before a lone run, taken back when its end was seen
    in_turn: bool = True            # 9: no body runs in a worker beside a lone run, and all are begun in turn
    alone: bool = True              # 9: once nobody saw the end of a lone run, the next has nothing at all beside it


class Scenario(NamedTuple):
    """What may happen."""

    name: str
    rules: Rules = Rules()
    max_crashes: int = 2
    max_lone: int = 4
    killer: str = "process"
    kills: int = 2                  # of the worker, from outside
    halts: int = 1                  # of the supervisor
    first: int = POISON             # whose message comes first


# Where a task stands: waiting, claimed, claimed as suspect, body in the worker, in a child of its own, done
WAITS, CLAIMED, SUSPECT, BODY, CHILD, DONE = "waits", "claimed", "suspect", "body", "child", "done"


class State(NamedTuple):
    """Between two steps."""

    records: tuple[int, ...]
    at: tuple[str, ...] = (WAITS, WAITS)
    up: bool = False
    seen: frozenset[int] | None = None      # what the slot named when the worker died; None: nobody saw it die
    several: bool = False                   # this worker ran two at once: its slot names too little
    kills: int = 0
    halts: int = 0


class Poison:
    """The model of one scenario, for the checker."""

    def __init__(self, scenario: Scenario) -> None:
        self._sc, self._rules, self._book = scenario, scenario.rules, Book()

    def start(self) -> State:
        queued = self._book.submit(NONE, 0, 0).record
        return State((queued, queued), kills=self._sc.kills, halts=self._sc.halts)

    def steps(self, state: State) -> Iterator[Step[State]]:
        if not state.up:
            yield "a worker starts", True, self._up(state)
            return
        if state.kills:
            yield "FAULT: the worker is killed", False, self._dead(state)._replace(kills=state.kills - 1)
        if state.halts:
            yield "FAULT: the supervisor is killed", False, self._halted(state)._replace(halts=state.halts - 1)
        for task in (POISON, GOOD):
            yield from self._task(state, task)

    def violation(self, state: State) -> str | None:
        record = self._book.records[state.records[GOOD]]
        return "POISON: the innocent task is given up" if record is not None and record.s == "KO" else None

    def owed(self, state: State) -> str | None:
        ends = [record.s if record is not None else "" for record in (self._book.records[n] for n in state.records)]
        if ends[POISON] != "KO":
            return "POISON: the poison task is never given up"
        return None if ends[GOOD] == "OK" else "LOST: the innocent task never ends"

    # ---- processes --------------------------------------------------------------------------------------------------
    def _up(self, state: State) -> State:
        """Its epoch is above all before; which of those claimed a task makes no difference, so they become one."""
        older = tuple(self._book.number(record._replace(e=BEFORE) if record is not None and record.e is not None else
                                        record) for record in (self._book.records[n] for n in state.records))
        return state._replace(up=True, records=older, several=False)

    def _dead(self, state: State) -> State:
        """The supervisor sees the worker's end, and what stands in its slot."""
        running = frozenset(task for task in (POISON, GOOD) if state.at[task] in (BODY, CHILD))
        named = running | (state.seen or frozenset())       # what was named before, and is not done yet, stays named
        named = frozenset(task for task in named if state.at[task] != DONE)
        return state._replace(up=False, at=(WAITS, WAITS), seen=None if state.several else named)

    def _halted(self, state: State) -> State:
        return state._replace(up=False, at=(WAITS, WAITS), seen=None)

    # ---- a task's way -----------------------------------------------------------------------------------------------
    def _task(self, state: State, task: int) -> Iterator[Step[State]]:
        at, name = state.at[task], NAMES[task]
        if at in (CLAIMED, SUSPECT) and self._has_to_wait(state, task):
            return
        if at == WAITS:
            yield self._claim(state, task)
        elif at == CLAIMED:
            several = state.several or BODY in state.at
            yield f"{name}: its body starts", True, self._to(state, task, BODY)._replace(several=several)
        elif at == SUSPECT:
            yield self._alone(state, task)
        elif at in (BODY, CHILD) and task == GOOD:
            yield f"{name}: ends", True, self._end(state, task, "OK")
        elif self._sc.killer == "host" and at in (BODY, CHILD):
            yield f"{name}: takes the whole host down", True, self._halted(state)
        elif at == BODY:
            yield f"{name}: kills the worker", True, self._dead(state)
        elif at == CHILD:
            yield self._crash(state, task)

    def _has_to_wait(self, state: State, task: int) -> bool:
        """Its turn has not come, or what runs now bars it (yadtqd.flights, yadtqd.isolated_pool)."""
        other, in_turn = state.at[1 - task], self._rules.in_turn
        if in_turn and task != self._sc.first and other in (WAITS, CLAIMED, SUSPECT):
            return True
        if state.at[task] == CLAIMED:
            return in_turn and other == CHILD
        if self._rules.alone and other == CHILD:        # whose run began with `lone` above 0 runs with nobody beside it
            return self._counts(state, task)[1] > 0 or self._counts(state, 1 - task)[1] > 1
        return in_turn and other == BODY

    def _claim(self, state: State, task: int) -> Step[State]:
        answer = self._book.claim(state.records[task], 0, 0, TOKEN, COPIES[task], task)
        after = state._replace(records=put(state.records, task, answer.record))
        label = f"{NAMES[task]}: claimed -> {answer.word}"
        if answer.word not in ("RUN", "SUSPECT"):
            return label, True, self._to(after, task, DONE)
        record = self._book.records[answer.record]
        assert record is not None
        named = state.seen is not None and task in state.seen
        suspect = named if state.seen is not None else answer.word == "SUSPECT"
        if not self._rules.from_claims:
            suspect = named
        if self._rules.from_claims and (record.seen or record.lone):
            suspect = True
        if suspect and not self._rules.alone_counts:
            after = self._count(after, task, "crash")
            if self._counts(after, task)[0] >= self._sc.max_crashes:
                return f"{label}, as a suspect, which is counted: given up", True, self._end(after, task, "KO")
        return f"{label}{', a suspect' * suspect}", True, self._to(after, task, SUSPECT if suspect else CLAIMED)

    def _alone(self, state: State, task: int) -> Step[State]:
        name = NAMES[task]
        if self._counts(state, task)[1] >= self._sc.max_lone:
            return f"{name}: too many runs whose end nobody saw: given up", True, self._end(state, task, "KO")
        after = self._count(state, task, "begin") if self._rules.counted_before else state
        return f"{name}: its body starts in a child", True, self._to(after, task, CHILD)

    def _crash(self, state: State, task: int) -> Step[State]:
        after = self._count(state, task, "crash")
        seen, _ = self._counts(after, task)
        if seen >= self._sc.max_crashes:
            return f"{NAMES[task]}: kills its child, counted {seen}: given up", True, self._end(after, task, "KO")
        return f"{NAMES[task]}: kills its child, counted {seen}", True, self._to(after, task, SUSPECT)

    # ---- what is written --------------------------------------------------------------------------------------------
    def _counts(self, state: State, task: int) -> tuple[int, int]:
        record = self._book.records[state.records[task]]
        return (record.seen, record.lone) if record is not None else (0, 0)

    def _count(self, state: State, task: int, what: str) -> State:
        answer = self._book.lone(state.records[task], 0, TOKEN, 0, what)
        return state._replace(records=put(state.records, task, answer.record))

    def _end(self, state: State, task: int, how: str) -> State:
        answer = self._book.finish(state.records[task], 0, 0, TOKEN, COPIES[task], task, how)
        return self._to(state._replace(records=put(state.records, task, answer.record)), task, DONE)

    def _to(self, state: State, task: int, at: str) -> State:
        return state._replace(at=put(state.at, task, at))


HOLDS = [
    Scenario("suspects"),
    Scenario("suspects, the innocent one first", first=GOOD),
    Scenario("suspects, the poison kills the host", killer="host", kills=1),
    Scenario("suspects, the poison kills the host, the innocent one first", killer="host", kills=1, first=GOOD),
]
FULL = [
    Scenario("suspects, more faults", kills=3, halts=2, max_lone=6),
]
BREAKS = [
    Scenario("suspects are only what the supervisor saw", Rules(from_claims=False), killer="host", kills=0, halts=0),
    Scenario("a death counts for all that its worker had", Rules(alone_counts=False)),
    Scenario("bodies run beside lone runs", Rules(in_turn=False)),
    Scenario("lone runs always side by side", Rules(alone=False), killer="host", kills=0, halts=0),
    Scenario("nothing is counted before a lone run", Rules(counted_before=False), killer="host", kills=0, halts=0),
]
# What can't be promised
LIMITS = [
    (False, Scenario("an innocent task survives as many kills from outside as max_lone allows", max_lone=1)),
]
