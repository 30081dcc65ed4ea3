"""What the supervisor knows of one child: its state, its process, its past, what it is bound to.

Owns no resource itself (yadtqd.fleet does) and decides nothing; used by the supervisor's one thread only.
"""
from __future__ import annotations

from dataclasses import dataclass, field

from yadtqd.child import Child
from yadtqd.deadlines import Progress, Verdict
from yadtqd.restart_policy import History
from yadtqd.slot import Slot
from yadtqd.worker_state import ALIVE, WorkerState, move

WORKER = "worker"
Binding = tuple[tuple[int, int], ...]   # (partition, generation of its ownership) of a worker, in order


@dataclass(frozen=True)
class Doom:
    """A child that has been told to dump its stacks and is killed unless it recovers within the moment that takes."""

    verdict: Verdict
    task_no: int
    kill_at_ns: int


@dataclass
class WorkerHandle:
    """One child: a worker or another role."""

    name: str
    role: str
    slot: Slot
    wanted: Binding = ()                # what the next process is bound to
    binding: Binding = ()               # what the present one is bound to
    state: WorkerState = WorkerState.STOPPED
    child: Child | None = None          # the process, until it is reaped
    started_ns: int = 0
    next_start_ns: int = 0
    kill_at_ns: int = 0                 # STOPPING: the limit of its drain
    killed_for: str = ""                # why we killed it, for the log
    at_deadline: bool = False           # ... because of a task's hard deadline
    doom: Doom | None = None
    restarts: int = 0                   # starts that followed an end which nobody had asked for
    starts: int = 0
    recycled: int = 0                   # starts that followed a recycling as configured
    retire_ns: int = 0                  # since when it is allowed to go and be recycled; 0 when its successor runs
    history: History = field(default_factory=History)
    progress: Progress = field(default_factory=lambda: Progress(0, 0))
    done_before: int = 0                # tasks that earlier processes of it have done
    failed_before: int = 0
    deaths: tuple[tuple[int, bool], ...] = ()   # the last ones: when (ns), and with a task in hand?
    held_up_ns: int = 0                 # when its interpreter was last seen to stand still, with several tasks in hand
    note: str = ""                      # its last trouble, for people

    @property
    def alive(self) -> bool:
        """Whether there is a process that has not been reaped."""
        return self.state in ALIVE

    @property
    def partitions(self) -> tuple[int, ...]:
        """The partitions of the present process, or of the next when there is none."""
        return tuple(p for p, _ in (self.binding if self.alive else self.wanted))

    def move(self, new: WorkerState) -> None:
        """Change the state along the diagram of yadtqd.worker_state."""
        self.state = move(self.state, new)
