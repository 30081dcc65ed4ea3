"""A real daemon whose control socket is fed with everything at once: it goes on, its workers too, and obeys."""
from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS
from tests.support.tiny_daemon import TinyDaemon
from yadtq.errors import ControlError
from yadtqd import control_protocol as protocol

pytestmark = pytest.mark.fault
SECONDS = 6.0
LIMIT_S = 60.0          # a busy machine has the rude threads, which share this process, take most of it


class Peers:
    """Threads that misbehave until `over`."""

    def __init__(self, path: str, seed: int) -> None:
        self.path, self.over, self.sent = path, threading.Event(), 0
        rude: list[Callable[[socket.socket, random.Random], None]] = [
            self.rubbish, self.half, self.huge, self.nearly_right, self.never_reads, self.hangs_up, self.one_by_one,
            self.silent]
        self.threads = [threading.Thread(target=self.run, args=(kind, random.Random(seed + n)))
                        for n, kind in enumerate(rude * 2)]
        for thread in self.threads:
            thread.start()

    def run(self, kind: Callable[[socket.socket, random.Random], None], rng: random.Random) -> None:
        while not self.over.is_set():
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(1)
                sock.connect(self.path)
                kind(sock, rng)
                self.sent += 1

    def end(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()

    def rubbish(self, sock: socket.socket, rng: random.Random) -> None:
        sock.sendall(rng.randbytes(rng.randint(1, 5000)))
        sock.recv(1000)

    def half(self, sock: socket.socket, rng: random.Random) -> None:
        sock.sendall(protocol.encode_frame(protocol.Request(command="status"), 1000)[:rng.randint(1, 20)])
        time.sleep(0.05)

    def huge(self, sock: socket.socket, rng: random.Random) -> None:
        sock.sendall(b"\x00\x00\xff\xff" + b"[" * 65535)
        sock.recv(1000)

    def nearly_right(self, sock: socket.socket, rng: random.Random) -> None:
        seeds = [protocol.encode_frame(protocol.Request(command=one, args=args), 1000) for one, args in (
            ("ping", {}), ("status", {}), ("logs", {"level": "DEBUG"}), ("pause", {"partition": 999}),
            ("resume", {"partition": 2**70}), ("restart", {"worker": "w99"}))]
        sock.sendall(mutated([*seeds, *TARGETS["control_frame"].seeds], rng))
        sock.recv(1000)

    def never_reads(self, sock: socket.socket, rng: random.Random) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        frame = protocol.encode_frame(protocol.Request(command="status"), 1000)
        for _ in range(1000):
            sock.sendall(frame * 4)

    def hangs_up(self, sock: socket.socket, rng: random.Random) -> None:
        sock.sendall(protocol.encode_frame(protocol.Request(command="status"), 1000))

    def one_by_one(self, sock: socket.socket, rng: random.Random) -> None:
        for byte in protocol.encode_frame(protocol.Request(command="ping", v=rng.randint(-1, 3)), 1000):
            sock.sendall(bytes([byte]))
        sock.recv(1000)

    def silent(self, sock: socket.socket, rng: random.Random) -> None:
        time.sleep(0.1)


def test_a_daemon_under_rude_peers(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    with TinyDaemon(tmp_path, heartbeat_interval=0.5) as daemon:
        daemon.wait(lambda: daemon.running("w0", "w1"))
        before = sorted(row["pid"] for row in daemon.status()["workers"])
        peers = Peers(str(tmp_path / "s.sock"), seed)
        answers = 0
        begun = time.monotonic()
        while (took := time.monotonic() - begun) < SECONDS or (took < LIMIT_S and (answers <= 10 or peers.sent <= 100)):
            with contextlib.suppress(ControlError, OSError):     # all places may be taken for a moment
                assert daemon.call("ping")["state"] in ("RUNNING", "DEGRADED")
                answers += 1
            time.sleep(0.05)
        peers.end()
        assert peers.sent > 100
        assert answers > 10, "a well-behaved peer was served among them"
        daemon.wait(lambda: daemon.status()["daemon"]["state"] == "RUNNING", within_s=20)
        assert sorted(row["pid"] for row in daemon.status()["workers"]) == before, "no worker was hurt"
        assert "Traceback" not in daemon.log()
        assert daemon.stop() == 0
