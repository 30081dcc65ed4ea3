"""Every decoder under hostile bytes for a moment (`python -m tests.fuzz` does it for as long as you like).

What a longer run has found stands in FOUND for good.
"""
from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS
from yadtqd import isolated_protocol

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 0.7
FOUND: list[tuple[str, bytes]] = [
    # a time that is no number
    ("record", bytes.fromhex(
        "a1040400007700000000000000020000000000000000001c4000000000000000000000000000000000c006ffffffff0800040001000000"
        "080000000500000000000000f03f00000000000000400000000000000840000000000000f0bf6164646974696f6e682f77300395a158a1"
        "79a0a0c263312c6332")),
]


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_nearly_right(name: str) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng, target = random.Random(seed), TARGETS[name]
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        data = mutated(target.seeds, rng)
        try:
            target.run(data)
        except Exception as error:
            raise AssertionError(f"({name!r}, bytes.fromhex({data.hex()!r}))") from error


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.binary(max_size=300))
@settings(max_examples=30)
def test_any_bytes(name: str, data: bytes) -> None:
    TARGETS[name].run(data)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("data", [b"", b"\xc0", bytes(1000), b"\x91" * 200_000, b"\x81" * 50_000, b"[" * 100_000,
                                  b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xff" * 1000],
                         ids=["empty", "nil", "zeros", "deep", "deep-map", "brackets", "many", "long", "ff"])
def test_the_old_tricks(name: str, data: bytes) -> None:
    TARGETS[name].run(data)


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_what_was_found(name: str, data: bytes) -> None:
    TARGETS[name].run(data)


def test_a_packet_whose_memfd_claims_to_be_huge() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = os.memfd_create("huge")
    with ours, theirs:
        os.ftruncate(fd, 1 << 50)
        socket.send_fds(theirs, [b"\x91\xa4kill"], [fd])
        os.close(fd)
        with pytest.raises(isolated_protocol.IsolatorGone, match="larger than"):
            isolated_protocol.receive(ours)


def test_the_fuzzer_finds_a_bug_and_tells_how_to_repeat_it() -> None:
    """A fuzzer that never finds anything is worth nothing: one target has a bug for a moment."""
    broken = ("import sys; from tests.fuzz import targets, __main__ as f\n"
              "def bad(data):\n    assert not (data and data[0] == 0x94)\n"
              "targets.TARGETS['value'] = targets.Target(bad, (b'\\x93abc',))\n"
              "sys.exit(f.main(['--random', '--seconds', '20', '--seed', '1', 'value']))")
    done = subprocess.run([sys.executable, "-c", broken], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 1, done.stderr
    assert "FOUND in value" in done.stdout
    assert "('value', bytes.fromhex('94" in done.stdout
