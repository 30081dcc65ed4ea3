"""Which handler runs which task type: the shipped task types, and those of the modules that the setting `tasks` names.

Loaded once by each process that runs tasks (a worker after its fork, the isolator), never by the supervisor, which
imports no task code but the shipped modules. A registry doesn't change once it is loaded. Never runs a handler.
"""
from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType, ModuleType

from yadtq.errors import TaskNotRegistered, WorkerInitializationFailed, YADTQError
from yadtq.tasks import TaskType, declared, same_function

SHIPPED = ("yadtqd.tasks.arithmetic", "yadtqd.tasks.matrix")


class Registry:
    """The task types that a process can run, by name; iterates over the names in order."""

    def __init__(self, task_types: Iterable[TaskType]) -> None:
        found: dict[str, TaskType] = {}
        for task_type in task_types:
            known = found.setdefault(task_type.name, task_type)
            if not same_function(known.handler, task_type.handler):
                raise WorkerInitializationFailed(
                    f"two task types have the name {task_type.name!r}: {_place(known)} and {_place(task_type)}; "
                    "give one of them another name")
        self._by_name: Mapping[str, TaskType] = MappingProxyType(dict(sorted(found.items())))

    def get(self, name: str) -> TaskType:
        """The task type of this name; raises TaskNotRegistered, which lists names that are alike."""
        try:
            return self._by_name[name]
        except KeyError:
            raise TaskNotRegistered(self._not_registered(name)) from None

    def _not_registered(self, name: str) -> str:
        shown = name[:100]  # a name comes from outside, and may be of any length
        alike = difflib.get_close_matches(shown, self._by_name, n=3)
        hint = f"did you mean {' or '.join(alike)}?" if alike else "does the setting 'tasks' name its module?"
        return f"no task type {shown!r} is registered on this worker; {hint}"

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


def load(modules: Sequence[str] = ()) -> Registry:
    """The registry of the shipped task types and of those that `modules` declare or import.

    A module (or package: its submodules count if it imports them) offers what it declares with `@task`, and the
    decorated functions that it imports by name. Raises WorkerInitializationFailed, naming the module, when one can't be
    imported, declares nothing, or declares a name that is taken.
    """
    shipped = [task_type for name in SHIPPED for task_type in _offered(importlib.import_module(name))]
    own = []
    for name in modules:
        offered = _offered(_imported(name))
        if not offered:
            raise WorkerInitializationFailed(f"tasks: the module {name!r} declares no task type (@task of yadtq.tasks)")
        own += offered
    return Registry([*shipped, *own])


def _offered(module: ModuleType) -> list[TaskType]:
    inside = module.__name__ + "."
    found = [t for t in declared().values() if t.module == module.__name__ or t.module.startswith(inside)]
    for value in vars(module).values():
        task_type = getattr(value, "__yadtq__", None) if inspect.isfunction(value) else None
        if isinstance(task_type, TaskType):
            found.append(task_type)
    return found


def _imported(name: str) -> ModuleType:
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise WorkerInitializationFailed(f"tasks: {name!r} is not the name of a module, such as 'package.module'")
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may do anything at import, call sys.exit() too
        reason = _reason(name, error)
        raise WorkerInitializationFailed(f"tasks: the module {name!r} can't be imported: {reason}") from error


def _reason(name: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and (name + ".").startswith(error.name + "."):
        return f"there is no module {error.name!r} in the environment of yadtqd ({sys.prefix}) or on its PYTHONPATH"
    text = str(error) if isinstance(error, YADTQError) else f"{type(error).__name__}: {error}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if not frame.filename.startswith("<frozen ") and frame.filename not in (__file__, importlib.__file__)]
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno})" if frames else text


def _place(task_type: TaskType) -> str:
    return f"{task_type.module}.{task_type.handler.__qualname__}"
