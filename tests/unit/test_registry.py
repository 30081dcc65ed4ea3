"""Shows how a worker finds handlers, and what it says about modules that it can't use."""
from __future__ import annotations

import subprocess
import sys
import textwrap
import uuid

import pytest

from yadtq import tasks
from yadtq.errors import TaskNotRegistered, WorkerInitializationFailed
from yadtqd import registry
from yadtqd.tasks.arithmetic import addition

SHIPPED = ["addition", "division", "matrix_addition", "matrix_multiplication", "multiplication", "power", "root",
           "subtraction"]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of a name of its own and gives the name; all is taken back afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(tasks, "_declared", dict(tasks._declared))
    before = set(sys.modules)

    def write(source: str, name: str | None = None) -> str:
        name = name or f"m{uuid.uuid4().hex}"
        path = tmp_path / (name.replace(".", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("from yadtq.tasks import task\n" + textwrap.dedent(source))
        return name

    yield write
    for name in set(sys.modules) - before:
        if name.split(".")[0].startswith("m"):
            del sys.modules[name]


def test_shipped_task_types_are_always_there():
    found = registry.load()
    assert list(found) == SHIPPED
    assert len(found) == 8
    assert found.get("addition").handler is addition
    assert "addition" in found
    assert "nothing" not in found


def test_tasks_of_a_module_are_found_and_those_of_others_are_not(module):
    mine = module("@task\ndef mine(): return 1\n@task('second.name')\nasync def other(): ...")
    module("@task\ndef not_mine(): ...")
    found = registry.load([mine])
    assert set(found) == {*SHIPPED, "mine", "second.name"}
    assert found.get("mine").handler() == 1
    assert list(registry.load()) == SHIPPED


def test_a_package_offers_its_submodules_and_what_it_imports(module):
    package = f"m{uuid.uuid4().hex}"
    elsewhere = module("@task\ndef from_elsewhere(): ...\n@task\ndef not_imported(): ...")
    module("@task\ndef in_submodule(): ...", f"{package}.inner")
    module(f"from . import inner\nfrom {elsewhere} import from_elsewhere", f"{package}.__init__")
    assert set(registry.load([package])) == {*SHIPPED, "in_submodule", "from_elsewhere"}


def test_a_module_named_twice_or_one_that_imports_a_shipped_task_is_no_clash(module):
    mine = module("from yadtqd.tasks.arithmetic import addition\n@task\ndef mine(): ...")
    assert set(registry.load([mine, mine])) == {*SHIPPED, "mine"}


def test_an_unknown_task_type_is_answered_with_names_that_are_alike():
    found = registry.load()
    with pytest.raises(TaskNotRegistered, match=r"'additon' is registered.*did you mean addition"):
        found.get("additon")
    with pytest.raises(TaskNotRegistered, match="does the setting 'tasks' name its module"):
        found.get("zzz")
    with pytest.raises(TaskNotRegistered) as caught:
        found.get("x" * 1_000_000)
    assert len(caught.value.message) < 250


@pytest.mark.parametrize(("source", "words"), [
    ("raise ValueError('no license')", r"ValueError: no license \(.*\.py:2\)"),
    ("import sys\nsys.exit(3)", r"SystemExit: 3 \(.*:3\)"),
    ("import no_such_module_of_mine", r"ModuleNotFoundError: No module named 'no_such_module_of_mine' \(.*:2\)"),
    ("def broken(:", "SyntaxError"),
    ("@task(timeout_s=-1)\ndef f(): ...", r"INVALID_TASK_TYPE: .*timeout_s"),
    ("@task\ndef f(): ...\n@task\ndef f(): ...", "INVALID_TASK_TYPE: .*the name is taken"),
    ("@task\ndef addition(a, b): ...", r"INVALID_TASK_TYPE: .*taken by yadtqd.tasks.arithmetic.addition"),
    ("def f(): ...", "declares no task type"),
])
def test_a_module_that_cannot_be_used_says_why(module, source, words):
    name = module(source)
    with pytest.raises(WorkerInitializationFailed, match=words) as caught:
        registry.load([name])
    assert caught.value.code == "WORKER_INITIALIZATION_FAILED"
    assert name in caught.value.message


def test_two_modules_with_one_name_for_two_functions(module):
    one, two = module("@task('same')\ndef f(): ..."), module("@task('same')\ndef g(): ...")
    with pytest.raises(WorkerInitializationFailed, match=f"{two}.*taken by {one}.f"):
        registry.load([one, two])


@pytest.mark.parametrize(("name", "words"), [
    ("no_such_module_of_mine", "there is no module 'no_such_module_of_mine' in the environment of yadtqd"),
    ("yadtqd.no_such", "there is no module 'yadtqd.no_such'"),
    ("no_such_package.inner", "there is no module 'no_such_package'"),
    ("tasks/mine.py", "not the name of a module"),
    ("", "not the name of a module"),
    (".relative", "not the name of a module"),
])
def test_a_module_that_is_not_there(name, words):
    with pytest.raises(WorkerInitializationFailed, match=words):
        registry.load([name])


def test_the_client_distribution_declares_without_the_daemon_and_imports_no_library():
    code = ("import sys; before = set(sys.modules); import yadtq.errors, yadtq.tasks\n"
            "new = {name.split('.')[0] for name in set(sys.modules) - before} - {'yadtq'}\n"
            "assert new <= set(sys.stdlib_module_names), new")
    path = tasks.__file__.rsplit("/yadtq/", 1)[0]
    # yadtq/__init__ is the client's own matter: here the module is loaded from a package without one.
    code = ("import sys, types; package = sys.modules['yadtq'] = types.ModuleType('yadtq')\n"
            f"package.__path__ = ['{path}/yadtq']\n{code}")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
