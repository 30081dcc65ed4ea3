"""A real yadtqd for tests: started as a user starts it, watched over its control socket, ended by its pid.

    with Daemon(settings, tmp_path, task_timeout=2) as daemon:
        daemon.wait_running()
        victim = daemon.workers()[0]

Its log is kept in the test's folder and shown when it does not start. Every wait has a deadline.
"""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.services import ROOT, reap_with_us
from yadtq.errors import ControlError
from yadtqd.control_client import ControlClient

if TYPE_CHECKING:
    from yadtq.config import Settings

PASSED_ON = ("kafka_servers", "redis_host", "redis_port", "kafka_task_topic", "kafka_heartbeat_topic",
             "kafka_dead_letter_topic", "kafka_delayed_topic", "kafka_group", "control_socket", "pid_file")


def wait_for(condition: Callable[[], Any], limit_s: float, what: str) -> Any:
    """The first true value of `condition`; AssertionError that says `what` when there is none in time."""
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process with this pid runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Daemon:
    """One yadtqd with a configuration file of its own; `options` override the settings, `env` is for its processes."""

    def __init__(self, settings: Settings, folder: Path, name: str = "yadtqd", *, env: Mapping[str, str] | None = None,
                 **options: Any) -> None:
        self.folder, self.name, self.env = folder, name, dict(env or {})
        values = {option: getattr(settings, option) for option in PASSED_ON}
        values |= {"host_name": name, "tasks": ["tests.support.recording"], "log_level": "INFO"} | options
        self.socket = values["control_socket"]
        self.config = folder / f"{name}.toml"
        self.config.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in values.items()))
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it in the foreground of nobody; `wait_running` waits for it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "yadtqd.main", "--config", str(self.config)], cwd=ROOT, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
                env={k: v for k, v in os.environ.items() if not k.startswith("YADTQ_")} | self.env)
        reap_with_us(self.process.pid)

    def kill(self) -> None:
        """SIGKILL of the supervisor."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def end(self, limit_s: float = 60) -> int:
        """SIGTERM, and its exit status; SIGKILL when it takes too long."""
        if self.process is None or self.process.poll() is not None:
            return self.process.returncode if self.process else 0
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            raise

    def status(self) -> dict[str, Any]:
        """Its snapshot."""
        with ControlClient(self.socket, timeout_s=5) as control:
            found: dict[str, Any] = control.call("status")
            return found

    def workers(self) -> list[dict[str, Any]]:
        """What it says of its workers; none while it can't be asked."""
        try:
            found: list[dict[str, Any]] = self.status()["workers"]
        except ControlError:
            return []
        return found

    def wait_running(self, workers: int = 1, limit_s: float = 40) -> list[dict[str, Any]]:
        """Its workers, when at least so many consume."""
        def running() -> list[dict[str, Any]]:
            assert self.process is not None
            assert self.process.poll() is None, f"yadtqd exited with {self.process.returncode}:\n{self.tail()}"
            found = [w for w in self.workers() if w["state"] == "RUNNING"]
            return found if len(found) >= workers else []
        try:
            found: list[dict[str, Any]] = wait_for(running, limit_s, f"{workers} running workers")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None
        return found

    def family(self) -> list[int]:
        """The pids of all its children, grandchildren included."""
        found, queue = [], [self.pid]
        while queue:
            pid = queue.pop()
            try:
                tasks = list(Path(f"/proc/{pid}/task").iterdir())
                children = [int(c) for task in tasks for c in (task / "children").read_text().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue
            found += children
            queue += children
        return found

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else "no log"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return str(value)
