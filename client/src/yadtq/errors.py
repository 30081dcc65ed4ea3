"""Every error of YADTQ, each with its code; used by the client library, the daemon and the command lines alike.

Owns the codes. A class's docstring is its default message. `code` is what appears in logs, in Redis records and at the
client; `retryable` says whether the same call may succeed later without anybody changing anything. Imports nothing but
the standard library, so that the supervisor can use it.
"""
from __future__ import annotations

from typing import Any, ClassVar

_BY_CODE: dict[str, type[YADTQError]] = {}


class YADTQError(Exception):
    """Something went wrong in YADTQ."""

    code: ClassVar[str] = "YADTQ_ERROR"
    retryable: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "code" in cls.__dict__:                       # a subclass without a code of its own keeps its parent's name
            _BY_CODE.setdefault(cls.code, cls)           # the first wins: nobody takes over a code of ours

    def __init__(self, message: str | None = None) -> None:
        self.message = message or (self.__doc__ or "").strip().split("\n")[0]
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


_BY_CODE[YADTQError.code] = YADTQError


# ---- what the installation does to us -------------------------------------------------------------------------------
class KafkaConnectionError(YADTQError, ConnectionError):
    """Kafka can't be reached."""

    code = "KAFKA_CONNECTION_ERROR"
    retryable = True


class KafkaRefused(KafkaConnectionError):
    """Kafka answers, but refuses what is asked: no permission, a record or setting that it does not take."""

    code = "KAFKA_REFUSED"
    retryable = False


class TransportClosed(KafkaConnectionError):
    """This producer or consumer was closed, or belongs to the process that this one was forked from."""

    code = "TRANSPORT_CLOSED"
    retryable = False


class UnknownTopic(YADTQError, LookupError):
    """The topic, or this partition of it, does not exist."""

    code = "UNKNOWN_TOPIC"


class OffsetOutOfRange(YADTQError, LookupError):
    """The records at this offset are gone: the log begins later (or ends earlier) than where reading was to start."""

    code = "OFFSET_OUT_OF_RANGE"

    def __init__(self, message: str | None = None, partition: int = -1, earliest: int = 0) -> None:
        super().__init__(message)
        self.partition, self.earliest = partition, earliest


class RedisConnectionError(YADTQError, ConnectionError):
    """Redis can't be reached."""

    code = "REDIS_CONNECTION_ERROR"
    retryable = True


class RedisRefused(RedisConnectionError):
    """Redis refuses this user, password or database, or is too old; trying again changes nothing."""

    code = "REDIS_REFUSED"
    retryable = False


class BackendDamaged(YADTQError):
    """A key of YADTQ in Redis holds something else than it should; somebody wrote there."""

    code = "BACKEND_DAMAGED"


class BackendLost(YADTQError):
    """Redis was replaced by an empty one: what it knew of this task is gone."""

    code = "BACKEND_LOST"


class TooFewPartitions(YADTQError):
    """The task topic has fewer partitions than were asked for."""

    code = "TOO_FEW_PARTITIONS"


class ConfigurationError(YADTQError, ValueError):
    """The configuration is not valid."""

    code = "CONFIGURATION_ERROR"


class InvalidTaskType(ConfigurationError):
    """A task type is declared in a way that can't work."""

    code = "INVALID_TASK_TYPE"


# ---- submitting -----------------------------------------------------------------------------------------------------
class TaskSubmissionTimeout(YADTQError, TimeoutError):
    """Kafka or Redis did not confirm the submission in time; the task may or may not run (its id is kept)."""

    code = "TASK_SUBMISSION_TIMEOUT"
    retryable = True

    def __init__(self, message: str | None = None, task_ids: tuple[str, ...] = (), *, ids: tuple[str, ...] = (),
                 not_sent: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.task_ids = task_ids        # outcome unknown: submit them again with these ids, which is harmless
        self.ids = ids or task_ids      # of the whole batch, in order
        self.not_sent = not_sent        # those of `ids` that were certainly not sent


class InvalidTask(YADTQError, ValueError):
    """The task can't be submitted as it was given."""

    code = "INVALID_TASK"


class ArgumentNotEncodable(InvalidTask, TypeError):
    """An argument can't be encoded; `path` says which."""

    code = "ARGUMENT_NOT_ENCODABLE"

    def __init__(self, message: str | None = None, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class PayloadTooLarge(InvalidTask):
    """A task or its result is larger than the limit."""

    code = "PAYLOAD_TOO_LARGE"

    def __init__(self, message: str | None = None, size: int = 0, limit: int = 0) -> None:
        super().__init__(message)
        self.size, self.limit = size, limit


class BacklogFull(YADTQError):
    """Too many submissions are under way in this client."""

    code = "BACKLOG_FULL"
    retryable = True


class QueueFull(BacklogFull):
    """Too many tasks are queued; `waiting` of them, where `limit` are allowed, and `count` more were to come."""

    code = "QUEUE_FULL"

    def __init__(self, message: str | None = None, *, waiting: int = 0, limit: int = 0, count: int = 1) -> None:
        super().__init__(message)
        self.waiting, self.limit, self.count = waiting, limit, count


class BatchRefused(YADTQError):
    """Some entries of a batch were not submitted; `refused` maps index to error, `ids` has the accepted ids."""

    code = "BATCH_REFUSED"

    def __init__(self, message: str | None = None, ids: tuple[str | None, ...] = (),
                 refused: dict[int, YADTQError] | None = None) -> None:
        super().__init__(message)
        self.ids = ids
        self.refused = refused or {}


class ClientClosed(YADTQError, RuntimeError):
    """The client was closed."""

    code = "CLIENT_CLOSED"


# ---- waiting for an answer ------------------------------------------------------------------------------------------
class TaskNotFound(YADTQError, LookupError):
    """No task with this id is known: it was never submitted, was cleared, or its result has expired."""

    code = "TASK_NOT_FOUND"


class DeadLetterNotFound(YADTQError, LookupError):
    """There is no dead letter of this id: it never died, or its letter was replayed or purged."""

    code = "DEAD_LETTER_NOT_FOUND"


class ResultTimeout(YADTQError, TimeoutError):
    """The task had not ended when the time to wait for it was over; it goes on."""

    code = "RESULT_TIMEOUT"
    retryable = True


class NumpyMissing(YADTQError, ImportError):
    """The value holds a numpy array, and numpy is not installed here: pip install 'yadtq[numpy]'."""

    code = "NUMPY_MISSING"


class ResultNotEncodable(YADTQError, TypeError):
    """The handler returned something that can't be encoded."""

    code = "RESULT_NOT_ENCODABLE"


# ---- how a task ended -----------------------------------------------------------------------------------------------
class TaskFailed(YADTQError):
    """The handler raised an exception.

    At the client, `error_type` is the name of the exception in the worker and `remote_traceback` its traceback as text.
    """

    code = "TASK_FAILED"

    def __init__(self, message: str | None = None, *, task_id: str = "", error_type: str = "",
                 remote_traceback: str = "") -> None:
        super().__init__(message)
        self.task_id, self.error_type, self.remote_traceback = task_id, error_type, remote_traceback


class Retry(TaskFailed):
    """The handler asked to be run again."""

    code = "TASK_RETRY"             # raise Retry("not there yet", delay_s=60); without delay_s the back-off says when

    def __init__(self, message: str | None = None, *, delay_s: float | None = None, **details: str) -> None:
        if delay_s is not None and not 0 <= delay_s < float("inf"):
            raise ValueError(f"delay_s must be a number of seconds, 0 or more, not {delay_s!r}")
        super().__init__(message, **details)
        self.delay_s = delay_s


class TaskNotRegistered(TaskFailed):
    """No handler is registered for this task type on the worker."""

    code = "TASK_NOT_REGISTERED"


class TaskTimeout(TaskFailed):
    """The task ran into its soft time-out."""

    code = "TASK_TIMEOUT"


class TaskHardTimeout(TaskFailed):
    """The task ran past its hard time-out and its worker was killed."""

    code = "TASK_HARD_TIMEOUT"


class TaskMemoryLimit(TaskFailed):
    """The task ran into the memory limit of its task type."""

    code = "TASK_MEMORY_LIMIT"


class TaskExpired(TaskFailed):
    """The task was not started before the time at which it expires."""

    code = "TASK_EXPIRED"


class TaskCancelled(TaskFailed):
    """The task was cancelled."""

    code = "TASK_CANCELLED"


class TaskCrashed(TaskFailed):
    """The task killed the process that ran it, more often than is allowed."""

    code = "TASK_CRASHED"


class InvalidMessage(TaskFailed):
    """The record on the task topic is no message of YADTQ, or of a version that is not understood."""

    code = "INVALID_MESSAGE"


class UnsupportedVersion(InvalidMessage):
    """The record was written by a newer YADTQ than this process; it must be upgraded, the record is sound."""

    code = "UNSUPPORTED_VERSION"


class TaskArgumentError(TaskFailed, ValueError):
    """The arguments of the task make no sense to its handler."""

    code = "TASK_ARGUMENT_ERROR"


class OperandCountError(TaskArgumentError):
    """The task type takes another number of operands."""

    code = "OPERAND_COUNT"


class OperandTypeError(TaskArgumentError, TypeError):
    """An operand is not of a kind that the task type can work on."""

    code = "OPERAND_TYPE"


class ShapeMismatch(TaskArgumentError):
    """The shapes of the operands do not fit together."""

    code = "SHAPE_MISMATCH"


class DivisionByZero(TaskArgumentError, ZeroDivisionError):
    """Division by zero."""

    code = "DIVISION_BY_ZERO"


class DomainError(TaskArgumentError, ArithmeticError):
    """The result is not a real number, such as the even root of a negative one."""

    code = "DOMAIN_ERROR"


class ResultOverflow(TaskArgumentError, OverflowError):
    """The result is too large to be computed or stored."""

    code = "RESULT_OVERFLOW"


# ---- the daemon -----------------------------------------------------------------------------------------------------
class WorkerInitializationFailed(YADTQError):
    """A worker could not start."""

    code = "WORKER_INITIALIZATION_FAILED"


class WorkerRecoveryFailed(YADTQError):
    """A worker died again and again; it is left alone until the cool-down is over."""

    code = "WORKER_RECOVERY_FAILED"


class AlreadyRunning(YADTQError):
    """Another yadtqd holds the pid file."""

    code = "ALREADY_RUNNING"


class StaleEpoch(YADTQError):
    """A later epoch owns the partition: this worker has been replaced and stops."""

    code = "STALE_EPOCH"


class KafkaReplaced(YADTQError):
    """Redis belongs to another Kafka than the one that this worker reads: it would refuse everything we do."""

    code = "KAFKA_REPLACED"


# ---- control --------------------------------------------------------------------------------------------------------
class ControlError(YADTQError):
    """The daemon refused the command."""

    code = "CONTROL_ERROR"


class DaemonNotRunning(ControlError, ConnectionError):
    """No yadtqd answers at the control socket."""

    code = "DAEMON_NOT_RUNNING"
    retryable = True


class AccessDenied(ControlError, PermissionError):
    """This user may not use the control socket."""

    code = "ACCESS_DENIED"


class ControlTimeout(ControlError, TimeoutError):
    """The daemon did not answer in time."""

    code = "CONTROL_TIMEOUT"
    retryable = True


class ControlProtocolError(ControlError, ValueError):
    """A frame on the control socket could not be understood."""

    code = "CONTROL_PROTOCOL_ERROR"


def by_code(code: str) -> type[YADTQError] | None:
    """The class that has this code, users' own subclasses of YADTQError included; None when there is none."""
    return _BY_CODE.get(code)


def all_codes() -> dict[str, type[YADTQError]]:
    """Every code and its class."""
    return dict(_BY_CODE)
