"""The control socket: the protocol for whatever bytes come, the server against slow, rude and many peers."""
from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.control_loop import Loop, connect, ctl
from yadtq.errors import AlreadyRunning, ConfigurationError, ControlError, ControlProtocolError, DaemonNotRunning
from yadtqd import control_protocol as protocol
from yadtqd import control_server, status_view, yadtqctl
from yadtqd.control_client import ControlClient
from yadtqd.control_server import ControlServer


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    running = Loop(tmp_path / "run" / "yadtqd.sock")
    yield running
    running.end()


@pytest.fixture
def path(loop: Loop, tmp_path: Path) -> str:
    return str(tmp_path / "run" / "yadtqd.sock")


def everything(sock: socket.socket) -> bytes:
    got = b""
    try:
        while data := sock.recv(65536):
            got += data
    except ConnectionResetError:
        pass
    return got


# ---- protocol -------------------------------------------------------------------------------------------------------
@given(st.lists(st.dictionaries(st.text(), st.none() | st.integers(-2**53, 2**53) | st.text()), max_size=5), st.data())
def test_frames_survive_any_cut(all_args: list[dict[str, Any]], data: st.DataObject) -> None:
    requests = [protocol.Request(command="c", id=n, args=args) for n, args in enumerate(all_args)]
    stream = b"".join(protocol.encode_frame(r, protocol.MAX_REQUEST) for r in requests)
    reader, bodies = protocol.FrameReader(protocol.MAX_REQUEST), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        bodies += reader.feed(stream[:size])
        stream = stream[size:]
    assert [protocol.decode_request(body) for body in bodies] == requests
    assert not reader.in_frame


@given(st.binary(max_size=300))
def test_rubbish_raises_nothing_but_a_protocol_error(rubbish: bytes) -> None:
    reader = protocol.FrameReader(100)
    try:
        for body in reader.feed(rubbish):
            protocol.decode_request(body)
    except ControlProtocolError:
        pass


def test_deep_nesting_is_a_protocol_error() -> None:
    body = b'{"command":"x","args":{"a":' + b"[" * 30000 + b"]" * 30000 + b"}}"
    with pytest.raises(ControlProtocolError):
        protocol.decode_request(body)


def test_another_version_is_named() -> None:
    with pytest.raises(ControlProtocolError, match="version 2"):
        protocol.decode_request(b'{"v":2,"command":"ping"}')


def test_golden_frame() -> None:
    frame = protocol.encode_frame(protocol.Request(command="ping", id=1), 100)
    assert frame == b'\x00\x00\x00\x29{"command":"ping","id":1,"v":1,"args":{}}'


# ---- server ---------------------------------------------------------------------------------------------------------
def test_commands_reach_the_supervisor(loop: Loop, path: str) -> None:
    with ControlClient(path) as control:
        assert control.call("ping") == {"pid": 4711, "host": "h1", "version": "0.1.0", "state": "RUNNING"}
        assert control.call("status")["workers"][0]["name"] == "w0"
        assert control.call("restart", worker="w0") == {"restarting": ["w0"]}
        control.call("pause", partition=3)
        control.call("resume", partition=3)
        assert control.call("logs", level="debug") == {"level": "DEBUG"}
        control.call("drain")
    assert loop.supervisor.asked == [("restart", "w0"), ("pause", 3), ("resume", 3), ("drain",)]


@pytest.mark.parametrize(("command", "args", "says"), [
    ("fly", {}, "there is no command 'fly'"),
    ("pause", {}, "missing: partition"),
    ("pause", {"partition": "x"}, "a number from 0"),
    ("pause", {"partition": True}, "a number from 0"),
    ("pause", {"partition": -1}, "a number from 0"),
    ("ping", {"x": 1}, "unknown: x"),
    ("restart", {"worker": 3}, "the name of one"),
    ("restart", {"worker": "w9"}, "there is no worker w9"),
    ("logs", {"level": "LOUD"}, "one of DEBUG"),
    ("reload", {}, "a bug in the supervisor"),
    ("__init__", {}, "there is no command"),
])
def test_bad_commands_are_refused_and_the_connection_lives(path: str, command: str, args: dict[str, Any],
                                                           says: str) -> None:
    with ControlClient(path) as control:
        with pytest.raises(ControlError, match=says):
            control.call(command, **args)
        assert control.call("ping")["pid"] == 4711


@pytest.mark.parametrize("rubbish", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 1000, b"\x00\x00\x00\x02{}",
                                     b"\x00\x00\x00\x05hello", b"\x00\x01\x00\x01" + b"x" * 70000])
def test_rubbish_costs_its_sender_the_connection_only(path: str, rubbish: bytes) -> None:
    with connect(path) as sock:
        sock.sendall(rubbish)
        answer = everything(sock)
    assert b"CONTROL_PROTOCOL_ERROR" in answer
    with ControlClient(path) as control:
        assert control.call("ping")["pid"] == 4711


def test_a_flood_of_pipelined_requests_is_cut_off(loop: Loop, path: str) -> None:
    frame = protocol.encode_frame(protocol.Request(command="status"), protocol.MAX_REQUEST)
    with connect(path) as sock:
        sock.sendall(frame * 500)
        answer = everything(sock)
    assert b"CONTROL_PROTOCOL_ERROR" in answer
    assert answer.count(b'"workers"') <= protocol.MAX_REQUEST // len(frame)
    assert loop.longest_s < 1


def test_a_slow_peer_is_closed_and_stops_nobody(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "FRAME_S", 0.3)
    with connect(path) as sock:
        sock.sendall(b"\x00\x00")
        begun = time.monotonic()
        with ControlClient(path) as control:
            assert control.call("ping")["pid"] == 4711
        assert everything(sock) == b""
        assert time.monotonic() - begun < 3


def test_more_clients_than_allowed_are_told_so(path: str) -> None:
    held = [connect(path) for _ in range(control_server.CLIENTS)]
    time.sleep(0.3)
    with pytest.raises(ControlError, match="open already"), ControlClient(path) as control:
        control.call("ping")
    for sock in held:
        sock.close()
    deadline = time.monotonic() + 5
    while True:
        try:
            with ControlClient(path) as control:
                control.call("ping")
            break
        except ControlError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_the_socket_is_private_and_not_taken_twice(loop: Loop, path: str) -> None:
    assert Path(path).stat().st_mode & 0o777 == 0o660
    with pytest.raises(AlreadyRunning):
        ControlServer(SimpleNamespace(control_socket=path), loop.supervisor)  # type: ignore[arg-type]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_refused_even_where_the_mode_lets_it_in(loop: Loop, path: str, tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp())           # pytest's own folders are closed to other users
    folder.chmod(0o755)
    loop.end()
    opened = Loop(folder / "s")
    ask = ("import socket,os,sys; os.setgroups([]); os.setgid(65534); os.setuid(65534);"
           "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(1000))")
    command = [sys.executable, "-c", ask, str(folder / "s")]
    try:
        closed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert "PermissionError" in closed.stderr
        (folder / "s").chmod(0o666)
        refused = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert "ACCESS_DENIED" in refused.stdout
    finally:
        opened.end()
        shutil.rmtree(folder)


def test_a_stale_socket_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    stale = tmp_path / "s"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(stale))
    sock.close()
    control_server.listen(stale).close()
    plain = tmp_path / "f"
    plain.write_text("mine")
    with pytest.raises(ConfigurationError, match="no socket"):
        control_server.listen(plain)
    assert plain.read_text() == "mine"


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(DaemonNotRunning):
        ControlClient(str(tmp_path / "none"))


# ---- yadtqctl -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("args", "status", "says"), [
    (["ping"], 0, "yadtqd 0.1.0 on h1 (pid 4711) is RUNNING"),
    (["status"], 0, "tasks done 12,345, failed 6, waiting 7"),
    (["status", "--check"], 0, "w0"),
    (["workers"], 0, "0-2,5"),
    (["pause", "1"], 0, "partition 1 is paused"),
    (["resume", "1"], 0, "goes on"),
    (["restart", "w9"], 1, "there is no worker w9"),
    (["restart"], 0, "restarting w0"),
    (["reload"], 1, "a bug in the supervisor"),
    (["logs"], 0, "INFO"),
    (["logs", "debug"], 0, "DEBUG"),
    (["logs", "loud"], 2, "Invalid value"),
    (["pause", "x"], 2, "Invalid value"),
    (["top"], 0, "RUNNING"),
    (["drain"], 0, "draining"),
    (["completion", "bash"], 0, "_YADTQCTL_COMPLETE"),
    (["fly"], 2, "No such command"),
])
def test_yadtqctl(path: str, args: list[str], status: int, says: str) -> None:
    result = ctl(path, *args)
    assert says in result.output
    assert result.exit_code == status


def test_yadtqctl_json(path: str) -> None:
    assert json.loads(ctl(path, "status", "--json").output)["daemon"]["pid"] == 4711
    assert json.loads(ctl(path, "workers", "--json").output)[0]["name"] == "w0"
    assert json.loads(ctl(path, "ping", "--json").output)["state"] == "RUNNING"


def test_yadtqctl_check_and_absence(loop: Loop, path: str, tmp_path: Path) -> None:
    loop.supervisor.state = "DEGRADED"
    assert ctl(path, "status", "--check").exit_code == yadtqctl.UNHEALTHY
    result = ctl(str(tmp_path / "none"), "status")
    assert result.exit_code == yadtqctl.NOT_RUNNING
    assert "is it started?" in result.output


@pytest.mark.parametrize(("seconds", "text"), [(4.21, "4.2 s"), (200, "3 min 20 s"), (18120, "5 h 2 min"),
                                               (273600, "3 d 4 h")])
def test_durations(seconds: float, text: str) -> None:
    assert status_view.duration(seconds) == text
