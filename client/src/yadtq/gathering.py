"""Single submissions of several threads, gathered into batches: those that come at the same time share round trips.

Owns who submits for whom. One batch is under way at a time. A thread that comes while there is none submits at once,
so one that is alone never waits; one that comes later queues, and the next thread to lead takes all that queue along.
Where threads come back as soon as they are answered, the leader waits a moment for all of them (`yadtq.company`). Each
thread hears of its own task only. Whoever has queued for PATIENCE_S (Kafka or Redis is slow or away) submits by itself,
so that its time limit holds. Runs in the threads that submit; there is no other.
"""
from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from yadtq.company import Company
from yadtq.errors import YADTQError
from yadtq.submission import Prepared

MOST = 1000             # tasks in a batch
PATIENCE_S = 0.05       # some twenty times what a batch takes

Run = Callable[[Sequence[Prepared]], Mapping[str, YADTQError]]     # submits; by id, what the submission is to raise


class _Ticket:
    """A thread that queues. Its latch opens when it is answered, when it is to lead, or when it is left alone."""

    __slots__ = ("alone", "error", "latch", "prepared", "taken_along")

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.latch = threading.Lock()
        self.latch.acquire()
        self.taken_along: list[_Ticket] | None = None   # not None: it leads, and these come along
        self.error: YADTQError | None = None
        self.alone = False                              # the thread that led was interrupted: nobody knows


class Gathering:
    """Gathers for one client; `run` submits a batch."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[_Ticket] = deque()
        self._under_way = False                         # somebody leads
        self._company = Company()
        self._wanted = 0                                # when so many queue, `_gate` opens
        self._gate: threading.Lock | None = None
        self._pid = os.getpid()

    @property
    def turn(self) -> int | None:
        """See `Turns.now`."""
        return self._company.turns.now

    def submit(self, prepared: Prepared) -> None:
        """Submit one task, with others or alone; raises what its own submission raises."""
        if self._pid != os.getpid():                    # the parent's threads did not come along
            self._begin()
        with self._lock:
            leads = not self._under_way
            if leads:
                self._under_way = True
            else:
                ticket = _Ticket(prepared)
                self._waiting.append(ticket)
                if self._gate is not None and len(self._waiting) >= self._wanted:
                    self._gate.release()
                    self._gate = None
        if leads:
            self._lead(prepared, [])
        else:
            self._queue(ticket)

    def _queue(self, ticket: _Ticket) -> None:
        try:
            if not ticket.latch.acquire(timeout=PATIENCE_S):
                with self._lock:
                    ticket.alone = ticket in self._waiting
                    if ticket.alone:
                        self._waiting.remove(ticket)
                if not ticket.alone:
                    ticket.latch.acquire()              # its batch is under way, and ends within the limit of one
        except BaseException:                           # Ctrl-C: others must not wait for us
            self._leave(ticket)
            raise
        if ticket.taken_along is not None:
            self._lead(ticket.prepared, ticket.taken_along)
        elif ticket.alone:
            _raise_own(self._run([ticket.prepared]), ticket.prepared)
        elif ticket.error is not None:
            raise ticket.error

    def _leave(self, ticket: _Ticket) -> None:
        with self._lock:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            if ticket.taken_along is None:
                return
        self._pass_on(ticket.taken_along)

    def _lead(self, prepared: Prepared, along: list[_Ticket]) -> None:
        """Submit for ourselves and for those who come along; then another leads."""
        errors: Mapping[str, YADTQError] | None = None
        begun_s = time.monotonic()
        try:
            begun_s = self._await_company(along, begun_s)
            errors = self._run([prepared, *[ticket.prepared for ticket in along]])
        finally:
            self._end(begun_s, len(along) + 1)
            for ticket in along:
                if errors is None:
                    ticket.alone = True                 # submitting it again with its id is harmless
                else:
                    ticket.error = errors.get(ticket.prepared.message.id)
                ticket.latch.release()
        _raise_own(errors, prepared)

    def _await_company(self, along: list[_Ticket], now_s: float) -> float:
        """Wait for as many as are likely to come at once, and take them along; when that was done."""
        with self._lock:
            wanted, limit_s = self._company.begins(now_s, len(along) + 1)
            if wanted > len(self._waiting):
                self._wanted, gate = wanted, threading.Lock()
                gate.acquire()
                self._gate = gate
            else:
                gate = None
        if gate is not None:
            came = gate.acquire(timeout=limit_s)
            now_s = time.monotonic()
        with self._lock:
            self._gate = None
            if gate is not None:
                self._company.waited(came)
            self._take_along(along)
            self._company.turns.leaves()
        return now_s

    def _take_along(self, along: list[_Ticket]) -> None:
        while self._waiting and len(along) < MOST:
            along.append(self._waiting.popleft())

    def _end(self, begun_s: float, size: int) -> None:
        now_s = time.monotonic()
        with self._lock:
            self._company.ends(now_s, now_s - begun_s, size, len(self._waiting))
        self._pass_on([])

    def _pass_on(self, left: list[_Ticket]) -> None:
        """Have the first of those that were left behind, or that queue, lead the others."""
        with self._lock:
            self._take_along(left)
            if not left:
                self._under_way = False
                return
        first, *rest = left
        first.taken_along = rest
        first.latch.release()


def _raise_own(errors: Mapping[str, YADTQError], prepared: Prepared) -> None:
    error = errors.get(prepared.message.id)
    if error is not None:
        raise error
