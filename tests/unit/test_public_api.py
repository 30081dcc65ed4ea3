"""What applications import: complete, documented with examples, quick to import, the same for asyncio."""
from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import yadtq
from yadtq import AsyncYADTQClient, YADTQClient, errors
from yadtq.aio import AsyncWorkerMonitor
from yadtq.errors import YADTQError
from yadtq.monitor import WorkerMonitor
from yadtq.results import TaskOutcome
from yadtq.testing import AsyncInMemoryYADTQ, InMemoryYADTQ

FRONTS = (YADTQClient, AsyncYADTQClient)


def public(kind: type) -> dict[str, object]:
    """Its public members, those of its bases too, as far as they are ours."""
    bases = [base for base in reversed(kind.__mro__) if base.__module__.startswith("yadtq")]
    return {name: member for base in bases for name, member in vars(base).items() if not name.startswith("_")}


def signature(function: object) -> inspect.Signature:
    return inspect.signature(function)  # type: ignore[arg-type]


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout


def test_every_name_is_there_and_listed():
    for name in yadtq.__all__:
        assert getattr(yadtq, name) is not None
    assert set(yadtq.__all__) <= set(dir(yadtq))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = yadtq.no_such_name


def test_the_two_fronts_have_the_same_methods_and_parameters():
    sync, asynchronous = (public(kind) for kind in FRONTS)
    assert sync.keys() == asynchronous.keys()
    for name in (*sync, "__init__"):
        mine, theirs = (getattr(kind, name) for kind in FRONTS)
        if isinstance(mine, property):
            assert isinstance(theirs, property)
            continue
        ours, others = (list(signature(one).parameters.values()) for one in (mine, theirs))
        assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in others], name


def test_the_asynchronous_front_waits_where_the_other_blocks():
    for name, method in public(AsyncYADTQClient).items():
        if isinstance(method, property) or name in ("get_all_tasks", "get_tasks_by_status"):
            continue
        assert inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method), name


@pytest.mark.parametrize("name", [name for name in yadtq.__all__ if name not in ("__version__", "errors")])
def test_every_public_name_has_a_docstring_with_an_example(name):
    value = getattr(yadtq, name)
    documented = inspect.getdoc(value)
    assert documented, name
    if not (isinstance(value, type) and issubclass(value, YADTQError)):     # an error's docstring is its message
        assert ">>>" in documented or "    @task" in documented or "entry:" in documented, name


@pytest.mark.parametrize("kind", [*FRONTS, WorkerMonitor, AsyncWorkerMonitor, TaskOutcome, InMemoryYADTQ,
                                  AsyncInMemoryYADTQ])
def test_every_method_of_a_client_has_a_docstring_and_those_of_the_fronts_an_example(kind):
    for name, member in public(kind).items():
        if not callable(member) and not isinstance(member, property):
            continue
        documented = inspect.getdoc(member)
        assert documented, f"{kind.__name__}.{name}"
        if issubclass(kind, FRONTS):
            assert "Example:" in documented, f"{kind.__name__}.{name}"
            assert ">>>" in documented, f"{kind.__name__}.{name}"


def test_every_error_has_a_code_and_a_message():
    for name in dir(errors):
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, YADTQError):
            assert errors.by_code(kind.code) is kind
            assert kind().message


def test_importing_loads_no_library_and_starts_no_thread():
    code = "import sys, threading, yadtq; from yadtq import task, TaskStatus; " \
           "print([m for m in ('kafka', 'confluent_kafka', 'redis', 'numpy', 'click', 'rich', 'asyncio') " \
           "if m in sys.modules], threading.active_count())"
    assert run(code) == "[] 1\n"


def test_the_decorator_keeps_its_name_whatever_is_imported_first():
    then = ("from yadtq import task\nimport yadtq\nfrom yadtq.task import TaskStatus\n"
            "print(task.__module__, yadtq.task is task, yadtq.TaskStatus is TaskStatus)")
    for first in ("import yadtq.task", "from yadtq.task import TaskMessage", "from yadtq import YADTQClient", "pass"):
        assert run(f"{first}\n{then}") == "yadtq.tasks True True\n"


def test_a_checkout_answers_from_client_import():
    import client
    assert client.YADTQClient is YADTQClient
