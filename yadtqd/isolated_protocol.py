"""What a worker and the isolator say to each other, over a SEQPACKET socket: one message a packet, one task at a time.

    worker -> isolator    Run        run this in a child of its own (arguments over INLINE bytes in a memfd)
    worker -> isolator    Cancel     tell the child that its task was cancelled
    worker -> isolator    Kill       kill the child
    child  -> worker      Result     how it ended, sent by the child itself over the same socket, then it exits
    isolator -> worker    Ended      the child is reaped: its exit status or signal; always, and always last

So a crash is seen as an Ended without a Result before it. Pure but for the memfds.
"""
from __future__ import annotations

import mmap
import os
import socket

import msgspec

from yadtq.errors import YADTQError

INLINE = 65_536             # bytes: a larger payload goes by memfd, since a packet is bounded by the socket's buffer
MUTE = 70                   # exit status of a child that could not say how its attempt ended
MEMFD = 256 << 20           # more than any message or result may have
PACKET = 131_072            # more than any packet of ours


class IsolatorGone(YADTQError):
    """The isolator ended or refused us while a task was in its hands."""

    code = "ISOLATOR_GONE"
    retryable = True


class Run(msgspec.Struct, array_like=True, frozen=True, tag="run"):
    """Run one attempt. `payload` is the encoded TaskMessage, empty when it comes by memfd."""

    payload: bytes
    limit: int                          # bytes that the result may have
    soft_s: float                       # 0: none
    hard_s: float                       # the isolator kills a bit later by itself, in case the worker can't
    memory_limit: int                   # bytes of RLIMIT_DATA, 0: none


class Kill(msgspec.Struct, array_like=True, frozen=True, tag="kill"):
    """Kill the child that runs."""


class Cancel(msgspec.Struct, array_like=True, frozen=True, tag="cancel"):
    """Tell the child that its task was cancelled, so that it ends within `grace_s`."""

    grace_s: float                      # the isolator kills a bit later by itself, in case the worker can't


class Result(msgspec.Struct, array_like=True, frozen=True, tag="result"):
    """A child's own word on how its attempt ended (OK, KO, CX). `payload` is the encoded result or error, empty when by
    memfd. `wish` is what the handler's exception says about a retry (yadtq.retry_policy.Wish): only the child met it.
    """

    end: str
    payload: bytes
    wish: tuple[bool, bool, float | None] | None = None


class Ended(msgspec.Struct, array_like=True, frozen=True, tag="ended"):
    """The child is gone: `status` is its exit status, `signal` what killed it (else 0)."""

    status: int
    signal: int
    by_us: bool                         # killed by the isolator: asked to, or past the hard limit


Packet = Run | Cancel | Kill | Result | Ended
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Packet)


def send(sock: socket.socket, packet: Packet, large: bytes = b"") -> None:
    """Send a packet; `large` goes along in a memfd. Raises OSError."""
    data = _encoder.encode(packet)
    if not large:
        sock.send(data)
        return
    fd = os.memfd_create("yadtq-payload", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, len(large))
        with mmap.mmap(fd, len(large)) as memory:
            memory[:] = large
        socket.send_fds(sock, [data], [fd])
    finally:
        os.close(fd)


def receive(sock: socket.socket) -> tuple[Packet, bytes] | None:
    """The next packet and what came with it in a memfd; None when the peer is gone.

    Raises OSError, and IsolatorGone for what is no packet.
    """
    data, fds, flags, _ = socket.recv_fds(sock, PACKET, 1, socket.MSG_CMSG_CLOEXEC)
    try:
        if not data:
            return None
        large = _read_all(fds[0]) if fds else b""
    finally:
        for fd in fds:
            os.close(fd)
    try:
        if flags & socket.MSG_TRUNC:
            raise ValueError("a packet was too long")
        return _decoder.decode(data), large
    except (ValueError, RecursionError) as error:
        raise IsolatorGone(f"not a packet of the isolator's protocol: {error}") from None


def _read_all(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    if size == 0:
        return b""
    if size > MEMFD:        # it takes no memory while nobody has written to it: a size alone proves nothing
        raise IsolatorGone(f"a payload of {size:,} bytes is larger than {MEMFD:,}")
    with mmap.mmap(fd, size, prot=mmap.PROT_READ) as memory:
        return bytes(memory)
