"""Whether a living child is well: its beat, its task's deadlines, its progress.

Pure functions over what was seen in a slot and the clock (CLOCK_MONOTONIC nanoseconds). Used by the supervisor; the
child itself decides nothing here.
"""
from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from yadtqd.slot import WAITS_TO_RETIRE, SlotView, TaskInHand
from yadtqd.worker_state import WorkerState

START_LIMIT_S = 60.0    # until the first beats come by themselves: importing users' modules can take long


class Verdict(Enum):
    """What is wrong with a child, worst first in `judge`."""

    FINE = "fine"
    SOFT = "past its soft deadline"         # tell it: soft_for and SIGUSR1
    HARD = "past its hard deadline"         # kill it, its task ends as TASK_HARD_TIMEOUT
    HELD_UP = "past a hard deadline, and its interpreter was held up"    # kill it, nobody knows whose fault it is
    HUNG = "without a heartbeat"            # kill it
    STUCK = "without progress"              # it has work, beats, and takes none: kill it


class Limits(NamedTuple):
    """In nanoseconds; 0 for `progress_ns` means that progress is not watched."""

    beat_ns: int
    start_ns: int
    progress_ns: int

    @classmethod
    def of(cls, beat_s: float, progress_s: float) -> Limits:
        """From seconds; a start may take at least START_LIMIT_S."""
        return cls(int(beat_s * 1e9), int(max(beat_s, START_LIMIT_S) * 1e9), int(progress_s * 1e9))


class Progress(NamedTuple):
    """How far a child had come, and when it was last seen to come further or to have no work to do."""

    mark: int
    since_ns: int


def progressed(old: Progress, view: SlotView, finished: int, now_ns: int) -> Progress:
    """`old`, or a new one if the child came further or has a reason not to.

    `finished` is the sum of its partitions' watermarks: skipping and settling records moves them without a task.
    """
    mark = view.done + view.failed + view.retried + view.crashed + finished
    excused = view.lag <= 0 or view.task is not None or view.waiting_for & ~WAITS_TO_RETIRE != 0
    return Progress(mark, now_ns) if excused or mark != old.mark else old


def judge(view: SlotView, state: WorkerState, progress: Progress, limits: Limits, now_ns: int,
          held_up_ns: int = 0) -> Verdict:
    """What is wrong with the child now, worst first; a stopping one by its task only: its drain has a limit.

    `held_up_ns`: when the interpreter of a child that runs several tasks at once was last seen to stand still (0:
    never). A task that was in hand then may only have been waiting for another, which keeps the interpreter in C code.
    """
    task = view.task
    if task is not None and task.hard_ns and now_ns >= task.hard_ns:
        return Verdict.HELD_UP if held_up_ns > task.started_ns else Verdict.HARD
    silent_ns = now_ns - view.beat_ns
    if state is WorkerState.RUNNING and silent_ns > limits.beat_ns:
        return Verdict.HUNG
    if state is WorkerState.STARTING and silent_ns > limits.start_ns:
        return Verdict.HUNG
    if task is not None and task.soft_ns and now_ns >= task.soft_ns:
        return Verdict.SOFT
    if state is WorkerState.RUNNING and limits.progress_ns and now_ns - progress.since_ns > limits.progress_ns:
        return Verdict.STUCK
    return Verdict.FINE


def next_deadline_ns(task: TaskInHand | None, now_ns: int) -> int | None:
    """When the task in hand has to be looked at next, so that its deadline is met to the millisecond; None if never."""
    if task is None:
        return None
    ahead = [at for at in (task.soft_ns, task.hard_ns) if at > now_ns]
    return min(ahead, default=None)
