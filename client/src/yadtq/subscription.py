"""Reads the ends that Redis pushes to one waiting client, and reconnects for as long as it takes.

Owns one connection. Used by one thread (the waiter's); only `wake` may be called from others. Never reads records:
what is pushed while the connection is down is lost, and `get` says so by answering None.
"""
from __future__ import annotations

import contextlib
import os
import select
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from yadtq.names import result_channel
from yadtq.records import Push
from yadtq.redis_client import RedisClient
from yadtq.shard_calls import pack

if TYPE_CHECKING:
    from redis.connection import Connection

    from yadtq.config import Settings

SILENCE_S: Final = 10.0             # without a word for so long a PING goes out: a dead peer shows only when written to
WATCHED_S: Final = 2.0              # the same with Sentinels: the primary may have been replaced meanwhile
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
MAX_BATCH: Final = 64               # messages that one `get` takes

_decode = msgspec.msgpack.Decoder(list[tuple[str, str, int, bytes | None, bytes | None]]).decode


class Subscription:
    """The ends pushed to one client id. Connects when made: RedisConnectionError when that fails."""

    def __init__(self, redis: RedisClient, settings: Settings, client_id: str) -> None:
        self._redis, self._timeout_s = redis, settings.redis_timeout_s
        self._channel = result_channel(client_id)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if hasattr(os, "eventfd") else -1
        self._connection: Connection | None = None
        self._heard = self._pinged = 0.0
        self._pause_s = FIRST_PAUSE_S
        try:
            redis.guarded(self._connect)
        except BaseException:
            self.close()
            raise

    def get(self, timeout_s: float) -> list[Push] | None:
        """The ends that have come, [] when none came in time; None after a reconnect: watch again what you wait for.

        Raises RedisConnectionError while Redis is away; the next call tries again.
        """
        if self._connection is None:
            self._reconnect(timeout_s)
            return None
        deadline = time.monotonic() + timeout_s
        from redis.exceptions import RedisError

        try:
            return self._read(deadline)
        except (RedisError, OSError):
            self._drop()
            self._reconnect(deadline - time.monotonic())
            return None

    def wake(self) -> None:
        """Have the `get` of another thread return."""
        if self._wake_fd >= 0:
            with contextlib.suppress(OSError, BlockingIOError):
                os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """End the subscription."""
        self._drop()
        if self._wake_fd >= 0:
            fd, self._wake_fd = self._wake_fd, -1
            os.close(fd)

    # ---- the connection ---------------------------------------------------------------------------------------------
    def _connect(self) -> None:
        connection = self._redis.open(self._timeout_s)
        try:
            connection.send_packed_command([pack("SUBSCRIBE", self._channel)], check_health=False)
            connection.read_response(disable_decoding=True, timeout=self._timeout_s)
        except BaseException:
            connection.disconnect()
            raise
        self._connection = connection
        self._heard = time.monotonic()
        self._pinged = 0.0
        self._pause_s = FIRST_PAUSE_S

    def _reconnect(self, timeout_s: float) -> None:
        """Back to a subscription, or the error that prevents it, after a pause that grows from try to try."""
        self._sleep(min(self._pause_s, max(0.0, timeout_s)))
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._redis.guarded(self._connect)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _sleep(self, seconds: float, fd: int = -1) -> bool:
        """Wait until something can be read from `fd`; True when woken instead."""
        poll = select.poll()                        # not select(): descriptors may be above 1023
        for one in (fd, self._wake_fd):
            if one >= 0:
                poll.register(one, select.POLLIN)
        if self._wake_fd not in dict(poll.poll(max(0.0, seconds) * 1000)):
            return False
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)
        return True

    # ---- reading ----------------------------------------------------------------------------------------------------
    def _read(self, deadline: float) -> list[Push]:
        pushes: list[Push] = []
        taken = 0
        while taken < MAX_BATCH:
            wait_s = 0.0 if taken else max(0.0, deadline - time.monotonic())
            if not self._readable(wait_s):
                break
            message = self._next()
            if message is None:
                continue
            taken += 1
            pushes += [Push(*item) for item in _decode(message)]
        return pushes

    def _readable(self, wait_s: float) -> bool:
        """Whether there is something to read, within `wait_s`; keeps the connection's pulse."""
        connection = self._connection
        assert connection is not None
        sock: Any = connection._sock
        end = time.monotonic() + wait_s
        while True:
            if connection.can_read(0):
                return True
            now = time.monotonic()
            self._pulse(now)
            if now >= end:
                return False
            if self._sleep(min(end - now, 1.0), sock.fileno()):
                return False

    def _pulse(self, now: float) -> None:
        assert self._connection is not None
        asked = self._pinged > self._heard
        self._redis.check_primary(self._connection, silent=asked)
        if asked:
            if now - self._pinged > self._timeout_s:
                raise OSError("no answer to a PING")
        elif now - self._heard > (SILENCE_S if self._redis.sentinels is None else WATCHED_S):
            self._connection.send_packed_command([pack("PING")], check_health=False)
            self._pinged = now

    def _next(self) -> bytes | None:
        """The payload of the next message; None for an answer to a PING and the like."""
        assert self._connection is not None
        reply = self._connection.read_response(disable_decoding=True, timeout=self._timeout_s)
        self._heard = time.monotonic()
        if isinstance(reply, list) and len(reply) == 3 and reply[0] == b"message":
            return bytes(reply[2])
        return None
