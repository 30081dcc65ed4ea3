"""YADTQ: a distributed task queue on Kafka and Redis that loses nothing; this is what applications import.

    from yadtq import YADTQClient

    with YADTQClient() as client:
        task_id = client.submit_task("addition", args=[1, 2])
        print(client.get_result(task_id, timeout=10))       # 3

Names are loaded when first used, so that importing yadtq (which every worker and command does) is quick and pulls in
neither Kafka's nor Redis's library.
"""
from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yadtq import errors as errors
    from yadtq.aio import AsyncWorkerMonitor, AsyncYADTQClient
    from yadtq.attempts import Attempt
    from yadtq.cancelling import CancelAnswer, CancelReport
    from yadtq.client import YADTQClient
    from yadtq.config import Settings
    from yadtq.dead_letters import DeadLetter, ReplayReport
    from yadtq.errors import (
        ArgumentNotEncodable,
        BackendLost,
        BacklogFull,
        BatchRefused,
        ClientClosed,
        ConfigurationError,
        DeadLetterNotFound,
        InvalidTask,
        KafkaConnectionError,
        PayloadTooLarge,
        QueueFull,
        RedisConnectionError,
        ResultTimeout,
        Retry,
        TaskCancelled,
        TaskFailed,
        TaskNotFound,
        TaskSubmissionTimeout,
        TaskTimeout,
        YADTQError,
    )
    from yadtq.health import WorkerHealth, WorkersHealth
    from yadtq.monitor import ChangeKind, WorkerChange, WorkerMonitor
    from yadtq.results import TaskOutcome
    from yadtq.running import Cancelled, CurrentTask, SoftTimeout, current_task
    from yadtq.submission import TaskSpec
    from yadtq.task import TaskError, TaskRecord, TaskStatus
    from yadtq.tasks import task

_HOME = {
    "AsyncWorkerMonitor": "aio", "AsyncYADTQClient": "aio", "Attempt": "attempts", "CancelAnswer": "cancelling",
    "CancelReport": "cancelling", "ChangeKind": "monitor", "DeadLetter": "dead_letters",
    "ReplayReport": "dead_letters", "Settings": "config",
    "TaskError": "task", "TaskOutcome": "results", "TaskRecord": "task", "TaskSpec": "submission",
    "TaskStatus": "task", "WorkerChange": "monitor", "WorkerHealth": "health", "WorkerMonitor": "monitor",
    "WorkersHealth": "health", "YADTQClient": "client", "task": "tasks",
    "Cancelled": "running", "CurrentTask": "running", "SoftTimeout": "running", "current_task": "running",
}

__all__ = [
    "ArgumentNotEncodable",
    "AsyncWorkerMonitor",
    "AsyncYADTQClient",
    "Attempt",
    "BackendLost",
    "BacklogFull",
    "BatchRefused",
    "CancelAnswer",
    "CancelReport",
    "Cancelled",
    "ChangeKind",
    "ClientClosed",
    "ConfigurationError",
    "CurrentTask",
    "DeadLetter",
    "DeadLetterNotFound",
    "InvalidTask",
    "KafkaConnectionError",
    "PayloadTooLarge",
    "QueueFull",
    "RedisConnectionError",
    "ReplayReport",
    "ResultTimeout",
    "Retry",
    "Settings",
    "SoftTimeout",
    "TaskCancelled",
    "TaskError",
    "TaskFailed",
    "TaskNotFound",
    "TaskOutcome",
    "TaskRecord",
    "TaskSpec",
    "TaskStatus",
    "TaskSubmissionTimeout",
    "TaskTimeout",
    "WorkerChange",
    "WorkerHealth",
    "WorkerMonitor",
    "WorkersHealth",
    "YADTQClient",
    "YADTQError",
    "__version__",
    "current_task",
    "errors",
    "task",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'yadtq' has no attribute {name!r}")
    home = import_module(f"yadtq.{_HOME.get(name, 'errors')}")
    value = globals()[name] = home if name == "errors" else getattr(home, name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps `yadtq.task` the decorator: importing the module of that name would otherwise put itself in its place."""

    def __setattr__(self, name: str, value: object) -> None:
        if name != "task" or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
