"""The tasks that a worker runs beside its main thread (pool threads, event loop, isolated), several at once.

Owns which of them its slot shows: the one whose hard deadline comes first, so that the supervisor kills in time. While
the main thread runs a task itself, that one is shown. Owns also what must not run at the same time: a suspect runs
while nothing runs in this process, so that neither's death can be taken for the other's. Called from any of the
worker's threads.
"""
from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from yadtqd.held import Held
    from yadtqd.slot import Slot

_NEVER = 2**63 - 1
_BASE = 1 << 40                # their numbers in the slot, far from those of the main thread


class Flight(NamedTuple):
    """One task that runs."""

    held: Held
    started_ns: int             # monotonic
    started_ms: int             # Unix
    hard_ns: int                # monotonic; 0: none
    cancel: Callable[[], object] = lambda: None     # have it end early; from any thread
    apart: bool = False         # in a process of its own: it can't be what ends this one
    suspect: bool = False       # as it began
    alone: bool = False         # nobody saw how an earlier lone run of it ended: nothing runs apart beside it


class Flights:
    """`beside(True)` is called before something runs in this process beside the main thread, `beside(False)` when
    nothing does any more: meanwhile the slot does not name all that would be suspect if this worker died."""

    def __init__(self, slot: Slot, beside: Callable[[bool], object]) -> None:
        self._slot, self._beside = slot, beside
        self._lock = threading.Condition(threading.Lock())
        self._all: dict[int, Flight] = {}
        self._next = _BASE
        self.apart = self.suspects = self.alone = 0     # how many run apart, and of those, suspects, and all alone
        self._shown = 0
        self._main_has_slot = False

    def __len__(self) -> int:
        return len(self._all)

    def running(self) -> list[Flight]:
        """What runs now."""
        with self._lock:
            return list(self._all.values())

    def begin(self, flight: Flight) -> int:
        """Returns the number under which it ends."""
        with self._lock:
            if not flight.apart and len(self._all) == self.apart:
                self._beside(True)
            self._next += 1
            self._all[self._next] = flight
            self.apart += flight.apart
            self.suspects += flight.suspect
            self.alone += flight.alone
            self._show()
            return self._next

    def end(self, number: int) -> None:
        """It has ended."""
        with self._lock:
            flight = self._all.pop(number)
            self.apart -= flight.apart
            self.suspects -= flight.suspect
            self.alone -= flight.alone
            if not flight.apart and len(self._all) == self.apart:
                self._beside(False)
            self._show()
            self._lock.notify_all()

    def bars(self, *, suspect: bool) -> bool:
        """Must a task wait for what runs now? A suspect for all that runs in this process; and that for suspects."""
        return len(self._all) > self.apart if suspect else self.suspects > 0

    def bars_apart(self, *, alone: bool) -> bool:
        """The same among what runs apart: what ends host or isolator ends all of it, and it would count against all."""
        return self.alone > 0 or (alone and self.apart > 0)

    def wait(self, timeout_s: float) -> None:
        """Until something ends, at most so long."""
        with self._lock:
            if self._all:
                self._lock.wait(timeout_s)

    def cancel(self, held: Held, hard_ns: int) -> None:
        """End it if it is one of these; it is killed at `hard_ns` (monotonic), with this worker."""
        with self._lock:
            found = [(number, flight) for number, flight in self._all.items()
                     if flight.held is held and not flight.apart]       # the isolated call looks by itself
            for number, flight in found:
                self._all[number] = flight._replace(hard_ns=min(flight.hard_ns or _NEVER, hard_ns))
                self._shown = 0
            if found:
                self._show()
        for _, flight in found:
            flight.cancel()

    def take_slot(self) -> None:
        """The main thread is about to run a task itself."""
        if self._all:           # only the main thread adds: without any, nobody else can touch the slot
            with self._lock:
                self._main_has_slot = True
        else:
            self._main_has_slot = True

    def give_slot_back(self) -> None:
        """The main thread has ended its own task: show another."""
        self._main_has_slot = False
        if self._all:
            with self._lock:
                self._shown = 0
                self._show()

    def _show(self) -> None:
        if self._main_has_slot:
            return
        if not self._all:
            self._shown = 0
            self._slot.end()
            return
        number, flight = min(self._all.items(), key=lambda item: (item[1].hard_ns or _NEVER, item[1].apart))
        if number == self._shown:
            return
        self._shown = number
        held, message = flight.held, flight.held.message
        self._slot.begin(number, message.id, message.task, held.partition, held.offset, flight.started_ns, 0,
                         flight.hard_ns, message.n)

    def shown(self) -> tuple[Held, int, int] | None:
        """What the slot shows of them: the task, since when (monotonic ns, Unix ms)."""
        with self._lock:
            flight = self._all.get(self._shown)
        return None if flight is None else (flight.held, flight.started_ns, flight.started_ms)
