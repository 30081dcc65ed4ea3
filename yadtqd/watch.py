"""Looks at every living child and does what its condition asks for: the soft and hard time-out, the end of a hung one.

Runs in the supervisor's one thread at each tick and at each deadline. What is wrong is decided by yadtqd.deadlines;
signals go through the fleet. Never waits: a child that is to be killed first dumps its stacks (SIGUSR2), and is killed
at a later look unless it recovered meanwhile.
"""
from __future__ import annotations

import logging
import signal

from yadtqd.deadlines import Limits, Verdict, judge, next_deadline_ns, progressed
from yadtqd.fleet import Fleet
from yadtqd.shared import Shared
from yadtqd.slot import SlotView
from yadtqd.worker_handle import Doom, WorkerHandle
from yadtqd.worker_state import WorkerState

log = logging.getLogger(__name__)

DUMP_NS = 100_000_000           # for faulthandler to write the stacks of a busy process
START_LOOK_NS = 20_000_000      # a starting child is looked at so often, to see that it runs,
START_LOOKS_NS = 2_000_000_000  # for so long; one that waits for Kafka can wait for a tick as well
HELD_UP_NS = 1_000_000_000      # a worker beats twice a second, if its interpreter lets it
GAP_NS = 2_000_000_000          # the supervisor itself did not run for so long: the machine was frozen or starved
GRACE_NS = 2_000_000_000        # after that, children get so long to beat again before they are judged


class Watcher:
    """Remembers when it looked last; everything else stands in the handles and slots."""

    def __init__(self, fleet: Fleet, shared: Shared, limits: Limits) -> None:
        self.limits = limits
        self._fleet, self._shared = fleet, shared
        self._last_look_ns = self._judge_from_ns = 0

    def look(self, now_ns: int) -> int | None:
        """Look at all; the next moment at which to look again because of a deadline, None when there is none."""
        if self._last_look_ns and now_ns - self._last_look_ns > GAP_NS:
            log.warning("the supervisor did not run for %.1f s; its children get %g s to show that they live",
                        (now_ns - self._last_look_ns) / 1e9, GRACE_NS / 1e9)
            self._judge_from_ns = now_ns + GRACE_NS
        self._last_look_ns = now_ns
        due = [at for handle in self._fleet if handle.child is not None and (at := self._look_at(handle, now_ns))]
        return min(due, default=None)

    def _look_at(self, handle: WorkerHandle, now_ns: int) -> int | None:
        view = handle.slot.read()
        if handle.state is WorkerState.STARTING and view.state == WorkerState.RUNNING:
            handle.move(WorkerState.RUNNING)
            log.info("%s (pid %d) runs %.0f ms after its start%s", handle.name, view.pid,
                     (now_ns - handle.started_ns) / 1e6,
                     f", partitions {', '.join(map(str, handle.partitions))}" if handle.partitions else "")
        rows = [self._shared.partitions[p] for p, _ in handle.binding]
        if any(row.paused for row in rows):
            view = view._replace(lag=0)     # what waits there is meant to wait
        handle.progress = progressed(handle.progress, view, sum(row.watermark for row in rows), now_ns)
        if now_ns < self._judge_from_ns or handle.killed_for:
            return None
        if now_ns - view.beat_ns > HELD_UP_NS and any(row.epoch == 0 for row in rows):
            handle.held_up_ns = now_ns      # it runs several at once, and one of them lets nobody else go on
        self._act(handle, view, judge(view, handle.state, handle.progress, self.limits, now_ns, handle.held_up_ns),
                  now_ns)
        if handle.state is WorkerState.STARTING and now_ns - handle.started_ns < START_LOOKS_NS:
            return now_ns + START_LOOK_NS
        return handle.doom.kill_at_ns if handle.doom else next_deadline_ns(view.task, now_ns)

    def _act(self, handle: WorkerHandle, view: SlotView, verdict: Verdict, now_ns: int) -> None:
        number = view.task.n if view.task else 0
        if handle.doom is not None:
            if handle.doom.verdict is not verdict or (verdict is Verdict.HARD and handle.doom.task_no != number):
                handle.doom = None      # it recovered in the last moment
            elif now_ns >= handle.doom.kill_at_ns:
                self._kill(handle, view, verdict, now_ns)
        elif verdict is Verdict.SOFT:
            # Again at each look until the task is over: the worker defers it while it holds a lock that must be freed.
            if handle.slot.soft_for != number:
                log.warning("%s: %s is past its soft deadline", handle.name, _task(view),
                            extra=self._fleet.fields(handle, view.task))
                handle.slot.soft_for = number
            self._fleet.signal(handle, signal.SIGUSR1)
        elif verdict is not Verdict.FINE:
            what = "past the limit of a cancel" if view.task and view.task.cancelled else verdict.value
            log.error("%s (pid %d) is %s%s; it dumps its stacks and is killed", handle.name, view.pid, what,
                      f" with {_task(view)} in hand" if view.task else "", extra=self._fleet.fields(handle, view.task))
            self._fleet.signal(handle, signal.SIGUSR2)
            handle.doom = Doom(verdict, number, now_ns + DUMP_NS)

    def _kill(self, handle: WorkerHandle, view: SlotView, verdict: Verdict, now_ns: int) -> None:
        if verdict is Verdict.HARD:
            self._fleet.kill_at_hard_deadline(handle, view)
        elif verdict is Verdict.HELD_UP:
            self._fleet.kill(handle, "a task past its hard deadline, which another may have kept from going on")
        elif verdict is Verdict.HUNG:
            self._fleet.kill(handle, f"no heartbeat in {(now_ns - view.beat_ns) / 1e9:.1f} s")
        else:
            self._fleet.kill(handle, f"no progress in {(now_ns - handle.progress.since_ns) / 1e9:.0f} s, "
                                     f"with {view.lag} records waiting")


def _task(view: SlotView) -> str:
    task = view.task
    assert task is not None
    return f"task {task.task_id} ({task.task}, partition {task.partition}, offset {task.offset})"
