"""The proxy carries, delays, holds back, swallows and resets, as it says."""
from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.proxy import Proxy

SHORT_S = 0.3


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets; its port."""
    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Proxy({"link": (0, echo)}) as proxy:
        yield proxy


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.ports["link"]), 10)


def said(connection: socket.socket, text: bytes, limit_s: float = 15) -> bytes | None:
    """What comes back within the limit; None when nothing does."""
    if text:
        connection.sendall(text)
    connection.settimeout(limit_s)
    try:
        return connection.recv(65536)
    except TimeoutError:
        return None


def test_it_carries_and_delays(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        assert said(connection, b"one") == b"one"
        proxy.set("link", "delay", SHORT_S)
        begun = time.monotonic()
        assert said(connection, b"two") == b"two"
        assert time.monotonic() - begun >= 2 * SHORT_S
        proxy.set("link", "pass")
        assert said(connection, b"three") == b"three"


def test_a_drop_holds_back_and_loses_nothing(proxy: Proxy) -> None:
    with connect(proxy) as old:
        assert said(old, b"one") == b"one"
        proxy.set("link", "drop")
        assert said(old, b"two", SHORT_S) is None
        with connect(proxy) as new:
            assert said(new, b"three", SHORT_S) is None
            proxy.set("link", "pass")
            assert said(old, b"") == b"two"
            assert said(new, b"") == b"three"


def test_half_open_swallows_and_resets_when_it_is_healed(proxy: Proxy) -> None:
    with connect(proxy) as old:
        assert said(old, b"one") == b"one"
        proxy.set("link", "half_open")
        with connect(proxy) as new:
            assert said(old, b"two", SHORT_S) is None
            assert said(new, b"three", SHORT_S) is None
            proxy.set("link", "pass")
            for connection in (old, new):
                with pytest.raises(ConnectionResetError):
                    said(connection, b"")
    with connect(proxy) as after:
        assert said(after, b"four") == b"four"


def test_reset_ends_what_is_there_and_what_comes(proxy: Proxy) -> None:
    with connect(proxy) as old:
        assert said(old, b"one") == b"one"
        proxy.set("link", "reset")
        with pytest.raises(ConnectionResetError):
            said(old, b"")
        with pytest.raises(ConnectionError), connect(proxy) as new:     # the reset may come while it still connects
            said(new, b"")
        proxy.set("link", "pass")
        with connect(proxy) as after:
            assert said(after, b"two") == b"two"


def test_a_target_that_is_gone_refuses_and_the_end_is_carried(echo: int) -> None:
    with Proxy({"gone": (0, 1), "link": (0, echo)}) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.ports["gone"]), 10) as gone, pytest.raises(ConnectionError):
            said(gone, b"")
        with connect(proxy) as connection:
            connection.sendall(b"last")
            connection.shutdown(socket.SHUT_WR)
            assert said(connection, b"") == b"last"
            assert said(connection, b"") == b""
