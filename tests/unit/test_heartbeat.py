"""Heartbeats: the bytes on the wire, what other versions may add, what is refused, and when a worker is expired."""
from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtq.errors import InvalidMessage, UnsupportedVersion
from yadtq.heartbeat import Heartbeat, decode_heartbeat, encode_heartbeat

BEAT = Heartbeat(worker_id="host/w3", host="host", pid=42, partitions=[0, 2], state="RUNNING", sent_ms=1000, seq=5,
                 epoch=7, interval_s=5.0, task_id="id", task="addition", task_since_ms=900, done=3, failed=1, lag=9,
                 version="0.1.0", expires_after_s=15.0)
GOLDEN = ("dc001201a7686f73742f7733a4686f73742a920002a752554e4e494e47cd03e80507cb4014000000000000a26964a861646469"
          "74696f6ecd0384030109a5302e312e30cb402e000000000000")


def test_golden_bytes() -> None:
    assert encode_heartbeat(BEAT).hex() == GOLDEN
    assert decode_heartbeat(bytes.fromhex(GOLDEN)) == BEAT


def test_further_fields_of_a_later_release_are_ignored() -> None:
    values = msgspec.msgpack.decode(bytes.fromhex(GOLDEN))
    assert decode_heartbeat(msgspec.msgpack.encode([*values, "more", {}])) == BEAT


def test_a_newer_version_is_called_so() -> None:
    for rest in ([], ["x"], msgspec.msgpack.decode(bytes.fromhex(GOLDEN))[1:]):
        with pytest.raises(UnsupportedVersion, match="a heartbeat has version 2, which is newer than 1"):
            decode_heartbeat(msgspec.msgpack.encode([2, *rest]))


@given(st.binary(max_size=100), st.integers(0, len(GOLDEN) // 2 - 1), st.integers(0, 255))
def test_no_bytes_raise_anything_else(data: bytes, at: int, byte: int) -> None:
    damaged = bytearray.fromhex(GOLDEN)
    damaged[at] = byte
    for hostile in (data, bytes(damaged)):
        with contextlib.suppress(InvalidMessage):
            decode_heartbeat(hostile)


def test_what_is_no_heartbeat_is_refused() -> None:
    with pytest.raises(InvalidMessage, match="is no heartbeat"):
        decode_heartbeat(b"\x91\x01")


@pytest.mark.parametrize(("now_ms", "expired"), [(0, False), (1000, False), (16_000, False), (16_001, True)])
def test_a_worker_is_expired_after_its_own_limit(now_ms: int, expired: bool) -> None:
    assert BEAT.expired(now_ms) is expired
