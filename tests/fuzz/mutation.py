"""Bytes that are nearly right, made from sound ones: the fuzzer where atheris is not installed, and in the test suite.

Pure and repeatable: the same random generator makes the same bytes.
"""
from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

HOSTILE: tuple[Any, ...] = (
    None, True, 0, -1, 1 << 31, 1 << 32, 1 << 53, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1, 0.5, -0.0, float("nan"),
    float("inf"), float("-inf"), 1e308, "", "x" * 600, "\x00\x1b[2J\n", "\u202e\ud7ff", b"", b"\xff" * 40, [], [[[[]]]],
    {}, {"a": []})
LONGEST = 1 << 16


def mutated(seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """One of the seeds, changed once or a few times."""
    data = rng.choice(seeds) if seeds else b""
    if rng.random() < 0.3:
        data = _field_replaced(data, rng)
    for _ in range(rng.choice((0, 1, 1, 2, 4, 8))):
        data = rng.choice(_CHANGES)(data, seeds, rng)
    return data[:LONGEST]


def _field_replaced(data: bytes, rng: random.Random) -> bytes:
    """Where the seed is an array of fields: one of them is something else."""
    try:
        fields = msgspec.msgpack.decode(data)
    except (ValueError, RecursionError):
        return data
    if not isinstance(fields, list) or not fields:
        return data
    fields[rng.randrange(len(fields))] = rng.choice(HOSTILE)
    return msgspec.msgpack.encode(fields[:rng.randint(0, len(fields))] if rng.random() < 0.1 else fields)


def _flipped(data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    if not data:
        return rng.randbytes(3)
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1:]


def _overwritten(data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    at = rng.randint(0, len(data))
    new = rng.choice((rng.randbytes(1), b"\xff\xff\xff\xff", b"\x00", b"\x7f", b"\xc9", b"\xd4", rng.randbytes(8),
                      b"\xdf\xff\xff\xff\xff"))
    return data[:at] + new + data[at + len(new):]


def _inserted(data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.choice((rng.randbytes(rng.randint(1, 9)), b"\x91" * rng.randint(1, 3000))) + data[at:]


def _cut(data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] if rng.random() < 0.5 else data[:at] + data[at + rng.randint(1, 9):]


def _spliced(data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(seeds) if seeds else b""
    return data[:rng.randint(0, len(data))] + other[rng.randint(0, len(other)):]


_CHANGES = (_flipped, _flipped, _overwritten, _inserted, _cut, _spliced)
