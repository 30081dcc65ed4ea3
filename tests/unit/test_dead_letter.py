"""The wire format of dead letters and of marks: golden bytes, and what is refused."""
from __future__ import annotations

import pytest

from yadtq.dead_letter import (
    DeadLetterMark,
    DeadLetterMessage,
    decode_dead_letter,
    decode_mark,
    encode_dead_letter,
    encode_mark,
    is_mark,
)
from yadtq.errors import InvalidMessage, UnsupportedVersion

LETTER = DeadLetterMessage(id="i", task="t", code="C", message="m", partition=1, offset=2, worker="h/w1", dead_ms=3,
                    error=b"e", original=b"o")
GOLDEN = bytes.fromhex("9b01a169a174a143a16d0102a4682f773103c40165c4016f")


def test_golden_bytes() -> None:
    assert encode_dead_letter(LETTER).hex() == GOLDEN.hex()
    assert decode_dead_letter(GOLDEN) == LETTER


def test_a_field_of_a_later_release_is_ignored() -> None:
    longer = b"\x9c" + GOLDEN[1:] + b"\xa3new"
    assert decode_dead_letter(longer) == LETTER


@pytest.mark.parametrize(("data", "error"), [
    (b"", InvalidMessage), (b"\xff\x00", InvalidMessage), (b"\x93\x01\x02\x03", InvalidMessage),
    (b"\x9b\x02" + GOLDEN[2:], UnsupportedVersion),
])
def test_what_is_no_dead_letter_is_refused(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        decode_dead_letter(data)


# ---- marks ----------------------------------------------------------------------------------------------------------
MARK = DeadLetterMark(id="i", how="purged", offset=5, at_ms=9)
MARK_GOLDEN = bytes.fromhex("96a4676f6e6501a169a67075726765640509")


def test_golden_bytes_of_a_mark() -> None:
    assert encode_mark(MARK).hex() == MARK_GOLDEN.hex()
    assert decode_mark(MARK_GOLDEN) == MARK
    assert decode_mark(b"\x97" + MARK_GOLDEN[1:] + b"\xa3new") == MARK


def test_marks_and_letters_are_told_apart() -> None:
    assert is_mark(MARK_GOLDEN)
    assert not is_mark(GOLDEN)
    assert not is_mark(b"")
    with pytest.raises(InvalidMessage):
        decode_dead_letter(MARK_GOLDEN)
    for data in (GOLDEN, b"", b"\x96\xa4gone", MARK_GOLDEN.replace(b"gone\x01", b"gone\x02"),
                 MARK_GOLDEN.replace(b"purged", b"burned")):
        with pytest.raises(InvalidMessage):
            decode_mark(data)
