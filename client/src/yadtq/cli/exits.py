"""The exit statuses of `yadtq`, in one place; docs and `yadtq --help` show them. Pure."""
from __future__ import annotations

from yadtq.errors import (
    BackendLost,
    BacklogFull,
    BatchRefused,
    ConfigurationError,
    DeadLetterNotFound,
    InvalidTask,
    KafkaConnectionError,
    RedisConnectionError,
    ResultTimeout,
    TaskFailed,
    TaskNotFound,
    TaskSubmissionTimeout,
    TooFewPartitions,
    YADTQError,
)

OK = 0
TASK_FAILED = 1         # the task ended as FAILED or CANCELLED
USAGE = 2               # wrong usage, or a mistake in the configuration
NOT_FOUND = 3           # no such task is known
TIMEOUT = 4             # no end, or no confirmation, within the time given
UNREACHABLE = 5         # Kafka or Redis can't be reached
REFUSED = 6             # the task can't be submitted as it was given, or the answer to a question was no
OTHER = 7               # any other error
INTERRUPTED = 130       # Ctrl-C

TABLE = (
    (OK, "done"), (TASK_FAILED, "the task failed or was cancelled"), (USAGE, "wrong usage or configuration"),
    (NOT_FOUND, "no such task"), (TIMEOUT, "not done in time"), (UNREACHABLE, "Kafka or Redis can't be reached"),
    (REFUSED, "refused: it can't be submitted so, or you said no"), (OTHER, "any other error"),
    (INTERRUPTED, "interrupted"),
)

_KINDS: tuple[tuple[type[YADTQError], int], ...] = (
    (TaskFailed, TASK_FAILED),
    (ConfigurationError, USAGE),
    (TaskNotFound, NOT_FOUND),
    (BackendLost, NOT_FOUND),
    (DeadLetterNotFound, NOT_FOUND),
    (ResultTimeout, TIMEOUT),
    (TaskSubmissionTimeout, TIMEOUT),
    (KafkaConnectionError, UNREACHABLE),
    (RedisConnectionError, UNREACHABLE),
    (InvalidTask, REFUSED),
    (BatchRefused, REFUSED),
    (BacklogFull, REFUSED),
    (TooFewPartitions, REFUSED),
)


def status_for(error: YADTQError) -> int:
    """The exit status that belongs to an error."""
    return next((status for kind, status in _KINDS if isinstance(error, kind)), OTHER)
