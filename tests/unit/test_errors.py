"""The error classes: unique codes, all documented, and whole again after pickle, copy and a way through Redis."""
from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from yadtq import errors
from yadtq.errors import TaskFailed, YADTQError, all_codes, by_code

OURS = {code: kind for code, kind in all_codes().items() if kind.__module__ == "yadtq.errors"}
ROW = re.compile(r"^\| `([A-Z_]+)` \| (yes|no) \| [^|]+ \| [^|]+ \|$", re.MULTILINE)
DOCUMENTED = {code: retry == "yes" for code, retry in
              ROW.findall((Path(__file__).parents[2] / "docs" / "errors.md").read_text())}


def examples() -> list[YADTQError]:
    made: list[YADTQError] = [
        errors.TaskSubmissionTimeout("m", task_ids=("a", "b")), errors.ArgumentNotEncodable("m", path="args[0]"),
        errors.PayloadTooLarge("m", size=2, limit=1), errors.OffsetOutOfRange("m", 3, 17),
        errors.BatchRefused("m", ids=("a", None), refused={1: errors.PayloadTooLarge("x", size=5, limit=4)}),
        errors.TaskTimeout("m", task_id="t", error_type="X", remote_traceback="tb")]
    special = {type(error) for error in made}
    return made + [kind("a message") for kind in OURS.values() if kind not in special]


def state(error: object) -> Any:
    """All that can be seen of an error, errors inside it too."""
    if isinstance(error, dict):
        return {key: state(value) for key, value in error.items()}
    return (type(error), str(error), state(vars(error))) if isinstance(error, YADTQError) else error


def test_every_code_is_documented_and_every_documented_code_exists() -> None:
    assert set(DOCUMENTED) == set(OURS)


def test_the_documentation_says_what_may_be_tried_again() -> None:
    assert {code: kind.retryable for code, kind in OURS.items()} == DOCUMENTED


def test_every_class_has_a_code_of_its_own_and_a_message() -> None:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, YADTQError)]
    assert len({kind.code for kind in classes}) == len(classes)
    for kind in classes:
        assert re.fullmatch(r"[A-Z_]+", kind.code)
        assert kind.__doc__
        assert by_code(kind.code) is kind


@pytest.mark.parametrize("error", examples(), ids=lambda error: error.code)
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error)),
                                 lambda error: pickle.loads(pickle.dumps(error, 2))],
                         ids=["copy", "deepcopy", "pickle", "pickle 2"])
def test_errors_keep_their_attributes(error: YADTQError, way: Any) -> None:
    error.add_note("seen by test")
    again = way(error)
    assert state(again) == state(error)
    assert again.code == error.code
    assert again.args == error.args


def test_a_code_set_on_an_instance_survives_too() -> None:
    failed = TaskFailed("m", task_id="t")
    failed.code = "SHOP_CLOSED"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(failed)).code == copy.copy(failed).code == "SHOP_CLOSED"
    assert str(pickle.loads(pickle.dumps(failed))) == "SHOP_CLOSED: m"


def test_the_docstring_is_the_default_message() -> None:
    assert str(errors.DivisionByZero()) == "DIVISION_BY_ZERO: Division by zero."


def test_codes_of_users_are_found_and_can_not_take_over_ours() -> None:
    class ShopClosed(TaskFailed):
        """The shop is closed."""

        code = "TEST_SHOP_CLOSED"

    class Quiet(TaskFailed):
        """Has no code of its own."""

    class Thief(TaskFailed):
        """Wants ours."""

        code = "TASK_TIMEOUT"

    assert by_code("TEST_SHOP_CLOSED") is ShopClosed
    assert by_code("TASK_FAILED") is TaskFailed
    assert by_code("TASK_TIMEOUT") is errors.TaskTimeout
    assert by_code("NO_SUCH_CODE") is None
    assert (Quiet.code, Thief.code) == ("TASK_FAILED", "TASK_TIMEOUT")


def test_errors_can_be_caught_as_what_they_are_in_python() -> None:
    for kind, builtin in ((errors.KafkaConnectionError, ConnectionError), (errors.ResultTimeout, TimeoutError),
                          (errors.ConfigurationError, ValueError), (errors.DivisionByZero, ZeroDivisionError),
                          (errors.TaskNotFound, LookupError), (errors.AccessDenied, PermissionError)):
        assert issubclass(kind, builtin)
