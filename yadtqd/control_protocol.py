"""The control protocol: frames, requests, responses. Pure: no socket, no clock.

A frame is a 4-byte big-endian length and that many bytes of JSON. A request names a command and its arguments, a
response carries a result or an error with its code; both carry the protocol's version and the request's id:

    {"v": 1, "id": 7, "command": "pause", "args": {"partition": 3}}
    {"v": 1, "id": 7, "ok": true, "result": {...}}
    {"v": 1, "id": 7, "ok": false, "code": "CONTROL_ERROR", "message": "partition 9 is not owned by this host"}

Invariants: a reader never holds more than one frame of its limit plus what one read brought; whatever bytes come in,
the only exception that goes out is ControlProtocolError.
"""
from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from yadtq.errors import ControlProtocolError

T = TypeVar("T")
VERSION = 1
HEADER = 4                        # bytes of the length
MAX_REQUEST = 64 * 1024           # bytes; the longest command is a few hundred
MAX_RESPONSE = 4 * 1024 * 1024    # bytes; a status of 1,000 workers is about 400 KB


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks."""

    command: str
    id: int = 0
    v: int = VERSION
    args: dict[str, Any] = {}


class Response(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the daemon answers."""

    id: int
    ok: bool
    v: int = VERSION
    result: Any = None
    code: str = ""
    message: str = ""


def encode_frame(message: Request | Response, limit: int) -> bytes:
    """The bytes of one frame; ControlProtocolError when it is larger than `limit` bytes."""
    body = msgspec.json.encode(message)
    if len(body) > limit:
        raise ControlProtocolError(f"a frame of {len(body)} bytes is over the limit of {limit}")
    return len(body).to_bytes(HEADER, "big") + body


def decode_request(body: bytes) -> Request:
    """The request in a frame; ControlProtocolError for anything else."""
    request = _decode(body, Request)
    if request.v != VERSION:
        raise ControlProtocolError(f"version {request.v} of the control protocol is not spoken here, {VERSION} is")
    return request


def decode_response(body: bytes) -> Response:
    """The response in a frame; ControlProtocolError for anything else."""
    return _decode(body, Response)


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (ValueError, RecursionError) as error:
        raise ControlProtocolError(f"a frame is no {kind.__name__.lower()}: {error}") from None


class FrameReader:
    """Cuts a stream of bytes into frames of at most `limit` bytes each."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = bytearray()

    @property
    def in_frame(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._held)

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies of the frames that `data` completes; ControlProtocolError when one announces too many bytes."""
        self._held += data
        bodies = []
        while len(self._held) >= HEADER:
            size = int.from_bytes(self._held[:HEADER], "big")
            if size > self.limit:
                raise ControlProtocolError(f"a frame of {size} bytes is over the limit of {self.limit}")
            if len(self._held) < HEADER + size:
                break
            bodies.append(bytes(self._held[HEADER:HEADER + size]))
            del self._held[:HEADER + size]
        return bodies
