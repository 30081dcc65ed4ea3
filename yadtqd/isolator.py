"""The isolator of a host: forks one child per isolated attempt, for all workers, and tells how each ended.

A process of its own, single-threaded, with the handlers imported: forking from a working worker, which has threads,
hangs children in locks. Owns the children: each in a session of its own, with a memory limit where its type has one,
killed with all that it started when its worker goes away, asks for it, or its hard limit is over. Never talks to Kafka
or Redis, never decides what a death means.
"""
from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import struct
import time
from typing import TYPE_CHECKING

from yadtq.errors import WorkerInitializationFailed
from yadtqd import isolated_protocol as protocol
from yadtqd.exits import Exit
from yadtqd.isolated_child import run_child
from yadtqd.worker_state import WorkerState

if TYPE_CHECKING:
    from yadtqd.child import ChildContext
    from yadtqd.registry import Registry

log = logging.getLogger(__name__)

TICK_S = 0.25
KEEPER_S = 1.0                  # for a keeper to kill its child, before it is killed itself
BACKUP_S = 2.0                  # the worker enforces the hard limit; so long after it the isolator does
MAX_WORKERS = 2048              # connections


class Seat:
    """One worker's connection and the child that runs for it, if any."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pid = 0            # the keeper of the attempt that runs
        self.pidfd = -1
        self.kill_at = 0.0      # monotonic; 0: never
        self.killed = False
        self.waiting: tuple[protocol.Run, bytes] | None = None      # could not be forked yet


class Isolator:
    """The loop; everything non-blocking but the few writes to a worker that waits for them."""

    def __init__(self, ctx: ChildContext, registry: Registry) -> None:
        self._ctx, self._registry = ctx, registry
        self._listener = socket.socket(fileno=os.dup(ctx.control_fd))
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        if ctx.parent_pidfd >= 0:
            self._epoll.register(ctx.parent_pidfd, select.EPOLLIN)
        self._seats: dict[int, Seat] = {}           # by the connection's descriptor
        self._children: dict[int, Seat] = {}        # by the child's pidfd
        self._stopping = False

    def stop(self, *_: object) -> None:
        """SIGTERM: take nothing new, end as soon as no child runs."""
        self._stopping = True

    def run(self) -> int:
        """Until stopped."""
        while not (self._stopping and not self._children):
            self._ctx.slot.beat(time.monotonic_ns())
            if self._stopping:
                self._dismiss()
            for fd, _ in self._epoll.poll(TICK_S):
                if fd == self._listener.fileno():
                    self._accept()
                elif fd == self._ctx.parent_pidfd:
                    return Exit.CRASHED
                elif fd in self._children:
                    self._reap(self._children[fd])
                elif fd in self._seats:
                    self._read(self._seats[fd])
            self._enforce(time.monotonic())
        return Exit.OK

    # ---- workers ----------------------------------------------------------------------------------------------------
    def _dismiss(self) -> None:
        """Part with the workers for which nothing runs: they wait at the listening socket for our successor. Else a
        busy host would never let us end, and the drain limit would end a task."""
        if self._listener.fileno() >= 0:
            self._epoll.unregister(self._listener)
            self._listener.close()
        for seat in [seat for seat in self._seats.values() if not seat.pid and seat.waiting is None]:
            self._leave(seat)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            sock, _ = self._listener.accept()
            uid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
            if uid != os.getuid() or len(self._seats) >= MAX_WORKERS:
                log.warning("a connection of user %d was refused", uid)
                sock.close()
                return
            sock.settimeout(5)
            self._seats[sock.fileno()] = Seat(sock)
            self._epoll.register(sock, select.EPOLLIN)

    def _read(self, seat: Seat) -> None:
        try:
            got = protocol.receive(seat.sock)
        except (OSError, protocol.IsolatorGone) as error:
            log.warning("a worker's connection failed: %s", error)
            got = None
        if got is None:
            return self._leave(seat)
        packet, large = got
        if isinstance(packet, protocol.Run) and not seat.pid and seat.waiting is None:
            self._begin(seat, packet, large or packet.payload)
        elif isinstance(packet, protocol.Kill) and seat.pid:
            self._kill(seat)
        elif isinstance(packet, protocol.Cancel) and seat.pid:
            self._cancel(seat, packet.grace_s)
        return None

    def _leave(self, seat: Seat) -> None:
        """The worker is gone: nobody would take the result."""
        self._epoll.unregister(seat.sock)
        del self._seats[seat.sock.fileno()]
        seat.sock.close()
        if seat.pid:
            self._kill(seat)

    # ---- children ---------------------------------------------------------------------------------------------------
    def _begin(self, seat: Seat, run: protocol.Run, payload: bytes) -> None:
        try:
            seat.pid, seat.pidfd = self._fork(seat, run, payload)
        except OSError as error:            # no memory, process or descriptor left: others' children must not end by it
            if seat.waiting is None:
                log.error("an isolated task can't be forked, it is tried again: %s", error)  # noqa: TRY400
            seat.waiting = run, payload
            return
        seat.killed, seat.waiting = False, None
        seat.kill_at = time.monotonic() + run.hard_s + BACKUP_S if run.hard_s else 0.0
        self._children[seat.pidfd] = seat
        self._epoll.register(seat.pidfd, select.EPOLLIN)

    def _fork(self, seat: Seat, run: protocol.Run, payload: bytes) -> tuple[int, int]:
        """A child for this attempt: its pid and pidfd. OSError: there is none."""
        me = os.getpid()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                run_child(self._registry, seat.sock, run, payload, me, self._inherited(seat), mask)
            try:
                return pid, os.pidfd_open(pid)
            except OSError:                 # a child that can't be watched must not live
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _inherited(self, seat: Seat) -> list[int]:
        """Descriptors that are none of a child's business."""
        others = [fd for fd in self._seats if fd != seat.sock.fileno()]
        listener = [fd] if (fd := self._listener.fileno()) >= 0 else []
        return [self._epoll.fileno(), *listener, self._ctx.control_fd, *others, *self._children]

    def _cancel(self, seat: Seat, grace_s: float) -> None:
        kill_at = time.monotonic() + grace_s + BACKUP_S
        seat.kill_at = min(seat.kill_at or kill_at, kill_at)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(seat.pidfd, signal.SIGUSR1)

    def _kill(self, seat: Seat) -> None:
        seat.killed, seat.kill_at = True, time.monotonic() + KEEPER_S
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(seat.pidfd, signal.SIGTERM)        # its keeper takes the whole tree along

    def _enforce(self, now: float) -> None:
        for seat in list(self._seats.values()):
            if seat.waiting is not None:
                self._begin(seat, *seat.waiting)
        for seat in list(self._children.values()):
            if seat.kill_at and now >= seat.kill_at:
                if seat.killed:
                    seat.kill_at = 0.0
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(seat.pidfd, signal.SIGKILL)
                else:
                    log.warning("an isolated task ran past its hard limit, and its worker did not stop it")
                    self._kill(seat)

    def _reap(self, seat: Seat) -> None:
        """The child is gone: sweep what it started, tell the worker."""
        info = os.waitid(os.P_PIDFD, seat.pidfd, os.WEXITED | os.WNOHANG)
        if info is None:
            return
        self._epoll.unregister(seat.pidfd)
        del self._children[seat.pidfd]
        os.close(seat.pidfd)
        _sweep(seat.pid, {other.pid for other in self._children.values()})
        by_signal = info.si_code != os.CLD_EXITED
        ended = protocol.Ended(0 if by_signal else info.si_status, info.si_status if by_signal else 0, seat.killed)
        seat.pid, seat.pidfd, seat.kill_at = 0, -1, 0.0
        with contextlib.suppress(OSError):          # the worker went away too
            protocol.send(seat.sock, ended)


def _sweep(leader: int, living: set[int]) -> None:
    """Kill what a dead child left behind: its process group, then orphans, which come to us as their subreaper.

    An orphan in a session of its own may be a living child's: it goes when no child lives.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    me = os.getpid()
    for _ in range(100):                            # an orphan's own children become ours when it dies
        strays = [pid for pid in _children_of(me) if pid not in living and (not living or _session(pid) == leader)]
        if not strays:
            return
        for pid in strays:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def _children_of(pid: int) -> list[int]:
    try:
        with open(f"/proc/self/task/{pid}/children", encoding="ascii") as children:
            return [int(child) for child in children.read().split()]
    except FileNotFoundError:               # a kernel that does not tell: process groups are swept all the same
        return []


def run(ctx: ChildContext) -> int:
    """The isolator's life; the exit status."""
    # Before any task module: the threads of a numeric library would make every fork a gamble.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    from yadtqd import child, registry

    child.become_subreaper()
    ctx.slot.state = WorkerState.STARTING
    try:
        handlers = registry.load(ctx.settings.tasks)
    except WorkerInitializationFailed as error:
        log.critical("%s", error)
        return Exit.INITIALIZATION_FAILED
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        log.warning("the task modules start %d threads on import: isolated tasks may hang; start them in the handler",
                    threads - 1)
    isolator = Isolator(ctx, handlers)
    signal.signal(signal.SIGTERM, isolator.stop)
    ctx.slot.state = WorkerState.RUNNING
    return isolator.run()
