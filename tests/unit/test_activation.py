"""The listener that systemd passes: what is taken, what is closed, what is refused, what children get to know."""
from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from yadtq.errors import ConfigurationError
from yadtqd.activation import path_of, take_listener

Pass = Callable[..., tuple[dict[str, str], int]]


@pytest.fixture
def passes() -> Iterator[Pass]:
    """Lays descriptors side by side, as systemd does from 3 on, and makes the environment that goes with them."""
    mine: list[int] = []

    def lay(*given: socket.socket | int, names: str = "", pid: int | None = None) -> tuple[dict[str, str], int]:
        first = 500
        for at, one in enumerate(given, first):
            os.dup2(one if isinstance(one, int) else one.fileno(), at, inheritable=True)
            mine.append(at)
        return {"LISTEN_FDS": str(len(given)), "LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDNAMES": names,
                "HOME": "/"}, first

    yield lay
    for fd in mine:
        with contextlib.suppress(OSError):
            os.close(fd)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        yield sock


def closed(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False


def test_the_listener_is_taken_and_nothing_of_it_is_left_for_children(passes: Pass, listener: socket.socket,
                                                                      tmp_path: Path) -> None:
    env, first = passes(listener, names="control")
    taken = take_listener(env, first)
    assert taken is not None
    assert path_of(taken) == str(tmp_path / "s")
    assert not os.get_inheritable(taken.fileno())
    assert env == {"HOME": "/"}
    taken.detach()


@pytest.mark.parametrize("names", ["", "yadtqd.socket"])
def test_one_alone_needs_no_name(passes: Pass, listener: socket.socket, names: str) -> None:
    env, first = passes(listener, names=names)
    taken = take_listener(env, first)
    assert taken is not None
    taken.detach()


def test_of_several_the_named_one_is_taken_and_the_others_are_closed(passes: Pass, listener: socket.socket,
                                                                     caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as other:
        env, first = passes(other, listener, other, names="http:control:metrics")
        taken = take_listener(env, first)
    assert taken is not None
    assert taken.fileno() == first + 1
    assert closed(first)
    assert closed(first + 2)
    assert "(http) that nobody uses" in caplog.text
    taken.detach()


def test_of_several_without_the_name_none_is_taken(passes: Pass, listener: socket.socket) -> None:
    env, first = passes(listener, listener, names="a:b")
    assert take_listener(env, first) is None
    assert closed(first)


@pytest.mark.parametrize("env", [{}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
                                 {"LISTEN_FDS": "many", "LISTEN_PID": str(os.getpid())},
                                 {"LISTEN_FDS": "-1", "LISTEN_PID": str(os.getpid())},
                                 {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())}])
def test_what_is_not_for_this_process_is_left_alone_and_forgotten(env: dict[str, str]) -> None:
    before = set(os.listdir("/proc/self/fd"))
    assert take_listener(env) is None
    assert env == {}
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_is_no_listening_unix_socket_is_refused(passes: Pass, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as deaf, \
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams, (tmp_path / "f").open("w") as file:
        for given in (tcp, deaf, datagrams, file.fileno()):
            env, first = passes(given, names="control")
            with pytest.raises(ConfigurationError, match="descriptor 500, which is no"):
                take_listener(env, first)


def test_a_socket_without_a_path_has_none() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        assert path_of(sock) == ""
        sock.bind("")
        assert path_of(sock) == ""
