"""How values get onto the command line and back."""
from __future__ import annotations

import datetime as dt
import inspect
import json

import click
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtq import errors
from yadtq.cli import exits, values
from yadtq.errors import YADTQError


@pytest.mark.parametrize(("text", "value"), [
    ("1", 1), ("-2.5", -2.5), ("[1, [2]]", [1, [2]]), ('{"a": null}', {"a": None}), ("true", True), ("null", None),
    ('"7"', "7"), ("hello", "hello"), ("2nd", None), ("NaN", None), ("", "")])
def test_arguments_are_json_and_words_stand_for_themselves(text, value):
    if text == "2nd":
        with pytest.raises(click.BadParameter, match="not valid JSON"):
            values.argument(text)
    elif text == "NaN":
        assert values.argument(text) != values.argument(text)
    else:
        assert values.argument(text) == value


@pytest.mark.parametrize("text", ["[1,", '{"a"', '"open', "1,2", "-x"])
def test_what_looks_like_json_and_is_none_is_refused(text):
    if text == "-x":
        assert values.argument(text) == "-x"
    else:
        with pytest.raises(click.BadParameter):
            values.argument(text)


@pytest.mark.parametrize("text", ["[1]", "x", "3"])
def test_keyword_arguments_are_an_object(text):
    with pytest.raises(click.BadParameter):
        values.keyword_arguments(text)


def test_moments():
    assert values.moment(None, 1000.0) is None
    assert values.moment("90s", 1000.0) == 910.0
    assert values.moment("2h", 100_000.0) == 100_000.0 - 7200
    assert values.moment("1.5d", 1e6) == 1e6 - 1.5 * 86_400
    assert values.moment("1760000000", 0.0) == 1_760_000_000.0
    assert values.moment("2026-01-31T12:00", 0.0) == dt.datetime(2026, 1, 31, 12).timestamp()
    with pytest.raises(click.BadParameter, match="no time"):
        values.moment("yesterday", 0.0)


def test_values_that_json_lacks():
    assert values.plain({"a": np.array([[1, 2]]), 5: (1, float("nan")), "b": b"\x00", "c": np.float32(0.5)}) == \
        {"a": [[1, 2]], "5": [1, "nan"], "b": "AA==", "c": 0.5}
    assert values.plain({3, 1}) == [1, 3]
    assert values.plain(dt.date(2026, 1, 2)) == "2026-01-02"
    assert values.text_of("as it is") == "as it is"
    assert values.text_of(np.array([[1, 2]])) == "[[1 2]]"
    assert values.text_of([1, None]) == "[1, null]"


SCALARS = (st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers())


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.integers() | st.text(), inner)
                    | st.tuples(inner), max_leaves=8))
def test_everything_can_be_printed_as_json(value):
    json.dumps(values.plain(value), allow_nan=False)


def test_every_error_has_an_exit_status_that_is_listed():
    listed = dict(exits.TABLE)
    for kind in vars(errors).values():
        if inspect.isclass(kind) and issubclass(kind, YADTQError):
            assert exits.status_for(kind()) in listed
    assert exits.status_for(errors.DivisionByZero()) == exits.TASK_FAILED
    assert exits.status_for(errors.TaskNotFound()) == exits.NOT_FOUND
    assert exits.status_for(errors.PayloadTooLarge()) == exits.REFUSED
    assert exits.status_for(errors.ResultTimeout()) == exits.status_for(errors.TaskSubmissionTimeout()) == exits.TIMEOUT
    assert exits.status_for(errors.KafkaConnectionError()) == exits.UNREACHABLE
