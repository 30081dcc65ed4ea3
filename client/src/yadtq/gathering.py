"""Single submissions of several threads, gathered into batches: those that come at the same time share round trips.

Owns who submits for whom. A thread that comes while fewer than LEADERS batches are under way submits at once, so one
that is alone never waits; one that comes later queues, and the next thread to lead takes all that queue along. Each
thread hears of its own task only. Whoever has queued for PATIENCE_S (Kafka or Redis is slow or away) submits by itself,
so that its time limit holds. Runs in the threads that submit; there is no other.
"""
from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from yadtq.errors import YADTQError
from yadtq.submission import Prepared

LEADERS = 1             # batches under way: with two, each carries half, and costs nearly as much
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
        self._leading = 0
        self._pid = os.getpid()

    def submit(self, prepared: Prepared) -> None:
        """Submit one task, with others or alone; raises what its own submission raises."""
        if self._pid != os.getpid():                    # the parent's threads did not come along
            self._begin()
        with self._lock:
            leads = self._leading < LEADERS
            if leads:
                self._leading += 1
            else:
                ticket = _Ticket(prepared)
                self._waiting.append(ticket)
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
        try:
            errors = self._run([prepared, *(ticket.prepared for ticket in along)])
        finally:
            self._pass_on([])
            for ticket in along:
                if errors is None:
                    ticket.alone = True                 # submitting it again with its id is harmless
                else:
                    ticket.error = errors.get(ticket.prepared.message.id)
                ticket.latch.release()
        _raise_own(errors, prepared)

    def _pass_on(self, left: list[_Ticket]) -> None:
        """Have the first of those that were left behind, or that queue, lead the others."""
        with self._lock:
            waiting = self._waiting
            while waiting and len(left) < MOST:
                left.append(waiting.popleft())
            if not left:
                self._leading -= 1
                return
        first, *rest = left
        first.taken_along = rest
        first.latch.release()


def _raise_own(errors: Mapping[str, YADTQError], prepared: Prepared) -> None:
    error = errors.get(prepared.message.id)
    if error is not None:
        raise error
