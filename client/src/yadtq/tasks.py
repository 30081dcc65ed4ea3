"""Declaring task types: the `@task` decorator, and what is known of a task type.

Owns the declarations of this process (`declared`). Runs wherever a module with tasks is imported: in a worker that runs
them, and in an application that only wants to name them, which is why it is part of the client distribution. It never
runs a task, never wraps a handler (calling a decorated function is calling the function), and imports nothing but the
standard library, `yadtq.errors` and `yadtq.sizes`.

    from yadtq.tasks import task

    @task
    def shout(text: str) -> str:
        return text.upper() + "!"

    @task("report.monthly", timeout_s=600, isolated=True)
    async def report(year: int, month: int) -> bytes: ...

What a worker imports is said by the setting `tasks = ["package.module"]`.
"""
from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeVar, overload

from yadtq.errors import InvalidTaskType, TaskArgumentError
from yadtq.sizes import parse_size, size_text

__all__ = ["TaskType", "declared", "name_of", "refused_arguments", "task"]

MAX_NAME_LENGTH = 128  # characters; a name travels with every task and is part of keys and log lines
LEAST_MEMORY = 64 << 20  # bytes of `memory_limit`: about what the process of an attempt begins with
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]*")

# Any callable, so that type checkers see the decorated function exactly as it was written, overloads and all.
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class TaskType:
    """What is known of a task type: its name, the function that runs it, and how it wants to be run.

    `None` means the setting of the worker (`task_timeout`, `task_timeout_grace_s`, `task_max_retries`, `retry_*`).
    """

    name: str
    handler: Callable[..., Any]
    kind: Literal["sync", "async"]
    module: str
    timeout_s: float | None = None             # soft time-out: the handler is interrupted
    grace_s: float | None = None               # after it, the hard one: the process is killed
    isolated: bool = False                     # a process of its own for each attempt
    memory_limit: int | None = None            # bytes of data the isolated process may take
    max_retries: int | None = None             # None: the installation's (task_max_retries)
    retry_on: tuple[type[BaseException], ...] = ()   # empty: on every error that is worth a retry
    give_up_on: tuple[type[BaseException], ...] = ()     # but never on these
    retry_backoff_s: float | None = None       # before the first retry, doubled for each later one
    retry_backoff_max_s: float | None = None
    retry_jitter: float | None = None          # 0 to 1: the part of a wait that is random


_declared: dict[str, TaskType] = {}


def declared() -> Mapping[str, TaskType]:
    """Every task type declared in this process so far, by name (a view that can't be changed)."""
    return MappingProxyType(_declared)


@overload
def task(function: F, /) -> F: ...


@overload
def task(
    name: str | None = None, /, *, timeout_s: float | None = None, grace_s: float | None = None, isolated: bool = False,
    memory_limit: int | str | None = None, max_retries: int | None = None, retry_on: Sequence[type[BaseException]] = (),
    give_up_on: Sequence[type[BaseException]] = (), retry_backoff_s: float | None = None,
    retry_backoff_max_s: float | None = None, retry_jitter: float | None = None,
) -> Callable[[F], F]: ...


@overload
def task(
    *, name: str, timeout_s: float | None = None, grace_s: float | None = None, isolated: bool = False,
    memory_limit: int | str | None = None, max_retries: int | None = None, retry_on: Sequence[type[BaseException]] = (),
    give_up_on: Sequence[type[BaseException]] = (), retry_backoff_s: float | None = None,
    retry_backoff_max_s: float | None = None, retry_jitter: float | None = None,
) -> Callable[[F], F]: ...


def task(target: Any = None, /, *, name: str | None = None, **options: Any) -> Any:
    """Declare a function as the handler of a task type; the function itself is returned, unchanged to call.

    `name` is what clients submit; it defaults to the function's own name *without* its module, so that a module can be
    moved while tasks are queued. Two functions with one name are refused.

    `timeout_s` and `grace_s` (seconds) replace the worker's `task_timeout` and `task_timeout_grace_s`. `isolated=True`
    runs each attempt in a process of its own, which `memory_limit` (bytes, or a text such as "512M") can bound.

    `max_retries` says how often a failed attempt is repeated; `retry_on` on which exceptions only, `give_up_on` on
    which never. The n-th retry waits `retry_backoff_s * 2**n` seconds (n from 0), at most `retry_backoff_max_s`, less
    up to `retry_jitter` (0 to 1) of it at random. See "Retries" in docs/tasks.md.

    Raises InvalidTaskType, when the module is imported, for a declaration that can't work.

        @task
        def double(x: int) -> int:
            return 2 * x

        @task("mail.send", timeout_s=60, max_retries=5, retry_on=[ConnectionError])
        def send(to: str, text: str) -> None: ...
    """
    if target is not None and not isinstance(target, str):
        if name is not None or options:
            raise InvalidTaskType("@task: a name and options go in parentheses above the function: @task('name', ...)")
        return _declare(target, None, {})
    if target is not None and name is not None:
        raise InvalidTaskType(f"@task: two names, {target!r} and {name!r}")
    chosen = name if target is None else target
    return lambda function: _declare(function, chosen, options)


def _declare(function: F, name: str | None, options: dict[str, Any]) -> F:
    if not inspect.isfunction(function):
        raise InvalidTaskType(f"@task: {function!r} is not a function written with def or async def")
    chosen = function.__name__ if name is None else name
    label = f"@task {str(chosen)[:MAX_NAME_LENGTH]!r} ({function.__module__}.{function.__qualname__})"
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidTaskType(f"{label}: a generator can't be a handler, since a task has one result; return a list")
    if not isinstance(chosen, str) or len(chosen) > MAX_NAME_LENGTH or not _NAME.fullmatch(chosen):
        raise InvalidTaskType(f"{label}: a name begins with a letter, is made of letters, digits and _ . : - "
                              f"and is at most {MAX_NAME_LENGTH} characters long")
    declaration = TaskType(
        name=chosen, handler=function, module=function.__module__,
        kind="async" if inspect.iscoroutinefunction(function) else "sync", **_checked_options(label, options),
    )
    _add(label, declaration)
    function.__yadtq__ = declaration  # type: ignore[attr-defined]  # how a registry finds it in a module
    return function


def _checked_options(label: str, options: dict[str, Any]) -> dict[str, Any]:
    checked = {}
    for option, value in options.items():
        check = _OPTIONS.get(option)
        if check is None:
            raise InvalidTaskType(f"{label}: there is no option {option!r}; there are {', '.join(sorted(_OPTIONS))}")
        wanted, holds = check
        if not holds(value):
            raise InvalidTaskType(f"{label}: {option} must be {wanted}, not {value!r}")
        checked[option] = value
    if checked.get("memory_limit") is not None:
        if not checked.get("isolated"):
            raise InvalidTaskType(f"{label}: memory_limit needs isolated=True, since only a process can be limited")
        checked["memory_limit"] = _memory_limit(label, checked["memory_limit"])
    for option in ("retry_on", "give_up_on"):
        if option in checked:
            checked[option] = tuple(checked[option])
            if checked[option] and checked.get("max_retries") is None:
                raise InvalidTaskType(f"{label}: {option} needs max_retries (0: only submissions that ask for retries)")
    return checked


def _memory_limit(label: str, value: int | str) -> int:
    try:
        size = parse_size(value)
    except ValueError as wrong:
        raise InvalidTaskType(f"{label}: memory_limit {value!r}: {wrong}") from None
    if size < LEAST_MEMORY:
        raise InvalidTaskType(f"{label}: memory_limit must be at least {size_text(LEAST_MEMORY)}, not {value!r}: the "
                              "interpreter and the modules, with which the process begins, count")
    return size


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _are_exceptions(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(e, type) and issubclass(e, BaseException) for e in value)


_OPTIONS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "timeout_s": ("a number of seconds above 0", lambda v: v is None or (_is_number(v) and v > 0)),
    "grace_s": ("a number of seconds, 0 or more", lambda v: v is None or (_is_number(v) and v >= 0)),
    "isolated": ("True or False", lambda v: isinstance(v, bool)),
    "memory_limit": ("a number of bytes or a text such as \"512M\"",
                     lambda v: v is None or isinstance(v, str) or _is_count(v, 0)),
    "max_retries": ("a whole number, 0 or more", lambda v: v is None or _is_count(v, 0)),
    "retry_on": ("a list or tuple of exception classes", _are_exceptions),
    "give_up_on": ("a list or tuple of exception classes", _are_exceptions),
    "retry_backoff_s": ("a number of seconds, 0 or more", lambda v: v is None or (_is_number(v) and v >= 0)),
    "retry_backoff_max_s": ("a number of seconds, 0 or more", lambda v: v is None or (_is_number(v) and v >= 0)),
    "retry_jitter": ("a number from 0 to 1", lambda v: v is None or (_is_number(v) and 0 <= v <= 1)),
}


def _add(label: str, new: TaskType) -> None:
    old = _declared.get(new.name)
    if old is not None and not same_function(old.handler, new.handler):
        raise InvalidTaskType(f"{label}: the name is taken by {old.module}.{old.handler.__qualname__}; "
                              "give one of them another name")
    _declared[new.name] = new


def same_function(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether two function objects come from one definition.

    A module that is run as a program and imported as well is executed twice, and so is a reloaded one; and in
    `__main__` (an interpreter, a notebook) a function is redefined at will. None of these is a clash of names.
    """
    if one is other:
        return True
    if one.__qualname__ != other.__qualname__:
        return False
    if one.__module__ == other.__module__ == "__main__":
        return True
    a, b = one.__code__, other.__code__
    return (a.co_filename, a.co_firstlineno) == (b.co_filename, b.co_firstlineno)


def name_of(target: str | Callable[..., Any]) -> str:
    """The name of a task type, given the name itself or the decorated function.

        name_of("addition") == "addition"

    Raises InvalidTaskType for a function that is not declared with `@task`.
    """
    if isinstance(target, str):
        return target
    declaration = getattr(target, "__yadtq__", None)
    if not isinstance(declaration, TaskType):
        raise InvalidTaskType(f"{target!r} is neither the name of a task type nor a function declared with @task")
    return declaration.name


def refused_arguments(
    task_type: TaskType, error: TypeError, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> TaskArgumentError | None:
    """What to say when calling the handler raised `error` because the arguments don't fit its signature.

    None when the handler was entered, and the error is its own. Called after the fact: a good call pays nothing.
    """
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is task_type.handler.__code__:
            return None
        trace = trace.tb_next
    signature = inspect.signature(task_type.handler)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as mismatch:
        takes = signature.replace(return_annotation=inspect.Signature.empty)
        return TaskArgumentError(f"{task_type.name}: {mismatch}; it is called as {task_type.name}{takes}")
    return None
