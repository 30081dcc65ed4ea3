"""The real yadtqd with a listener from outside, as systemd starts it: it takes it, keeps it from its children, and who
connects while there is no daemon is answered by the next one. No Kafka is needed: the control socket answers at once.
"""
from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import wait_for
from tests.support.services import ROOT, reap_with_us
from yadtqd import control_protocol as protocol
from yadtqd.control_client import ControlClient

START = ('if [ "$1" != 3 ]; then eval "exec 3<&$1 $1<&-"; fi; shift; '
         'export LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=control; exec "$@"')


class Activated:
    """A listening socket, and at times a daemon on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "yadtqd.sock"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(32)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **options: str) -> subprocess.Popen[bytes]:
        given = {"kafka_servers": "127.0.0.1:1", "redis_port": "1", "pid_file": str(self.folder / "y.pid"),
                 "control_socket": str(self.path), **options}
        config = self.folder / "y.toml"
        config.write_text("".join(f'{name} = {value if value.isdigit() else f"{value!r}"}\n'
                                  for name, value in given.items()))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", START, "-", str(self.listener.fileno()), sys.executable, "-m", "yadtqd.main", "--config",
                 str(config)], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                pass_fds=[self.listener.fileno()],
                env={k: v for k, v in os.environ.items() if not k.startswith("YADTQ_")})
        reap_with_us(self.process.pid)
        return self.process

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def ask_early(self) -> socket.socket:
        """A connection with a request in it, which nobody has accepted yet."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(str(self.path))
        sock.sendall(protocol.encode_frame(protocol.Request(command="ping", id=1), protocol.MAX_REQUEST))
        return sock

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self.listener.close()


@pytest.fixture
def activated(tmp_path: Path) -> Iterator[Activated]:
    made = Activated(tmp_path)
    yield made
    made.end()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_connections_wait_for_the_next_daemon(activated: Activated, signum: int) -> None:
    first = activated.start()
    with ControlClient(str(activated.path), timeout_s=20) as control:
        assert control.call("ping")["pid"] == first.pid
    first.send_signal(signum)
    first.wait(30)
    with activated.ask_early() as early:
        second = activated.start()
        assert f'"pid":{second.pid}'.encode() in early.recv(65536)
    assert activated.path.exists()


def test_no_child_has_the_listener(activated: Activated) -> None:
    process = activated.start()
    inode = os.readlink(f"/proc/self/fd/{activated.listener.fileno()}")

    def descriptors(pid: int) -> list[str]:
        found = []
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):        # closed since
                found.append(os.readlink(fd))
        return found

    with ControlClient(str(activated.path), timeout_s=20) as control:
        found = wait_for(lambda: [r["pid"] for r in control.call("status")["roles"] if r["state"] == "RUNNING"], 20,
                         "a role that runs")
    assert descriptors(process.pid).count(inode) == 1
    assert all(inode not in descriptors(pid) for pid in found)


def test_a_socket_elsewhere_than_configured_is_told(activated: Activated) -> None:
    process = activated.start(control_socket=str(activated.folder / "other"))
    with ControlClient(str(activated.path), timeout_s=20) as control:
        assert control.call("ping")["pid"] == process.pid
    assert f"systemd listens at {activated.path}: control_socket = {activated.folder}/other" in activated.log()
    assert not (activated.folder / "other").exists()
