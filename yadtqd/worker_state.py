"""The states of a child and the moves between them, in supervisord's words.

Pure; imports only the standard library. The child writes STARTING, RUNNING and STOPPING into its slot, the rest is
the supervisor's knowledge.

    STOPPED --start--> STARTING --consuming--> RUNNING --stop--> STOPPING --reaped--> STOPPED
                          |                       |
                          +----------died---------+--> BACKOFF --due--> STARTING
                                                  |       |
                          exited as it should --> EXITED  +--too often--> FATAL --cool-down--> STARTING
"""
from __future__ import annotations

from enum import IntEnum


class WorkerState(IntEnum):
    """State of a child; the numbers go into slots, the names into heartbeats, logs and `yadtqctl status`."""

    STOPPED = 0     # not started, or stopped because somebody asked
    STARTING = 1    # forked, not consuming yet
    RUNNING = 2     # consuming (membership: joined; isolator: ready for work)
    BACKOFF = 3     # died; waits for its next start
    STOPPING = 4    # asked to stop, drains
    EXITED = 5      # ended by itself as it should (recycled, stale, lease lost) and starts again as soon as it may
    FATAL = 6       # died too often (WORKER_RECOVERY_FAILED); left alone until the cool-down is over


MOVES: dict[WorkerState, frozenset[WorkerState]] = {
    WorkerState.STOPPED: frozenset({WorkerState.STARTING}),
    WorkerState.STARTING: frozenset({WorkerState.RUNNING, WorkerState.STOPPING, WorkerState.BACKOFF,
                                     WorkerState.EXITED, WorkerState.FATAL}),
    WorkerState.RUNNING: frozenset({WorkerState.STOPPING, WorkerState.BACKOFF, WorkerState.EXITED,
                                    WorkerState.FATAL}),
    WorkerState.BACKOFF: frozenset({WorkerState.STARTING, WorkerState.STOPPED}),
    WorkerState.STOPPING: frozenset({WorkerState.STOPPED}),
    WorkerState.EXITED: frozenset({WorkerState.STARTING, WorkerState.STOPPED}),
    WorkerState.FATAL: frozenset({WorkerState.STARTING, WorkerState.STOPPED}),
}

ALIVE = frozenset({WorkerState.STARTING, WorkerState.RUNNING, WorkerState.STOPPING})


def move(old: WorkerState, new: WorkerState) -> WorkerState:
    """The new state; an AssertionError when the diagram above has no such arrow."""
    assert new in MOVES[old], f"no move from {old.name} to {new.name}"
    return new
