"""The wire format of delayed tasks: golden bytes, what is refused, and which level a delay goes to."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtq.delayed import LEVELS, SHORT, WIDTHS_MS, DelayedTask, decode_delayed, encode_delayed, level_of
from yadtq.errors import InvalidMessage, UnsupportedVersion

DELAYED = DelayedTask(due_ms=3, partition=2, key=b"k", value=b"v")
GOLDEN = bytes.fromhex("95010302c4016bc40176")


def test_golden_bytes() -> None:
    assert encode_delayed(DELAYED).hex() == GOLDEN.hex()
    assert decode_delayed(GOLDEN) == DELAYED


def test_a_field_of_a_later_release_is_ignored() -> None:
    assert decode_delayed(b"\x96" + GOLDEN[1:] + b"\xa3new") == DELAYED


@pytest.mark.parametrize(("data", "error"), [
    (b"", InvalidMessage), (b"\xff\x00", InvalidMessage), (b"\x92\x01\x02", InvalidMessage),
    (b"\x95\x02" + GOLDEN[2:], UnsupportedVersion),
])
def test_what_is_no_delayed_task_is_refused(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        decode_delayed(data)


@given(st.integers(-10**12, 10**12))
def test_a_level_is_the_widest_that_fits(left_ms: int) -> None:
    level = level_of(left_ms)
    assert 0 <= level < LEVELS
    if level == SHORT:
        assert left_ms < WIDTHS_MS[0]
    else:
        assert WIDTHS_MS[level] <= left_ms
        assert level == len(WIDTHS_MS) - 1 or left_ms < WIDTHS_MS[level + 1]
