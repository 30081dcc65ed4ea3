"""The history of attempts: golden bytes, and its bounds whatever the attempts were."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtq.attempts import FIRST, LAST, MAX_NAME, MAX_TEXT, Attempt, decode_attempts, with_attempt
from yadtq.errors import InvalidMessage


def test_golden_bytes() -> None:
    history = with_attempt(b"", Attempt(0, 1000, 2000, "h/w1", "TASK_FAILED", "ValueError", "no"))
    assert history.hex() == ("919700cd03e8cd07d0a4682f7731ab5441534b5f4641494c4544aa56616c75654572726f72a26e6f")
    assert decode_attempts(history) == [Attempt(0, 1000, 2000, "h/w1", "TASK_FAILED", "ValueError", "no")]
    assert decode_attempts(b"") == []


def test_what_a_newer_one_adds_is_ignored() -> None:
    import msgspec

    assert decode_attempts(msgspec.msgpack.encode([[3, 1, 2, "w", "C", "T", "m", "more"]])) == [
        Attempt(3, 1, 2, "w", "C", "T", "m")]


@pytest.mark.parametrize("data", [b"\xff", b"\x01", b"\x91\x01", b"\x91\x91\xa1x"])
def test_what_is_no_history(data: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decode_attempts(data)
    assert [one.n for one in decode_attempts(with_attempt(data, Attempt(4)))] == [4], "it costs no task its retry"


@given(st.integers(1, 80), st.text(max_size=600))
def test_the_first_and_the_last_are_kept_and_all_is_bounded(count: int, text: str) -> None:
    history = b""
    for n in range(count):
        history = with_attempt(history, Attempt(n, worker=text, code="C", error_type=text, message=text))
    kept = decode_attempts(history)
    wanted = list(range(count)) if count <= FIRST + LAST else [*range(FIRST), *range(count - LAST, count)]
    assert [one.n for one in kept] == wanted
    assert all(len(one.message) <= MAX_TEXT and len(one.worker) <= MAX_NAME and len(one.error_type) <= MAX_NAME
               for one in kept)
    assert len(history) <= (FIRST + LAST) * (4 * (MAX_TEXT + 2 * MAX_NAME) + 60)
