"""The heartbeat of a worker on the topic `kafka_heartbeat_topic`, which is how clients and other hosts see its health.

Owns the layout of `Heartbeat` (golden bytes in tests/unit/test_heartbeat.py): new fields go to the end, with a default.
Written by each worker's heartbeat thread, read by clients; the record's key is the worker id. Never talks to Kafka. The
offset of a worker's own STARTING heartbeat plus one is its epoch, so the topic has one partition.
"""
from __future__ import annotations

import msgspec

from yadtq.errors import InvalidMessage
from yadtq.names import WIRE_VERSION
from yadtq.task import check_version

# supervisord's words, in the order of a worker's life
STATES = ("STARTING", "RUNNING", "BACKOFF", "STOPPING", "STOPPED", "EXITED", "FATAL")


class Heartbeat(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """One beat of one worker. The order of the fields *is* the format."""

    v: int = WIRE_VERSION
    worker_id: str                      # "host/w3"
    host: str
    pid: int
    partitions: list[int] = []
    state: str = "RUNNING"              # one of STATES; a newer worker may know more
    sent_ms: int                        # Unix time
    seq: int = 0                        # counts the beats of one process
    epoch: int = 0
    interval_s: float                   # when the next one is due
    task_id: str = ""                   # what runs, empty: nothing
    task: str = ""
    task_since_ms: int = 0
    done: int = 0                       # tasks ended well since this process started
    failed: int = 0
    lag: int = 0                        # records of its partitions that are not done
    version: str = ""                   # of yadtqd
    expires_after_s: float              # age from which on the worker counts as expired

    def expired(self, now_ms: int) -> bool:
        """Whether the worker should have been heard of again by `now_ms` (Unix time)."""
        return now_ms - self.sent_ms > self.expires_after_s * 1000


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Heartbeat)
encode_heartbeat = _encoder.encode      # (Heartbeat) -> bytes


def decode_heartbeat(data: bytes | memoryview) -> Heartbeat:
    """The heartbeat in a record; additional fields at its end are ignored.

    Raises UnsupportedVersion when a newer YADTQ wrote it, and InvalidMessage for anything else that is no heartbeat.
    """
    try:
        beat = _decoder.decode(data)
    except (ValueError, RecursionError) as error:
        check_version(data, "heartbeat")
        raise InvalidMessage(f"a record of {len(data)} bytes is no heartbeat: {error}") from None
    if beat.v != WIRE_VERSION:
        check_version(data, "heartbeat")
    return beat
