"""One connection to a Redis or to a Sentinel: address, user, TLS, time limits, on redis-py's connections.

Used by `yadtq.redis_client` and `yadtq.redis_sentinel` in whatever thread connects. Never retries, never pools.
"""
from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from yadtq import tls

if TYPE_CHECKING:
    from redis.connection import Connection

    from yadtq.config import Settings


def connect(settings: Settings, host: str, port: int, timeout_s: float, *, sentinel: bool = False) -> Connection:
    """A connection that is greeted and logged in within about `timeout_s`. Raises redis-py's errors and, for files
    that are no good, ConfigurationError."""
    from redis.backoff import NoBackoff
    from redis.connection import Connection
    from redis.retry import Retry

    username, password = (settings.redis_sentinel_username, settings.redis_sentinel_password) if sentinel else (
        settings.redis_username, settings.redis_password)
    options: dict[str, Any] = {
        "host": host, "port": port, "db": 0 if sentinel else settings.redis_db,
        "username": username or None, "password": password or None,
        "socket_timeout": timeout_s, "socket_connect_timeout": timeout_s,
        "protocol": 2, "retry": Retry(NoBackoff(), 0), "health_check_interval": 0, "socket_keepalive": True,
    } | introduction()
    if settings.redis_ssl:
        connection: Connection = _secure()(tls.context(settings, "redis"), **options)
    else:
        connection = Connection(**options)
    connection.connect()
    return connection


@cache
def introduction() -> dict[str, Any]:
    """How redis-py introduces itself to Redis (CLIENT LIST). Said once: it would look its version up in the files of
    its installation for each connection, which takes a millisecond, and 2 MB of memory the first time."""
    import redis

    try:
        from redis.driver_info import DriverInfo
    except ImportError:                                 # redis-py 7
        return {"lib_version": redis.__version__}
    return {"driver_info": DriverInfo(lib_version=redis.__version__)}


def set_timeout(connection: Connection, timeout_s: float) -> None:
    """The time limit of what is sent and read from now on, in redis-py's parser too."""
    connection.socket_timeout = timeout_s
    connection._parser._socket_timeout = timeout_s
    sock: Any = connection._sock
    sock.settimeout(timeout_s)


@cache
def _secure() -> Any:
    """A connection of redis-py with a TLS context of ours: its own reads the files of the authorities each time."""
    from redis.connection import Connection

    class SecureConnection(Connection):
        def __init__(self, context: Any, **options: Any) -> None:
            self._context = context
            super().__init__(**options)         # type: ignore[no-untyped-call]

        def _connect(self) -> Any:
            sock: Any = super()._connect()      # type: ignore[no-untyped-call]
            try:
                return self._context.wrap_socket(sock, server_hostname=self.host)
            except BaseException:
                sock.close()
                raise

    return SecureConnection
