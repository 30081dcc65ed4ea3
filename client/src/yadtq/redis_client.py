"""Connections to Redis: calls in bulk, repeated until a deadline, with every failure as a typed error.

Owns the pool of one result backend (made anew after a fork), the loading of the function library, and the meaning of
Redis's error replies. With Sentinels it asks them for the primary and follows it: a connection is used only while the
Redis behind it is the primary, and nobody waits for one that no longer is. Works on redis-py's connections below its
client: packing a command and reading its reply costs a few us there, against about 50 through a pipeline object. May be
used by any thread. Whatever runs through it must be idempotent, since a call whose reply got lost is sent again.
"""
from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from yadtq import names
from yadtq.errors import BackendDamaged, ClientClosed, RedisConnectionError, RedisRefused
from yadtq.redis_connect import connect, set_timeout
from yadtq.redis_sentinel import Address, Sentinels
from yadtq.shard_calls import pack
from yadtq.tls import why_refused

if TYPE_CHECKING:
    from redis.connection import Connection
    from redis.exceptions import ResponseError

    from yadtq.config import Settings

BUILD: Final = 1                    # version of the function library; redis_records.lua has the same number
WINDOW_CALLS: Final = 32            # calls sent before their replies are read
WINDOW_BYTES: Final = 1 << 20
MAX_IDLE: Final = 32                # connections kept for reuse
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.5
SUSPECT_S: Final = 0.5              # with Sentinels: silent for so long, the primary may be another by now
GREETING_S: Final = 1.0             # with Sentinels: what connecting may take, or a third of redis_timeout_s if longer
# What Redis says while it can't serve, and may again without anybody changing anything.
PASSING: Final = ("LOADING", "READONLY", "OOM", "MISCONF", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS", "BUSY",
                  "TRYAGAIN", "UNKILLABLE")
EXPLAINED: Final = {
    "LOADING": "Redis is still loading its data",
    "READONLY": "this Redis is a read-only replica",
    "OOM": "Redis has no memory left (maxmemory): it stores nothing until results expire or the limit is raised",
    "MISCONF": "Redis can't write to its disk and stores nothing until it can",
    "MASTERDOWN": "this replica has lost its master",
    "BUSY": "Redis is busy with a script",
    "NOREPLICAS": "too few replicas of this Redis keep up (min-replicas-to-write): it stores nothing until more do",
}
REFUSED: Final = ("NOAUTH", "WRONGPASS", "NOPERM", "invalid username-password", "Client sent AUTH", "DB index",
                  "AUTH called", "invalid password", "no permissions")


@cache
def library() -> tuple[str, str]:
    """The function library as it is loaded into Redis, and what its `build` function answers."""
    files = resources.files("yadtq")
    text = "".join(files.joinpath(name).read_text("utf-8")
                   for name in ("redis_records.lua", "redis_functions.lua", "redis_index_functions.lua"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return text.replace("DIGEST", digest, 1), f"{BUILD}:{digest}"


def replaces(found: str, ours: str) -> bool:
    """Whether our library is to replace the one that is there: it is older, or as old and not the same."""
    version = found.partition(":")[0]
    return not version.isdigit() or int(version) < BUILD or (int(version) == BUILD and found != ours)


class RedisClient:
    """Sends packed commands to one Redis. Thread-safe; connects at the first call of a process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle: deque[Connection] = deque()
        self.sentinels: Sentinels | None = None
        self._pid = 0
        self._prepared = False
        self._closed = False

    # ---- calls ------------------------------------------------------------------------------------------------------
    def run(self, calls: Sequence[bytes], timeout_s: float | None = None) -> list[Any]:
        """Send commands and return their replies, in order.

        Lost connections and states in which Redis refuses for a while are ridden out until `timeout_s` (the setting
        redis_timeout_s); then RedisConnectionError. RedisRefused and BackendDamaged come at once.
        """
        deadline = time.monotonic() + (self._settings.redis_timeout_s if timeout_s is None else timeout_s)
        if self.sentinels is not None:
            self.sentinels.ask_now_and_then()
        replies: list[Any] = [_PENDING] * len(calls)
        pending: Sequence[int] = range(len(calls))
        pause_s = 0.0                               # the first repeat is at once: a pooled connection may be long dead
        while True:
            failure = self._attempt(calls, pending, replies, deadline)
            if failure is None:
                return replies
            if self.sentinels is not None:
                self.sentinels.doubt()
            now = time.monotonic()
            if now + pause_s >= deadline:
                raise failure
            time.sleep(pause_s)
            pause_s = min(max(2 * pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            pending = [index for index in pending if replies[index] is _PENDING]

    def _attempt(self, calls: Sequence[bytes], pending: Sequence[int], replies: list[Any],
                 deadline: float) -> RedisConnectionError | None:
        """Get as many replies as go. None when all are there; else why not."""
        from redis.exceptions import RedisError

        connection: Connection | None = None
        try:
            connection = self._take(deadline)
            if not self._prepared:
                self._prepare(connection, deadline)
            problem = self._exchange(connection, calls, pending, replies, deadline)
            if problem is None:
                return None
            if "Function not found" in problem:
                self._prepare(connection, deadline)
                problem = self._exchange(connection, calls, [i for i in pending if replies[i] is _PENDING], replies,
                                         deadline)
            return None if problem is None else RedisConnectionError(self._explain(problem))
        except RedisError as error:
            self._discard(connection)
            connection = None
            return self._translate(error)
        except RedisConnectionError as error:           # of the Sentinels
            if not error.retryable:
                raise
            return error
        except BaseException:
            self._discard(connection)
            connection = None
            raise
        finally:
            if connection is not None:
                self._give_back(connection)

    def _exchange(self, connection: Connection, calls: Sequence[bytes], pending: Sequence[int], replies: list[Any],
                  deadline: float) -> str | None:
        """Send what is pending and store the replies; returns what Redis said where it refused for the moment."""
        from redis.exceptions import ResponseError

        problem: str | None = None
        start = 0
        while start < len(pending):
            end, size = start, 0
            while end < len(pending) and end - start < WINDOW_CALLS and size < WINDOW_BYTES:
                size += len(calls[pending[end]])
                end += 1
            window = pending[start:end]
            connection.send_packed_command([calls[index] for index in window] if size > 1 << 16
                                           else [b"".join([calls[index] for index in window])], check_health=False)
            for index in window:
                if self.sentinels is not None:
                    self._await_reply(connection, deadline)
                try:
                    replies[index] = connection.read_response(disable_decoding=True, timeout=_left(deadline))
                except ResponseError as error:
                    problem = self._refusal(connection, error)
            start = end
        return problem

    def _await_reply(self, connection: Connection, deadline: float) -> None:
        """Until there is something to read; no longer than this Redis is the primary."""
        from redis.exceptions import TimeoutError

        while not connection.can_read(min(SUSPECT_S, _left(deadline))):
            self.check_primary(connection, silent=True)
            if time.monotonic() >= deadline:
                raise TimeoutError(f"no answer from {connection.host}:{connection.port}")

    def check_primary(self, connection: Connection, *, silent: bool) -> None:
        """Raises redis-py's ConnectionError when the primary is known to be another Redis than the one at the other
        end of `connection`. `silent`: that one does not answer, so that the Sentinels are asked at once."""
        from redis.exceptions import ConnectionError

        if self.sentinels is None:
            return
        if silent:
            self.sentinels.ask()
        else:
            self.sentinels.ask_now_and_then()
        if self.sentinels.moved_from(Address(connection.host, connection.port)):
            raise ConnectionError(f"{connection.host}:{connection.port} is no longer the primary")

    def _refusal(self, connection: Connection, error: ResponseError) -> str:
        """What Redis said when it refused for the moment; raises `error` if it was for good."""
        text = _text_of(error)
        if "Function not found" in text or text.startswith(PASSING):
            if text.startswith("READONLY"):     # a fail-over: the name may lead elsewhere by now
                self._drop_idle()
                raise error
            return text
        connection.disconnect()                 # replies of this window are unread
        raise error

    def _prepare(self, connection: Connection, deadline: float) -> None:
        """Load the function library where it is missing or older than ours."""
        from redis.exceptions import ResponseError

        connection.send_packed_command([pack("FCALL", names.FUNCTION_PREFIX + "build", 1, names.meta_key(0))],
                                       check_health=False)
        try:
            found = str(connection.read_response(disable_decoding=True, timeout=_left(deadline)).decode())
        except ResponseError as error:
            if "Function not found" not in str(error):
                raise
            found = ""
        text, ours = library()
        if replaces(found, ours):
            connection.send_packed_command([pack("FUNCTION", "LOAD", "REPLACE", text)], check_health=False)
            connection.read_response(disable_decoding=True, timeout=_left(deadline))
        self._prepared = True

    # ---- connections ------------------------------------------------------------------------------------------------
    def _take(self, deadline: float) -> Connection:
        """A connection that nobody else uses, to be given back or disconnected."""
        if self._closed:
            raise ClientClosed
        self._own_process()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self.open(_left(deadline))
            if self.sentinels is None or not self.sentinels.moved_from(Address(connection.host, connection.port)):
                return connection
            connection.disconnect()

    def _own_process(self) -> None:
        """At the first use in a process: the parent's sockets and threads are the parent's."""
        if self._pid != os.getpid():
            self._idle, self._pid = deque(), os.getpid()
            self.sentinels = Sentinels(self._settings) if self._settings.redis_sentinels else None

    def open(self, timeout_s: float) -> Connection:
        """A new connection, to the primary, made within about `timeout_s`. May raise redis-py's errors."""
        self._own_process()
        whole_s = self._settings.redis_timeout_s
        limit_s = max(0.05, min(timeout_s, whole_s))
        address = Address(self._settings.redis_host, self._settings.redis_port)
        if self.sentinels is not None:
            address = self.sentinels.primary(limit_s)
            limit_s = min(limit_s, max(GREETING_S, whole_s / 3))        # a frozen one takes connections as well
        connection = connect(self._settings, address.host, address.port, limit_s)
        try:
            if self.sentinels is not None:
                _insist_on_primary(connection, limit_s)
            # the greeting was bound by the caller's time; what is sent later has the whole time
            set_timeout(connection, whole_s)
        except BaseException:
            connection.disconnect()
            raise
        return connection

    def _give_back(self, connection: Connection) -> None:
        """Keep a connection for the next call."""
        if self._closed or len(self._idle) >= MAX_IDLE or self._pid != os.getpid():
            connection.disconnect()
        else:
            self._idle.append(connection)

    def _discard(self, connection: Connection | None) -> None:
        if connection is not None:
            connection.disconnect()
        self._drop_idle()                           # the others are most likely dead as well

    def _drop_idle(self) -> None:
        while self._idle:
            try:
                self._idle.pop().disconnect()
            except IndexError:                      # another thread was faster
                return

    def close(self) -> None:
        """Close all connections; further calls raise ClientClosed."""
        self._closed = True
        self._drop_idle()

    # ---- errors -----------------------------------------------------------------------------------------------------
    def _translate(self, error: Exception) -> RedisConnectionError:
        """What a redis-py error means; raises those that no repetition can mend."""
        from redis.exceptions import AuthenticationError, AuthorizationError, ResponseError

        text = _text_of(error)
        if not isinstance(error, ResponseError) and (refusal := why_refused(error, "redis_ssl_ca_file")):
            raise RedisRefused(f"no connection to Redis at {self._where}: {refusal}") from error
        if isinstance(error, (AuthenticationError, AuthorizationError)) or any(word in text for word in REFUSED):
            raise RedisRefused(f"Redis at {self._where} refuses this user or password: {text}") from error
        if "unknown command" in text.lower():
            raise RedisRefused(f"Redis at {self._where} has no functions: version 7.0 or newer is needed ({text})"
                               ) from error
        if isinstance(error, ResponseError) and not text.startswith(PASSING):
            raise BackendDamaged(f"Redis at {self._where} could not do what it was asked to: {text}") from error
        return RedisConnectionError(self._explain(text))

    @property
    def _where(self) -> str:
        known = self.sentinels.last_primary if self.sentinels is not None else None
        return f"{known}, {self._settings.redis_where}" if known else self._settings.redis_where

    def _explain(self, text: str) -> str:
        word = text.split(" ", 1)[0]
        return f"{EXPLAINED.get(word, 'no answer from Redis')} (at {self._where}): {text}"

    def guarded(self, action: Callable[[], Any]) -> Any:
        """Do something with a connection taken by hand, with redis-py's errors translated."""
        from redis.exceptions import RedisError

        try:
            return action()
        except RedisError as error:
            raise self._translate(error) from error


_PENDING: Final = object()


def _insist_on_primary(connection: Connection, timeout_s: float) -> None:
    """Raises ReadOnlyError when it is a replica: Sentinels may be a moment behind, and a replica's answers are old."""
    from redis.exceptions import ReadOnlyError

    connection.send_packed_command([pack("HELLO")], check_health=False)
    about = connection.read_response(disable_decoding=True, timeout=timeout_s)
    if about[about.index(b"role") + 1] != b"master":
        raise ReadOnlyError("a replica, though the Sentinels call it the primary")


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


def _text_of(error: Exception) -> str:
    """The text of an error reply with its leading word, which redis-py strips where it has a class for it."""
    from redis import exceptions

    text = str(error)
    for kind, word in ((exceptions.BusyLoadingError, "LOADING"), (exceptions.ReadOnlyError, "READONLY"),
                       (exceptions.OutOfMemoryError, "OOM"), (exceptions.NoPermissionError, "NOPERM"),
                       (exceptions.MasterDownError, "MASTERDOWN"), (exceptions.ClusterDownError, "CLUSTERDOWN"),
                       (exceptions.TryAgainError, "TRYAGAIN")):
        if isinstance(error, kind) and not text.startswith(word):
            return f"{word} {text}"
    return text
