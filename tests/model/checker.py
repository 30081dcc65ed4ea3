"""A small explicit-state checker: tries every order of steps, and shows the shortest way to whatever breaks.

A model says where it starts, which steps are possible in a state, what must never be seen, and what is still owed in a
state where everything has come to rest. States are immutable and hashable (NamedTuples all the way down). The search is
breadth first, so a trace has the fewest steps possible.

Steps are *fair* or not. A fair step is one that a healthy system takes by itself: a worker goes on, a dead one is
replaced. Faults and what people do (a crash, a time-out, a cancellation) are not: they may happen or not, and all must
end well without them. "Nothing hangs" is three checks: where no fair step is left, nothing may be owed; fair steps form
no cycle; or if they do, a state that owes nothing can be reached from everywhere by fair steps alone.

Pure: no clock but the one that measures the search, no I/O.
"""
from __future__ import annotations

import time
from array import array
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)
Step = tuple[str, bool, S]          # what happens, whether it is fair, the state that comes out


class Model(Protocol[S]):
    """What is searched."""

    def start(self) -> S:
        """The first state."""
        ...

    def steps(self, state: S) -> Iterable[Step[S]]:
        """All steps that are possible in this state."""
        ...

    def violation(self, state: S) -> str | None:
        """Which promise this state breaks, as a sentence; None: none."""
        ...

    def owed(self, state: S) -> str | None:
        """What would be missing if nothing more happened, as a sentence; None: nothing."""
        ...


@dataclass
class Verdict:
    """What a search found: `found` is held, violated (a promise is broken), stuck (something is owed and nothing can
    happen), endless (for ever busy without paying it) or cut (`limit` states were not enough)."""

    found: str
    states: int
    steps: int
    depth: int
    seconds: float
    text: str = ""
    trace: list[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Is it sure that nothing breaks?"""
        return self.found == "held"


class Search(Generic[S]):
    """One search. States are numbered in the order in which they are found."""

    def __init__(self, model: Model[S], limit: int) -> None:
        self._model, self._limit = model, limit
        self._states: list[S] = [model.start()]
        self._numbers: dict[S, int] = {self._states[0]: 0}
        self._came_from, self._came_by = array("q", [-1]), [""]
        self._depth = array("q", [0])
        self._fair_from, self._fair_to = array("q"), array("q")
        self._steps = 0
        self._labels: dict[str, str] = {}       # one string for each label, however many states have it
        self._began = time.monotonic()

    def run(self) -> Verdict:
        """Look at every state, then at what it comes to in the end."""
        broken = self._model.violation(self._states[0])
        if broken:
            return self._verdict("violated", 0, broken)
        number = 0
        while number < len(self._states):
            found = self._expand(number)
            if found is not None:
                return found
            if len(self._states) > self._limit:
                return self._verdict("cut", number, f"more than {self._limit} states")
            number += 1
        return self._ends_well()

    def _expand(self, number: int) -> Verdict | None:
        state, at_rest = self._states[number], True
        for label, fair, following in self._model.steps(state):
            self._steps += 1
            known = self._numbers.get(following)
            if known is None:
                known = self._enter(number, label, following)
                broken = self._model.violation(following)
                if broken:
                    return self._verdict("violated", known, broken)
            if fair and known != number:
                at_rest = False
                self._fair_from.append(number)
                self._fair_to.append(known)
        owed = self._model.owed(state) if at_rest else None
        return self._verdict("stuck", number, owed) if owed else None

    def _enter(self, number: int, label: str, state: S) -> int:
        known = self._numbers[state] = len(self._states)
        self._states.append(state)
        self._came_from.append(number)
        self._came_by.append(self._labels.setdefault(label, label))
        self._depth.append(self._depth[number] + 1)
        return known

    def _verdict(self, found: str, number: int, text: str = "") -> Verdict:
        trace: list[str] = []
        at = number if text and found != "cut" else 0
        while at > 0:
            trace.append(self._came_by[at])
            at = self._came_from[at]
        return Verdict(found, len(self._states), self._steps, self._depth[number],
                       time.monotonic() - self._began, text, trace[::-1])

    # ---- where fair steps lead to -----------------------------------------------------------------------------------
    def _ends_well(self) -> Verdict:
        before = _Before(len(self._states), self._fair_from, self._fair_to)
        last = len(self._states) - 1
        if before.without_cycle():
            return self._verdict("held", last)
        paid = before.reaching(n for n, state in enumerate(self._states) if not self._model.owed(state))
        for number, good in enumerate(paid):
            if not good:
                return self._verdict("endless", number, f"for ever: {self._model.owed(self._states[number])}")
        return self._verdict("held", last)


class _Before:
    """Fair steps, looked at from where they lead to: which states come before a state."""

    def __init__(self, states: int, sources: array[int], targets: array[int]) -> None:
        self._states, self._sources = states, sources
        self._begin = array("q", [0]) * (states + 1)        # of each state's stretch of `_list`
        for target in targets:
            self._begin[target + 1] += 1
        for state in range(states):
            self._begin[state + 1] += self._begin[state]
        fill = array("q", self._begin)
        self._list = array("q", [0]) * len(sources)
        for source, target in zip(sources, targets, strict=True):
            self._list[fill[target]] = source
            fill[target] += 1

    def of(self, state: int) -> array[int]:
        return self._list[self._begin[state]:self._begin[state + 1]]

    def without_cycle(self) -> bool:
        """Take away states whose fair steps all lead to states that are gone already: are all gone in the end?"""
        left = array("q", [0]) * self._states
        for source in self._sources:
            left[source] += 1
        todo = [state for state in range(self._states) if not left[state]]
        gone = 0
        while todo:
            gone += 1
            for source in self.of(todo.pop()):
                left[source] -= 1
                if not left[source]:
                    todo.append(source)
        return gone == self._states

    def reaching(self, goals: Iterable[int]) -> bytearray:
        """For each state: can a goal be reached from it?"""
        can = bytearray(self._states)
        todo = list(goals)
        for state in todo:
            can[state] = 1
        while todo:
            for source in self.of(todo.pop()):
                if not can[source]:
                    can[source] = 1
                    todo.append(source)
        return can


def check(model: Model[S], limit: int = 1_000_000) -> Verdict:
    """Search all states of a model, at most `limit`."""
    return Search(model, limit).run()
