"""A supervisor's loop with nothing in it but the control server, and the two ends that talk to it."""
from __future__ import annotations

import select
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from click.testing import CliRunner

from yadtq.errors import ControlError
from yadtqd import yadtqctl
from yadtqd.control_server import ControlServer


class FakeSupervisor:
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.level = "INFO"
        self.state = "RUNNING"
        self.reloading = 0              # so many looks until the reload is done

    def snapshot(self) -> dict[str, Any]:
        self.reloading = max(self.reloading - 1, 0)
        return {
            "daemon": {"pid": 4711, "host": "h1", "version": "0.1.0", "state": self.state, "reasons": [],
                       "reloading": self.reloading > 0,
                       "uptime_s": 75.0, "config_file": None, "assignment": "group", "log_level": self.level,
                       "done": 12345, "failed": 6, "lag": 7, "kafka": "k:9092", "redis": "r:6379"},
            "workers": [{"name": "w0", "id": "h1/w0", "pid": 4712, "state": "RUNNING", "partitions": [0, 1, 2, 5],
                         "beat_age_s": 0.3, "task": "addition", "task_id": "0190", "task_for_s": 2.0, "done": 5,
                         "failed": 0, "restarts": 1, "lag": 3, "epoch": 9, "rss_bytes": 20_000_000,
                         "next_start_in_s": None}],
            "roles": [{"name": "membership", "pid": 4713, "state": "RUNNING", "beat_age_s": 0.1, "restarts": 0,
                       "rss_bytes": None, "note": None}],
            "partitions": [{"partition": 0, "owned": True, "paused": False, "worker": "w0", "epoch": 9,
                            "watermark": 10, "committed": 8, "end": 13, "lag": 3}],
        }

    def restart(self, name: str | None = None) -> list[str]:
        if name == "w9":
            raise ControlError("there is no worker w9; there are: w0")
        self.asked.append(("restart", name))
        return ["w0"]

    def pause(self, partition: int) -> None:
        self.asked.append(("pause", partition))

    def resume(self, partition: int) -> None:
        self.asked.append(("resume", partition))

    def drain(self) -> None:
        self.asked.append(("drain",))

    def reload(self) -> None:
        raise ValueError("a bug in the supervisor")

    def stop(self) -> None:
        self.asked.append(("stop",))

    def set_log_level(self, level: str) -> None:
        self.level = level


class Loop:
    """A supervisor's loop in a thread, nothing in it but the control server."""

    def __init__(self, path: Path, listener: socket.socket | None = None) -> None:
        self.supervisor = FakeSupervisor()
        self.server = ControlServer(SimpleNamespace(control_socket=str(path)), self.supervisor,  # type: ignore[arg-type]
                                    listener)
        self.epoll = select.epoll()
        self.server.register(self.epoll)
        self.longest_s = 0.0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while not self.over.is_set():
            events = self.epoll.poll(0.05)
            begun = time.monotonic()
            for fd, mask in events:
                assert self.server.handle(fd, mask)
            self.server.tick(time.monotonic())
            self.longest_s = max(self.longest_s, time.monotonic() - begun)

    def end(self) -> None:
        if self.over.is_set():
            return
        self.over.set()
        self.thread.join(5)
        self.server.close()
        self.epoll.close()


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    sock.connect(path)
    return sock


def ctl(path: str, *args: str) -> Any:
    return CliRunner().invoke(yadtqctl.main, ["--socket", path, *args])
