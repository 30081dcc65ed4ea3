"""The supervisor's hands: starts, signals, kills and reaps children, and keeps their slots.

Owns the handles, the pidfds in the epoll and the slots in use. Decides when nothing of this happens (yadtqd.supervisor
does), except what the end of a child means for its next start, by the restart policy. One thread, never blocks.
"""
from __future__ import annotations

import contextlib
import heapq
import logging
import os
import random
import select
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from yadtq.errors import WorkerInitializationFailed, WorkerRecoveryFailed
from yadtqd.child import ChildContext, HardTimedOut, Role, fork
from yadtqd.deadlines import Progress
from yadtqd.exits import EXPLAINED, Exit
from yadtqd.restart_policy import Fate, History, RestartPolicy, fate_of
from yadtqd.shared import Shared
from yadtqd.slot import SlotView, TaskInHand
from yadtqd.suspicion import SEVERAL
from yadtqd.worker_handle import WORKER, Binding, WorkerHandle
from yadtqd.worker_state import WorkerState

if TYPE_CHECKING:
    from yadtq.config import Settings

log = logging.getLogger(__name__)

DEATHS_NS = 10_000_000_000      # deaths of a worker within so long are in a row
DEATHS = 3                      # in a row: all that was claimed is suspected
DEATHS_UNNAMED = 2              # the same, when it had no task in hand in one of them


class Fleet:
    """All children of a host by name."""

    def __init__(self, settings: Settings, shared: Shared, roles: Mapping[str, Role], epoll: select.epoll,
                 private_fds: Callable[[], list[int]]) -> None:
        self.settings = settings
        self.policy = RestartPolicy(settings.max_worker_retries, settings.retry_window_s, settings.cool_down_s)
        self.handles: dict[str, WorkerHandle] = {}
        self.killed_while_draining = 0
        self.done_gone = self.failed_gone = 0   # tasks done by workers that are no more
        self._shared, self._roles, self._epoll, self._private_fds = shared, roles, epoll, private_fds
        self._by_fd: dict[int, WorkerHandle] = {}
        self._free_slots = list(range(shared.n_slots))
        # Tasks that a worker died over, by partition and offset, until the partition's watermark is beyond them:
        self._hard: dict[int, dict[int, HardTimedOut]] = {}     # killed at the hard deadline
        self._suspects: dict[int, dict[int, str]] = {}          # in hand at any other death that nobody asked for
        self._isolator_listener = _listening_socket()
        self._isolator_address = self._isolator_listener.getsockname().decode()
        self._own_pidfd = os.pidfd_open(os.getpid())

    # ---- who there is
    def __iter__(self) -> Iterator[WorkerHandle]:
        return iter(list(self.handles.values()))

    def workers(self) -> list[WorkerHandle]:
        """The workers, by number."""
        found = [h for h in self.handles.values() if h.role == WORKER]
        return sorted(found, key=lambda h: (len(h.name), h.name))

    def roles(self) -> list[WorkerHandle]:
        """Everybody else."""
        return [h for h in self.handles.values() if h.role != WORKER]

    def ended(self) -> int:
        """Tasks that workers have ended since the start, failed ones included; those that are no more count."""
        return self.done_gone + self.failed_gone + sum(
            h.done_before + h.failed_before + h.slot.done + h.slot.failed for h in self.workers())

    def add(self, name: str, role: str, wanted: Binding = ()) -> WorkerHandle:
        """A new child, STOPPED and due at once."""
        handle = WorkerHandle(name, role, self._shared.slot(heapq.heappop(self._free_slots)), wanted)
        handle.slot.clear()
        self.handles[name] = handle
        return handle

    def remove(self, handle: WorkerHandle) -> None:
        """Forget a child without a process."""
        assert not handle.alive
        self.done_gone += handle.done_before + handle.slot.done
        self.failed_gone += handle.failed_before + handle.slot.failed
        del self.handles[handle.name]
        heapq.heappush(self._free_slots, handle.slot.index)

    # ---- starting
    def may_start(self, handle: WorkerHandle, now_ns: int) -> bool:
        """Whether it is due and nobody else is bound to its partitions any more."""
        return not handle.alive and now_ns >= handle.next_start_ns and all(
            self._shared.partitions[p].worker == 0 for p, _ in handle.wanted)

    def start(self, handle: WorkerHandle, now_ns: int) -> None:
        """Fork it; a fork that fails counts as a failure of the child."""
        handle.done_before += handle.slot.done
        handle.failed_before += handle.slot.failed
        handle.slot.clear()
        handle.slot.state, handle.slot.beat_ns = WorkerState.STARTING, now_ns
        handle.binding, handle.started_ns, handle.progress = handle.wanted, now_ns, Progress(0, now_ns)
        handle.killed_for, handle.at_deadline, handle.doom, handle.kill_at_ns = "", False, None, 0
        handle.held_up_ns = 0
        handle.move(WorkerState.STARTING)
        for partition, _ in handle.binding:
            self._shared.partitions[partition].worker = handle.slot.index + 1
        try:
            handle.child = fork(self._context(handle), self._roles[handle.role], [*self._private_fds(), *self._by_fd])
        except OSError as error:
            self._ended(handle, f"could not be forked: {error}", Fate.FAILED, now_ns)
            return
        handle.starts += 1
        handle.slot.pid = handle.child.pid
        self._by_fd[handle.child.pidfd] = handle
        self._epoll.register(handle.child.pidfd, select.EPOLLIN)
        log.debug("started %s, pid %d, partitions %s", handle.name, handle.child.pid, list(handle.partitions))

    def _context(self, handle: WorkerHandle) -> ChildContext:
        partitions = tuple(p for p, _ in handle.binding)
        self._forget_done(partitions)
        return ChildContext(
            settings=self.settings, role=handle.role, name=handle.name, slot=handle.slot, shared=self._shared,
            partitions=partitions, parent_pidfd=self._own_pidfd,
            control_fd=self._isolator_listener.fileno(), isolator_address=self._isolator_address,
            suspects=tuple(task_id for p in partitions for task_id in self._suspects.get(p, {}).values()),
            hard_timed_out=tuple(t for p in partitions for t in self._hard.get(p, {}).values()))

    def _forget_done(self, partitions: tuple[int, ...]) -> None:
        for p in partitions:
            watermark = self._shared.partitions[p].watermark
            for tasks in (self._hard.get(p, {}), self._suspects.get(p, {})):
                for offset in [offset for offset in tasks if _place(offset) < watermark]:
                    del tasks[offset]

    def forget_partitions(self, owned: tuple[int, ...]) -> None:
        """Partitions that are another host's now: so are their tasks."""
        for by_partition in (self._hard, self._suspects):
            for p in set(by_partition) - set(owned):
                del by_partition[p]

    # ---- stopping
    def stop(self, handle: WorkerHandle, limit_s: float, why: str, now_ns: int) -> None:
        """Ask it to drain within `limit_s`; a second call can only shorten the limit."""
        if not handle.alive:
            handle.next_start_ns = 0
            if handle.state is not WorkerState.STOPPED:
                handle.move(WorkerState.STOPPED)
            return
        kill_at_ns = now_ns + int(limit_s * 1e9)
        if handle.state is WorkerState.STOPPING:
            handle.slot.drain_by_ns = handle.kill_at_ns = min(handle.kill_at_ns, kill_at_ns)
            return
        handle.move(WorkerState.STOPPING)
        handle.slot.drain_by_ns = handle.kill_at_ns = kill_at_ns
        log.info("%s drains: %s", handle.name, why)
        self.signal(handle, signal.SIGTERM)

    def signal(self, handle: WorkerHandle, signum: signal.Signals) -> None:
        """Send a signal, by the pidfd."""
        assert handle.child is not None
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle.child.pidfd, signum)

    def kill(self, handle: WorkerHandle, why: str) -> None:
        """SIGKILL; `why` goes into the log when it is reaped."""
        handle.killed_for = handle.killed_for or why
        self.signal(handle, signal.SIGKILL)

    def kill_at_hard_deadline(self, handle: WorkerHandle, view: SlotView) -> None:
        """SIGKILL; its successor gets the task to end it as TASK_HARD_TIMEOUT (a cancelled one is known to Redis)."""
        assert view.task is not None
        task = view.task
        handle.at_deadline = True
        if task.cancelled:
            self.kill(handle, "a cancelled task that did not end")
            return
        self._hard.setdefault(task.partition, {})[task.offset] = HardTimedOut(
            task.task_id, task.attempt, task.partition, task.offset)
        self.kill(handle, "a task past its hard deadline")

    # ---- reaping
    def owns(self, fd: int) -> bool:
        """Whether the descriptor is the pidfd of a child."""
        return fd in self._by_fd

    def reap(self, fd: int, now_ns: int) -> WorkerHandle | None:
        """Take the exit status of the child with this pidfd; None while it has none."""
        handle = self._by_fd[fd]
        result = os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG)
        if result is None:
            return None
        del self._by_fd[fd]
        self._epoll.unregister(fd)
        os.close(fd)
        exited = result.si_code == os.CLD_EXITED
        status = result.si_status if exited else None
        self._ended(handle, _how(handle, result.si_status, exited), fate_of(status, at_deadline=handle.at_deadline),
                    now_ns)
        return handle

    def _ended(self, handle: WorkerHandle, how: str, fate: Fate, now_ns: int) -> None:
        task = handle.slot.read().task
        if fate in {Fate.FAILED, Fate.HOPELESS} and handle.slot.state == WorkerState.RUNNING:
            found = self._suspect_all_if_it_goes_on(handle, task, now_ns)
            if found or self._is_its_tasks_doing(task):
                fate = Fate.POISONED
        running = f" while it ran task {task.task_id} ({task.task}, partition {task.partition}, offset {task.offset})" \
            if task else ""
        if task and not handle.at_deadline and handle.state is not WorkerState.STOPPING:
            self._suspects.setdefault(task.partition, {})[task.offset] = task.task_id
        for partition, _ in handle.binding:
            self._shared.partitions[partition].worker = 0
        pid, handle.child = handle.child.pid if handle.child else 0, None
        if handle.state is WorkerState.STOPPING:
            self.killed_while_draining += bool(handle.killed_for)
            log.log(logging.WARNING if handle.killed_for or fate in {Fate.FAILED, Fate.HOPELESS} else logging.INFO,
                    "%s (pid %d) stopped: it %s%s", handle.name, pid, how, running, extra=self.fields(handle, task))
            handle.move(WorkerState.STOPPED)
            handle.next_start_ns = 0
            return
        self._plan_restart(handle, f"{handle.name} (pid {pid}) {how}{running}", fate, now_ns, self.fields(handle, task))

    def _suspect_all_if_it_goes_on(self, handle: WorkerHandle, task: TaskInHand | None, now_ns: int) -> bool:
        """A task can kill its worker when another is in hand already (it closed all files, it broke the memory): what
        a slot names is innocent then. So deaths in a row make suspects of all that was claimed. True if that is new."""
        recent = [death for death in handle.deaths if death[0] > now_ns - DEATHS_NS]
        handle.deaths = (*recent, (now_ns, task is not None))[-DEATHS:]
        named = all(named for _, named in handle.deaths)
        if len(handle.deaths) < (DEATHS if named else DEATHS_UNNAMED):
            return False
        new = False
        for partition, _ in handle.binding:
            row, suspects = self._shared.partitions[partition], self._suspects.setdefault(partition, {})
            new |= SEVERAL not in suspects.values()
            suspects[-1 - max(row.watermark, row.committed)] = SEVERAL
        return new

    def _is_its_tasks_doing(self, task: TaskInHand | None) -> bool:
        """Did it die, or hang, over a task that was not suspected yet? The successor runs that one in a process of its
        own, so this comes once a task, and is no sign that the worker can't work."""
        return task is not None and task.task_id not in self._suspects.get(task.partition, {}).values()

    def _plan_restart(self, handle: WorkerHandle, what: str, fate: Fate, now_ns: int,
                      fields: dict[str, object]) -> None:
        was_starting = handle.state is WorkerState.STARTING
        decision = self.policy.after(handle.history, fate, now_ns / 1e9, random.random())  # noqa: S311 (jitter)
        handle.history, handle.next_start_ns = decision.history, now_ns + int(decision.delay_s * 1e9)
        handle.recycled += fate is Fate.RETIRED
        handle.restarts += fate is not Fate.RETIRED
        handle.note = what
        again = f"starts again in {decision.delay_s:.1f} s" if decision.delay_s else "starts again at once"
        if decision.fatal:
            handle.move(WorkerState.FATAL)
            log.critical("%s: %s; %d failures within %g s; left alone for %g s", WorkerRecoveryFailed.code, what,
                         len(decision.history.failures), self.policy.window_s, decision.delay_s, extra=fields)
        elif fate in {Fate.RECYCLED, Fate.RETIRED}:
            handle.move(WorkerState.EXITED)
            log.log(logging.WARNING if handle.killed_for else logging.INFO, "%s; %s", what, again, extra=fields)
        elif fate is Fate.POISONED:
            handle.move(WorkerState.EXITED)
            log.error("%s; what is suspected of it will run in a process of its own; %s", what, again, extra=fields)
        else:
            handle.move(WorkerState.BACKOFF)
            prefix = f"{WorkerInitializationFailed.code}: " if was_starting else ""
            log.error("%s%s; %s", prefix, what, again, extra=fields)

    def forgive(self, handle: WorkerHandle) -> None:
        """Forget its failures and make it due: an operator asked for a restart."""
        handle.history, handle.next_start_ns = History(), 0

    def fields(self, handle: WorkerHandle, task: TaskInHand | None = None) -> dict[str, object]:
        """`extra` of a line about a child: its worker id and what it had in hand, as the journal's fields."""
        worker = {"worker": f"{self.settings.host_name}/{handle.name}"} if handle.role == WORKER else {}
        return worker | ({"task_id": task.task_id, "partition": task.partition} if task else {})

    def sweepable(self) -> set[int]:
        """The pids that are children by intention."""
        return {h.child.pid for h in self.handles.values() if h.child is not None}

    def close(self) -> None:
        """Give back the descriptors; all children must have been reaped."""
        assert not self._by_fd
        self._isolator_listener.close()
        os.close(self._own_pidfd)


def _place(offset: int) -> int:
    """The offset that a suspicion of all is about: it stands below zero, since a task may be suspected at it too."""
    return offset if offset >= 0 else -1 - offset


def _how(handle: WorkerHandle, status: int, exited: bool) -> str:
    if exited:
        name = Exit(status).name if status in Exit.__members__.values() else "UNKNOWN"
        why = f": {EXPLAINED[Exit(status)]}" if status in EXPLAINED else ""
        return f"exited with status {status} ({name}){why}"
    try:
        name = signal.Signals(status).name
    except ValueError:
        name = f"signal {status}"
    return f"was killed by {name}" + (f" for {handle.killed_for}" if handle.killed_for else "")


def _listening_socket() -> socket.socket:
    """The isolator's socket: without a file, gone with the daemon; the isolator checks the user id of its peers."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    listener.bind(b"\0yadtqd-isolator-" + os.urandom(16).hex().encode())
    listener.listen(256)
    return listener


