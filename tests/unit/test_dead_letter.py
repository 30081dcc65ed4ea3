"""The wire format of dead letters: golden bytes, and what is refused."""
from __future__ import annotations

import pytest

from yadtq.dead_letter import DeadLetter, decode_dead_letter, encode_dead_letter
from yadtq.errors import InvalidMessage, UnsupportedVersion

LETTER = DeadLetter(id="i", task="t", code="C", message="m", partition=1, offset=2, worker="h/w1", dead_ms=3,
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
