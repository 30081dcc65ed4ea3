"""A worker's side of isolated attempts: runs a task through the isolator and judges how its process ended.

Owns the worker's connection to the isolator and the counting of crashes (PROTOCOL.md rule 9): `lone` + 1 is written
before a suspect runs and taken back when the end of its child was seen; `seen` counts only a child that died, alone and
not by us. A task is given up as TASK_CRASHED at `max_crashes` seen, or when `max_lone` lone runs had an end that nobody
saw. Used by one thread at a time (yadtqd.isolated_pool has one per attempt); waits as long as the attempt runs.
"""
from __future__ import annotations

import contextlib
import logging
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from yadtq.errors import RedisConnectionError, TaskCrashed, TaskHardTimeout
from yadtq.retry_policy import Wish
from yadtq.task import encode_message
from yadtqd import isolated_protocol as protocol
from yadtqd.body import CANCELLED, CX, KO, OK, Deadlines, Outcome, grace, refused
from yadtqd.isolated_protocol import MUTE

if TYPE_CHECKING:
    from yadtq.config import Settings
    from yadtq.result_backend import ResultBackend
    from yadtq.tasks import TaskType
    from yadtqd.held import Held
    from yadtqd.redis_gate import RedisGate

log = logging.getLogger(__name__)
T = TypeVar("T")

POLL_S = 0.25               # how often a waiting call looks whether the worker is to end
RECONNECT_S = 0.1
AGAIN_S = 0.1               # between two runs of a task that crashed: it may be the machine that is in trouble
KILLED_S = 5.0              # after a Kill, so long for the Ended
BREAK_OFF_S = 1.0           # the same when this worker is about to end


class Death(NamedTuple):
    """How a child ended that said nothing about its task."""

    text: str               # "was killed by SIGSEGV", "exited with status 3"
    by_us: bool             # we killed it


BROKEN_OFF = Death("was broken off: its worker ends", True)


class Isolation:
    """`over()` says that the worker must end now: a run is then broken off, and its task left to the successor.
    `lease_holds()` is looked at before each run: one task may take many, over a long time."""

    def __init__(self, settings: Settings, address: str, backend: ResultBackend, gate: RedisGate, epoch: int,
                 over: Callable[[], bool], lease_holds: Callable[[], bool]) -> None:
        self._settings, self._address, self._backend, self._gate = settings, address, backend, gate
        self._epoch, self._over = epoch, over
        self._lease_holds = lease_holds
        self._sock: socket.socket | None = None

    def run(self, held: Held, task_type: TaskType, limits: Deadlines) -> Outcome | None:
        """One attempt, over as many runs as it takes; None when the worker ends first, or has to claim it again."""
        while self._lease_holds() and not (self._over() or held.cancelled):     # claimed again, it waits for the lease
            if held.lone >= self._settings.max_lone:
                return self._give_up(held, f"{held.lone} runs of it, alone, ended with their whole host or supervisor")
            if held.suspect and not self._count(held, "begin"):
                return None                         # the claim is lost: it is claimed again
            if not self._lease_holds():
                return self._ended(held, task_type, limits, BROKEN_OFF)
            got = self._once(held, task_type, limits)
            if held.cancelled and isinstance(got, Death) and got.by_us and got is not BROKEN_OFF:
                got = CANCELLED                     # it did not end in time
            if got is None:                         # nobody saw its end: `lone` stays counted,
                held.suspect = True                 # and from now on it is, also for an isolated type: it may be
                if held.lone:                       # what ends the isolator; then the next run has nothing beside it
                    break
                continue
            if isinstance(got, Outcome) or got.by_us:
                return self._ended(held, task_type, limits, got)
            if not self._crashed(held, task_type, got):
                return self._give_up(held, f"its process {got.text}, {held.seen} times while it ran alone")
            time.sleep(AGAIN_S)
        return CANCELLED if held.cancelled else None

    def _ended(self, held: Held, task_type: TaskType, limits: Deadlines, got: Outcome | Death) -> Outcome | None:
        """It did not crash: it ended by itself, or we ended it."""
        if held.suspect:
            self._count(held, "well")
        if isinstance(got, Outcome):
            return got
        if got is BROKEN_OFF:
            return None
        return refused(TaskHardTimeout(f"{task_type.name} ran past its hard time-out of {limits.hard_s:g} s"))

    # ---- counting ---------------------------------------------------------------------------------------------------
    def _crashed(self, held: Held, task_type: TaskType, death: Death) -> bool:
        """Count a crash; may the task run once more?"""
        if not held.suspect:                        # an isolated type: alone as well, and from now on counted before
            held.suspect = True
            self._count(held, "begin")
        self._count(held, "crashed")
        log.error("%s: its process %s (%d of %d)", task_type.name, death.text, held.seen, self._settings.max_crashes)
        return held.seen < self._settings.max_crashes

    def _count(self, held: Held, what: str) -> bool:
        """Write how often it ran alone and crashed; False when the claim isn't ours any more."""
        message = held.message
        counts = self._until_redis_answers(lambda: (
            self._backend.lone_begin(held.partition, self._epoch, message.id, message.n) if what == "begin" else
            self._backend.lone_end(held.partition, self._epoch, message.id, message.n, what == "crashed")))
        if counts is None:
            return False
        held.seen, held.lone = counts
        return True

    def _until_redis_answers(self, ask: Callable[[], T]) -> T | None:
        while True:
            if self._gate.wait(POLL_S):
                try:
                    return ask()
                except RedisConnectionError as error:
                    self._gate.close(error)
            if self._over():                        # after one attempt: a run that we broke off is not to count
                return None

    @staticmethod
    def _give_up(held: Held, why: str) -> Outcome:
        return refused(TaskCrashed(f"{held.message.task} was given up: {why}"))

    # ---- one run ----------------------------------------------------------------------------------------------------
    def _once(self, held: Held, task_type: TaskType, limits: Deadlines) -> Outcome | Death | None:
        """Run it once; None when its end was not seen (the isolator or this worker ends)."""
        sock = self._connected()
        if sock is None:
            return BROKEN_OFF
        payload = encode_message(held.message)
        small = len(payload) <= protocol.INLINE
        run = protocol.Run(payload if small else b"", self._settings.max_payload_bytes, limits.soft_s, limits.hard_s,
                           task_type.memory_limit or 0)
        try:
            protocol.send(sock, run, b"" if small else payload)
            return self._wait(sock, limits.hard_s, held, grace(held.message, task_type, self._settings))
        except (OSError, protocol.IsolatorGone) as error:
            log.warning("the isolator went away while %s ran: %s", task_type.name, error)
            self._disconnect()
            return None

    def _wait(self, sock: socket.socket, hard_s: float, held: Held, grace_s: float) -> Outcome | Death | None:
        deadline = time.monotonic() + hard_s if hard_s else float("inf")
        outcome: Outcome | None = None
        killed = cancelled = over = False
        while True:
            now = time.monotonic()
            if held.cancelled and not cancelled:
                protocol.send(sock, protocol.Cancel(grace_s))
                cancelled, deadline = True, min(deadline, now + grace_s)
            if now >= deadline:
                if killed:
                    raise protocol.IsolatorGone("it did not end a child that it was told to kill")
                protocol.send(sock, protocol.Kill())
                killed, deadline = True, now + KILLED_S
            elif not killed and self._over():
                protocol.send(sock, protocol.Kill())
                killed, over, deadline = True, True, now + BREAK_OFF_S
            sock.settimeout(min(POLL_S, max(0.001, deadline - now)))
            try:
                got = protocol.receive(sock)
            except TimeoutError:
                continue
            if got is None:
                raise protocol.IsolatorGone("it closed the connection")
            packet, large = got
            if isinstance(packet, protocol.Result):
                data = large or packet.payload
                outcome = _outcome(packet, data)
            elif isinstance(packet, protocol.Ended):
                return outcome or (BROKEN_OFF if over else _death(packet, killed))

    # ---- the connection ---------------------------------------------------------------------------------------------
    def _connected(self) -> socket.socket | None:
        """A connection to the isolator, which may just be restarting; None when the worker ends first."""
        if self._sock is not None and _hung_up(self._sock):     # the isolator was restarted while we had no task for it
            self._disconnect()
        complain_at = time.monotonic() + 2.0
        while self._sock is None and not self._over():
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                sock.settimeout(POLL_S)
                sock.connect(self._address)
            except OSError as error:
                sock.close()
                if time.monotonic() >= complain_at:
                    complain_at = time.monotonic() + 10.0
                    log.warning("the isolator can't be reached, an isolated task waits for it: %s", error)
                time.sleep(RECONNECT_S)
            else:
                self._sock = sock
        return self._sock

    def _disconnect(self) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.close()
            self._sock = None


def _hung_up(sock: socket.socket) -> bool:
    look = select.poll()
    look.register(sock, select.POLLIN)
    return bool(look.poll(0))                               # between two tasks the isolator has nothing to say


def _outcome(result: protocol.Result, data: bytes) -> Outcome:
    if result.end == CX:
        return CANCELLED
    wish = None if result.wish is None else Wish(*result.wish)
    return Outcome(OK, data) if result.end == OK else Outcome(KO, error=data, wish=wish)


def _death(ended: protocol.Ended, killed: bool) -> Death:
    if killed or ended.by_us:
        return Death("was killed at its hard time-out", True)
    if ended.signal:
        return Death(f"was killed by {_name(ended.signal)}", False)
    told = ": it could not tell how its task ended" if ended.status == MUTE else ""
    return Death(f"exited with status {ended.status}{told}", False)


def _name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"
