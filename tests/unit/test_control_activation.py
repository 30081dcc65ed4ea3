"""The control socket when systemd makes it (connections outlive the daemon); yadtqctl waits for a reload or the end."""
from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.control_loop import Loop, connect, ctl
from yadtqd import control_protocol as protocol
from yadtqd import control_server, yadtqctl
from yadtqd.control_client import ControlClient


@pytest.fixture
def systemds(tmp_path: Path) -> Iterator[tuple[socket.socket, Path]]:
    """A listener as systemd makes it, before there is a daemon."""
    path = tmp_path / "activated"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        path.chmod(0o660)
        sock.listen(32)
        yield sock, path


def ask_queued(sock: socket.socket) -> bytes:
    sock.sendall(protocol.encode_frame(protocol.Request(command="ping", id=1), protocol.MAX_REQUEST))
    return sock.recv(65536)


def test_a_connection_from_before_the_daemon_is_answered_and_so_is_one_from_between_two(
        systemds: tuple[socket.socket, Path]) -> None:
    listener, path = systemds
    for _ in range(2):
        with connect(str(path)) as early:
            loop = Loop(path, listener.dup())
            try:
                assert b"4711" in ask_queued(early)
            finally:
                loop.end()
        assert path.exists()                # it is systemd's: the next daemon listens at the same one


def test_what_was_asked_in_the_last_moment_is_answered(systemds: tuple[socket.socket, Path]) -> None:
    listener, path = systemds
    loop = Loop(path, listener.dup())
    with connect(str(path)) as sock:
        assert b"4711" in ask_queued(sock)
        loop.over.set()
        loop.thread.join(10)                # the loop is over, the daemon not yet gone
        sock.sendall(protocol.encode_frame(protocol.Request(command="ping", id=2), protocol.MAX_REQUEST))
        loop.server.close()
        loop.epoll.close()
        assert b"4711" in sock.recv(65536)
        assert sock.recv(1) == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket to another group")
def test_the_group_is_that_of_the_file_not_of_whoever_made_the_socket(systemds: tuple[socket.socket, Path],
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    listener, path = systemds
    os.chown(path, 0, 4711)
    asked: list[int] = []
    monkeypatch.setattr(control_server, "_allowed", lambda _, gid: not asked.append(gid))
    loop = Loop(path, listener.dup())
    try:
        with ControlClient(str(path)) as control:
            control.call("ping")
    finally:
        loop.end()
    assert asked == [4711]


# ---- waiting --------------------------------------------------------------------------------------------------------
def test_reload_waits_until_all_children_are_replaced(systemds: tuple[socket.socket, Path],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    listener, path = systemds
    loop = Loop(path, listener.dup())
    looks = 4
    monkeypatch.setattr(loop.supervisor, "reload", lambda: setattr(loop.supervisor, "reloading", looks))
    try:
        assert "reloaded" not in ctl(str(path), "reload").output
        done = ctl(str(path), "reload", "--wait", "20")
        assert (done.exit_code, done.output.splitlines()[-1]) == (0, "reloaded")
        assert loop.supervisor.reloading == 0
        looks = 10**9
        late = ctl(str(path), "reload", "--wait", "0.3")
        assert late.exit_code == yadtqctl.NO_ANSWER
        assert "not reloaded within 0.3 s" in late.output
    finally:
        loop.end()


@pytest.mark.parametrize("command", ["stop", "drain"])
def test_waiting_for_the_end_opens_no_second_connection_that_would_start_the_daemon_again(
        systemds: tuple[socket.socket, Path], monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    listener, path = systemds
    loop = Loop(path, listener.dup())
    monkeypatch.setattr(loop.supervisor, command, threading.Timer(0.4, loop.end).start)
    result = ctl(str(path), command, "--wait", "20")
    loop.end()
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "stopped")
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()                   # nobody waits at systemd's socket
