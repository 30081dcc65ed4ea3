"""Shows the @task decorator: what it notes, what it leaves alone, what it refuses, what type checkers see."""
from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import uuid

import pytest

from yadtq import tasks
from yadtq.errors import ConfigurationError, InvalidTaskType, TaskArgumentError
from yadtq.tasks import TaskType, declared, name_of, refused_arguments, task


@pytest.fixture
def name():
    """A name that no other test has, taken back afterwards."""
    name = f"t{uuid.uuid4().hex}"
    before = set(tasks._declared)
    yield name
    for added in set(tasks._declared) - before:
        del tasks._declared[added]


def test_a_bare_decorator_names_the_task_after_the_function_and_returns_it(name):
    def plain(x: int, *, y: int = 2) -> int:
        """Doc."""
        return x * y

    plain.__name__ = name
    decorated = task(plain)
    assert decorated is plain
    assert decorated(3) == 6
    assert str(inspect.signature(decorated)) == "(x: 'int', *, y: 'int' = 2) -> 'int'"
    assert declared()[name] == decorated.__yadtq__ == TaskType(name, plain, "sync", __name__)


def test_options_are_noted(name):
    @task(name, timeout_s=1.5, grace_s=0, isolated=True, memory_limit=10**8, max_retries=3, retry_on=[OSError])
    def function() -> None: ...

    noted = function.__yadtq__
    assert (noted.timeout_s, noted.grace_s, noted.isolated, noted.memory_limit) == (1.5, 0, True, 10**8)
    assert (noted.max_retries, noted.retry_on) == (3, (OSError,))


def test_the_name_may_be_a_keyword_and_coroutines_are_async(name):
    @task(name=name)
    async def function(x: int) -> int:
        return x

    assert function.__yadtq__.kind == "async"
    assert asyncio.run(function(3)) == 3


def test_empty_parentheses_are_as_none(name):
    def function() -> None: ...

    function.__name__ = name
    assert task()(function).__yadtq__.name == name


@pytest.mark.parametrize(("arguments", "options", "words"), [
    (["1bad"], {}, "a name begins with a letter"),
    (["has space"], {}, "a name begins with a letter"),
    ([""], {}, "a name begins with a letter"),
    (["x" * 129], {}, "at most 128"),
    (["x\n"], {}, "a name begins with a letter"),
    (["one"], {"name": "two"}, "two names"),
    (["x"], {"timeout_s": 0}, "timeout_s must be a number of seconds above 0, not 0"),
    (["x"], {"timeout_s": float("nan")}, "timeout_s"),
    (["x"], {"timeout_s": True}, "timeout_s"),
    (["x"], {"timeout_s": "5"}, "timeout_s"),
    (["x"], {"grace_s": -1}, "grace_s"),
    (["x"], {"isolated": 1}, "isolated must be True or False"),
    (["x"], {"memory_limit": 10}, "memory_limit needs isolated=True"),
    (["x"], {"memory_limit": 0, "isolated": True}, "memory_limit must be"),
    (["x"], {"max_retries": -1}, "max_retries"),
    (["x"], {"max_retries": 1.0}, "max_retries"),
    (["x"], {"max_retries": 1, "retry_on": ["OSError"]}, "retry_on must be a list or tuple of exception classes"),
    (["x"], {"retry_on": [OSError]}, "retry_on needs max_retries"),
    (["x"], {"give_up_on": [OSError]}, "give_up_on needs max_retries"),
    (["x"], {"max_retries": 1, "give_up_on": OSError}, "give_up_on must be a list or tuple of exception classes"),
    (["x"], {"retry_backoff_s": -1}, "retry_backoff_s must be a number of seconds, 0 or more"),
    (["x"], {"retry_backoff_max_s": "1"}, "retry_backoff_max_s"),
    (["x"], {"retry_jitter": 1.5}, "retry_jitter must be a number from 0 to 1"),
    (["x"], {"timeout": 5}, "no option 'timeout'; there are give_up_on, grace_s, isolated"),
])
def test_a_declaration_that_cannot_work_is_refused_at_once(name, arguments, options, words):
    with pytest.raises(InvalidTaskType, match=words) as caught:
        @task(*arguments, **options)
        def function() -> None: ...
    assert isinstance(caught.value, ConfigurationError)
    assert "x" not in declared()


def test_only_functions_with_one_result_can_be_handlers(name):
    def generator():
        yield 1

    async def async_generator():
        yield 1

    for not_one in generator, async_generator:
        with pytest.raises(InvalidTaskType, match="one result"):
            task(name)(not_one)
    for not_a_function in len, int, object(), 5:
        with pytest.raises(InvalidTaskType, match="not a function"):
            task(name)(not_a_function)
    with pytest.raises(InvalidTaskType, match="not a function"):
        task(5)
    with pytest.raises(InvalidTaskType, match="in parentheses"):
        task(generator, timeout_s=5)
    with pytest.raises(InvalidTaskType, match="a name begins"):
        task(lambda: None)


def test_two_functions_of_one_name_are_refused_and_the_first_stays(name):
    @task(name)
    def first() -> None: ...

    with pytest.raises(InvalidTaskType, match=rf"{name}.*taken by .*first"):
        @task(name)
        def second() -> None: ...
    assert declared()[name].handler is first


def test_a_module_that_is_executed_twice_does_not_clash_with_itself(name):
    def define():
        @task(name)
        def function() -> None: ...
        return function

    first, second = define(), define()
    assert first is not second
    assert declared()[name].handler is second


def test_declared_cannot_be_changed():
    with pytest.raises(TypeError):
        declared()["x"] = None  # type: ignore[index]


def test_name_of(name):
    @task(name)
    def function() -> None: ...

    assert name_of(function) == name
    assert name_of("addition") == "addition"
    for wrong in len, None:
        with pytest.raises(InvalidTaskType, match="neither"):
            name_of(wrong)


class TestRefusedArguments:
    @staticmethod
    def refusal(function, *args, **kwargs):
        task_type = TaskType("greet", function, "sync", "m")
        with pytest.raises(TypeError) as caught:
            task_type.handler(*args, **kwargs)
        return refused_arguments(task_type, caught.value, args, kwargs)

    def test_says_what_does_not_fit_and_how_the_task_is_called(self):
        def greet(name: str, *, times: int = 1) -> str:
            return name * times

        for args, kwargs, words in [((), {}, "missing"), (("a", "b"), {}, "too many"), (("a",), {"time": 2}, "'time'")]:
            error = self.refusal(greet, *args, **kwargs)
            assert type(error) is TaskArgumentError
            assert words in error.message
            assert "greet(name: 'str', *, times: 'int' = 1)" in error.message

    def test_a_type_error_of_the_handler_is_its_own(self):
        def greet(name):
            return name + 1

        assert self.refusal(greet, "a") is None

        def calls_wrongly(name):
            return greet(name, name)

        assert self.refusal(calls_wrongly, "a") is None


def test_strict_type_checking_sees_the_function_as_it_was_written(tmp_path):
    module = tmp_path / "uses_task.py"
    module.write_text('''
from typing import assert_type
from yadtq.tasks import task

@task
def bare(x: int) -> str:
    return str(x)

@task("uses.named", timeout_s=5)
def named(x: int, *, y: float = 1.0) -> list[float]:
    return [x * y]

@task(name="uses.coroutine", max_retries=2, retry_on=(OSError, ValueError))
async def coroutine(x: int) -> bytes:
    return bytes(x)

assert_type(bare(3), str)
assert_type(named(3, y=2.0), list[float])

async def use() -> None:
    assert_type(await coroutine(3), bytes)

bare("text")  # wrong
named(3, z=2)  # wrong
task("x", timeout=5)  # wrong
''')
    ran = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(module)],
                         capture_output=True, text=True, timeout=110, check=False)
    found = sorted({int(line.split(":")[1]) for line in ran.stdout.splitlines() if ": error:" in line})
    wrong = [at for at, line in enumerate(module.read_text().splitlines(), 1) if "# wrong" in line]
    assert found == wrong, ran.stdout + ran.stderr
