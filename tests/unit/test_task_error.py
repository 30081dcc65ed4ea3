"""From a handler's exception to the client's: what is kept, how much of it, and which class comes back."""
from __future__ import annotations

import types
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtq.errors import DivisionByZero, InvalidMessage, ResultNotEncodable, TaskFailed, TaskTimeout
from yadtq.task_error import (
    MAX_MESSAGE_BYTES,
    MAX_TRACEBACK_BYTES,
    TaskError,
    decode_error,
    encode_error,
    from_exception,
    to_exception,
)


def caught(function: Any, *args: Any) -> TaskError:
    try:
        function(*args)
    except BaseException as error:
        return from_exception(error)
    raise AssertionError("nothing was raised")


def raise_(error: BaseException) -> None:
    raise error


def test_an_exception_of_a_handler() -> None:
    error = caught(lambda: {}["x"])
    assert (error.code, error.message, error.error_type, error.retryable) == ("TASK_FAILED", "'x'", "KeyError", False)
    assert 'lambda: {}["x"]' in error.traceback
    assert error.traceback.endswith("KeyError: 'x'\n")


def test_an_error_of_ours_keeps_its_code_and_plain_message() -> None:
    error = caught(raise_, DivisionByZero("5 / 0"))
    assert (error.code, error.message, error.error_type) == ("DIVISION_BY_ZERO", "5 / 0", "yadtq.errors.DivisionByZero")


def test_causes_are_kept() -> None:
    def work() -> None:
        try:
            raise OSError("disk")
        except OSError as error:
            raise ValueError("bad") from error

    assert "OSError: disk" in caught(work).traceback


def test_the_frames_of_yadtqd_are_left_out_and_those_of_its_tasks_are_not() -> None:
    """The handler's caller belongs to yadtqd, whatever the handler itself calls of it stays."""
    worker, tasks, back = map(types.ModuleType, ("yadtqd.processor", "yadtqd.tasks.arithmetic", "yadtqd.x"))
    exec("def in_processor(call, *args): call(*args)", vars(worker))
    exec("def in_handler(call, *args): call(*args)", vars(tasks))
    exec("def in_library(): raise ValueError(1)", vars(back))
    trace = caught(lambda: worker.in_processor(worker.in_processor, tasks.in_handler, back.in_library))
    assert "in_handler" in trace.traceback          # the first frame is this test's lambda: nothing is cut then
    try:
        worker.in_processor(worker.in_processor, tasks.in_handler, back.in_library)
    except ValueError as error:
        error.__traceback__ = error.__traceback__.tb_next if error.__traceback__ else None
        text = from_exception(error).traceback
    assert "in_processor" not in text
    assert text.index("in_handler") < text.index("in_library")


def test_a_traceback_of_yadtqd_alone_is_kept_whole() -> None:
    module = types.ModuleType("yadtqd.processor")
    exec("def run():\n try: 1/0\n except Exception as e: return e", vars(module))
    assert "in run" in from_exception(module.run()).traceback


class Terrible(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [Terrible(), ValueError("\ud800" * 9000), ValueError("€" * 9000), MemoryError(),
                                   KeyboardInterrupt(), SystemExit(3), RecursionError(), ValueError("x\0\x1b"),
                                   ExceptionGroup("g", [ValueError("a"), TypeError("b")])])
def test_any_exception_becomes_a_bounded_error_that_can_be_stored(error: BaseException) -> None:
    kept = caught(raise_, error)
    assert kept.message
    assert len(kept.message.encode()) <= MAX_MESSAGE_BYTES
    assert len(kept.traceback.encode()) <= MAX_TRACEBACK_BYTES
    assert decode_error(encode_error(kept)) == kept


def test_an_endless_recursion_is_kept_short() -> None:
    def deeper(n: int) -> int:
        return deeper(n + 1) + 1

    kept = caught(deeper, 0)
    assert kept.error_type == "RecursionError"
    assert len(kept.traceback.encode()) <= MAX_TRACEBACK_BYTES


def test_of_a_long_traceback_the_beginning_and_the_end_are_kept() -> None:
    kept = caught(raise_, ValueError("x" * 20_000 + "the end"))
    assert kept.traceback.startswith("Traceback (most recent call last)")
    assert "... cut ..." in kept.traceback
    assert kept.traceback.endswith("the end\n")


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_survives_storing(text: str) -> None:
    kept = from_exception(ValueError(text))
    assert decode_error(encode_error(kept)) == kept


# ---- at the client --------------------------------------------------------------------------------------------------
def test_the_client_gets_the_class_of_the_code() -> None:
    error = to_exception(TaskError("TASK_TIMEOUT", "late", "X", "tb"), "id")
    assert type(error) is TaskTimeout
    assert (error.message, error.task_id, error.error_type, error.remote_traceback) == ("late", "id", "X", "tb")


@pytest.mark.parametrize("code", ["SHOP_CLOSED", ResultNotEncodable.code, "KAFKA_CONNECTION_ERROR", ""])
def test_other_codes_become_task_failed_with_that_code(code: str) -> None:
    error = to_exception(TaskError(code, "m"), "id")
    assert type(error) is TaskFailed
    assert (error.code, str(error), TaskFailed.code) == (code, f"{code}: m", "TASK_FAILED")


def test_a_class_with_a_constructor_of_its_own_does_no_harm() -> None:
    class Odd(TaskFailed):
        """Odd."""

        code = "TEST_ODD"

        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} {two}")

    assert to_exception(from_exception(Odd(1, 2)), "id").message == "1 2"
    assert to_exception(from_exception(Odd(1, 2)), "id").code == "TEST_ODD"


# ---- the format -----------------------------------------------------------------------------------------------------
def test_golden_bytes() -> None:
    error = TaskError("C", "m", "T", "tb", True)
    assert encode_error(error).hex() == "97a143a16da154a27462c3c2c400"
    assert decode_error(bytes.fromhex("97a143a16da154a27462c3c2c400")) == error
    dead = TaskError("C", "m", "T", "tb", True, True, b"h")
    assert encode_error(dead).hex() == "97a143a16da154a27462c3c3c40168"
    assert decode_error(msgspec.msgpack.encode(["C", "m"])) == TaskError("C", "m")
    assert decode_error(msgspec.msgpack.encode(["C", "m", "T", "tb", True, False, b"", "later", 1])) == error


@pytest.mark.parametrize("data", [b"", b"\x90", b"\x91" * 50_000, b"\x92\x01\x02", b"text"])
def test_what_is_no_error_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decode_error(data)
