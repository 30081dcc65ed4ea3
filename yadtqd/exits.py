"""Every exit status of YADTQ's daemon and of its children, in one place.

Used by the supervisor (which decides by them), by the children (which end with them) and by the command line. Imports
nothing but the standard library and does nothing.
"""
from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """How a child of the supervisor ended; a death by signal has no status, the supervisor sees the signal."""

    OK = 0                      # it did what it was asked: drained, or had nothing left to do
    CRASHED = 1                 # an exception that nobody caught; its traceback is in the log
    STOP_FATAL_CONFIG = 3       # trying again is useless before somebody changes the configuration
    STALE = 4                   # a later epoch owns the partition: start again at once with a new one
    SOFT_RECYCLE = 5            # after an interrupted handler, which may leave locks broken: start again at once
    LOST_LEASE = 6              # the host's place in the group is not certain any more: wait until it is
    INITIALIZATION_FAILED = 7   # it could not start (WORKER_INITIALIZATION_FAILED): back off and try again
    KAFKA_REPLACED = 8          # Redis belongs to another Kafka: useless before somebody acts; the code in the log
    RECYCLED = 9                # replaced as configured (worker_max_tasks and the like): start again at once


DRAINED = Exit.OK
EXPLAINED = {Exit.KAFKA_REPLACED: "KAFKA_REPLACED: Redis belongs to another Kafka than this one; use an empty Redis "
                                  "database, see docs/errors.md"}


class DaemonExit(IntEnum):
    """Exit status of the command `yadtqd`; docs/yadtqd.md has the table."""

    OK = 0                  # stopped as asked; with --daemon: the daemon is up; with --check-config: it is valid
    FAILED = 1              # an unexpected error, told in the log
    USAGE = 2               # unknown option or bad argument
    CONFIGURATION = 3       # the configuration is not valid, or its folders can't be used
    ALREADY_RUNNING = 4     # another yadtqd holds the pid file
    NOT_UP_IN_TIME = 5      # --daemon: the daemon did not come up in time
    DRAIN_CUT_SHORT = 6     # stopped, but workers had to be killed at the drain limit (their tasks run again elsewhere)
