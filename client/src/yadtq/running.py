"""What a handler can know of the attempt that runs it, and what a worker raises inside it.

    from yadtq import current_task, task

    @task
    def import_rows(rows: list[list[str]]) -> int:
        for row in rows:
            current_task().raise_if_cancelled()
            ...

Owns the variable in which a worker notes what it runs: one value per thread and per asyncio task. Never talks to
anything: the flag is set by the worker, which looks at Redis for all of its tasks together.
"""
from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from yadtq.task import TaskMessage


class Interrupted(BaseException):
    """Raised inside a running handler to end it; no Exception, so that `except Exception` lets it pass."""


class SoftTimeout(Interrupted):
    """The handler ran past its soft time-out. Catch it to clean up, within the task's `grace_s`.

    Example:
        >>> try:
        ...     convert(path)
        ... except (SoftTimeout, Cancelled):
        ...     path.unlink(missing_ok=True)
        ...     raise
    """


class Cancelled(Interrupted):
    """The task was cancelled while its handler ran. Catch it to clean up, within the task's `grace_s`.

    Example:
        >>> try:
        ...     convert(path)
        ... except Cancelled:
        ...     path.unlink(missing_ok=True)
        ...     raise
    """


class InHand(Protocol):
    """What a worker keeps of a task that it runs."""

    @property
    def message(self) -> TaskMessage:
        """The message of the attempt."""

    @property
    def cancelled(self) -> bool:
        """Whether a cancel is known to have been asked for since it began."""


class CurrentTask:
    """The attempt that a handler runs in. Outside of a worker, where a handler is an ordinary function, `id` is "" and
    nobody cancels it.

    Example:
        >>> current_task().id, current_task().name, current_task().cancel_requested
        ('0198c5d2-9f6a-7b3c-8d4e-5f6071829304', 'import_rows', False)
    """

    __slots__ = ("_held",)

    def __init__(self, held: InHand | None) -> None:
        self._held = held

    @property
    def id(self) -> str:
        """The task's id; "" outside of a worker."""
        return self._held.message.id if self._held else ""

    @property
    def name(self) -> str:
        """The name of the task type."""
        return self._held.message.task if self._held else ""

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 0."""
        return self._held.message.n if self._held else 0

    @property
    def group(self) -> str | None:
        """The label it was submitted with."""
        return self._held.message.group if self._held else None

    @property
    def cancel_requested(self) -> bool:
        """Whether the task was cancelled since it began; known about half a second after it."""
        return self._held is not None and self._held.cancelled

    def raise_if_cancelled(self) -> None:
        """Raises Cancelled if the task was cancelled: the way out for handlers in a pool of threads.

        Example:
            >>> for row in rows:
            ...     current_task().raise_if_cancelled()
            ...     store(row)
        """
        if self.cancel_requested:
            raise Cancelled


_running: ContextVar[InHand | None] = ContextVar("yadtq_running", default=None)
enter = _running.set                    # (InHand): a worker is about to run its handler here. -> for `leave`
leave = _running.reset                  # it has ended, and this thread goes on with something else than tasks


def current_task() -> CurrentTask:
    """The task whose handler calls this. A thread that the handler starts does not know it: hand the object over.

    Example:
        >>> current_task().id
        '0198c5d2-9f6a-7b3c-8d4e-5f6071829304'
    """
    return CurrentTask(_running.get())
