"""A yadtqd whose roles are tiny: the real supervisor, forks, signals and control socket, without Kafka and Redis.

Run as a program (`python -m tests.support.tiny_daemon '{"folder": ..., ...}'`); `TinyDaemon` starts it for a test.
Workers write a line to FOLDER/journal.jsonl at each start and behave as the test's `behaviour` for their name says.
"""
from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yadtq import log as logs
from yadtq.config import Settings
from yadtqd.child import ChildContext
from yadtqd.control_client import ControlClient
from yadtqd.control_server import ControlServer
from yadtqd.daemonize import ReadyPipe, launch
from yadtqd.exits import Exit
from yadtqd.pid_file import PidFile
from yadtqd.shared import FOR_EVER_NS, Shared, boottime_ns
from yadtqd.slot import WAITS_FOR_KAFKA
from yadtqd.supervisor import Supervisor
from yadtqd.worker_state import WorkerState

ROOT = Path(__file__).resolve().parents[2]
log = logging.getLogger("tiny")


# ---- the program ----------------------------------------------------------------------------------------------------
class Tiny:
    """The roles; `behaviour` maps a worker's name to what it does, "*" to what the others do."""

    def __init__(self, folder: Path, behaviour: dict[str, str]) -> None:
        self.folder, self.behaviour = folder, behaviour

    def membership(self, ctx: ChildContext) -> int:
        """Claims what FOLDER/owned.json says, as the real one claims what the group says."""
        stopping = _on_sigterm()
        ctx.slot.state = WorkerState.RUNNING
        seen = ""
        while not stopping.is_set():
            ctx.slot.beat(time.monotonic_ns())
            with contextlib.suppress(FileNotFoundError):
                text = (self.folder / "owned.json").read_text()
                if text != seen:
                    seen = text
                    self._claim(ctx.shared, json.loads(text))
            time.sleep(0.01)
        self._note(ctx, event="left", workers=[row.worker for row in map(ctx.shared.partitions.__getitem__, range(16))])
        return Exit.OK

    def _claim(self, shared: Shared, wanted: dict[str, Any]) -> None:
        lease_s = wanted.get("lease_s")
        shared.lease_ns = FOR_EVER_NS if lease_s is None else boottime_ns() + int(lease_s * 1e9)
        for partition in set(shared.partitions.owned()) | set(wanted["owned"]):
            row = shared.partitions[partition]
            row.generation += partition in wanted["owned"] and not row.owned
            row.owned = int(partition in wanted["owned"])
        shared.joined = 1
        shared.ownership_changed()

    def worker(self, ctx: ChildContext) -> int:
        """Does what its behaviour says; those with "-once" only until its second start."""
        what = self.behaviour.get(ctx.name, self.behaviour.get("*", "busy"))
        marker = self.folder / f"{ctx.name}.once"
        if what.endswith("-once"):
            what = "busy" if marker.exists() else what.removesuffix("-once")
            marker.touch()
        stopping = _on_sigterm()
        self._note(ctx, event="start")
        name, _, argument = what.partition(":")
        return getattr(self, f"_{name}")(ctx, stopping, argument)

    def _busy(self, ctx: ChildContext, stopping: threading.Event, argument: str) -> int:
        slot, n = ctx.slot, 0
        slot.state = WorkerState.RUNNING
        while not stopping.is_set():
            n += 1
            now = time.monotonic_ns()
            slot.beat(now)
            slot.begin(n, f"task-{ctx.name}-{n}", f"type-{n}", ctx.partitions[0], n, now, 0, 0, attempt=n & 7)
            until = time.monotonic() + float(argument or 0)
            while time.monotonic() < until and not stopping.is_set():
                slot.beat(time.monotonic_ns())
                time.sleep(0.01)
            slot.end()
            slot.count(done=1)
            if n % 100 == 0:
                time.sleep(0.001)
        return Exit.OK

    def _idle(self, ctx: ChildContext, stopping: threading.Event, argument: str) -> int:
        ctx.slot.state = WorkerState.RUNNING
        while not stopping.is_set():
            ctx.slot.beat(time.monotonic_ns())
            time.sleep(0.01)
        return Exit.OK

    def _exit(self, ctx: ChildContext, stopping: threading.Event, argument: str) -> int:
        return int(argument)

    def _raise(self, ctx: ChildContext, stopping: threading.Event, argument: str) -> int:
        raise ValueError("a role that fails")

    def _hang(self, ctx: ChildContext, stopping: threading.Event, argument: str) -> int:
        ctx.slot.state = WorkerState.RUNNING
        ctx.slot.begin(1, "the-hanging-task", "sleepy", ctx.partitions[0], 41, time.monotonic_ns(), 0, 0)
        while True:
            time.sleep(60)

    def _overdue(self, ctx: ChildContext, stopping: threading.Event, argument: str) -> int:
        """A task past its soft deadline at once, past its hard one after `argument` seconds; beats on."""
        soft = []
        signal.signal(signal.SIGUSR1, lambda *_: soft.append(ctx.slot.soft_for))
        ctx.slot.state = WorkerState.RUNNING
        now = time.monotonic_ns()
        hard = now + int(float(argument) * 1e9)
        ctx.slot.begin(7, "the-long-task", "endless", ctx.partitions[0], 77, now, now + 1, hard, attempt=2)
        while True:
            ctx.slot.beat(time.monotonic_ns())
            if soft:
                self._note(ctx, event="soft", soft_for=soft.pop(), seq=ctx.slot.seq)
            time.sleep(0.01)

    def _stuck(self, ctx: ChildContext, stopping: threading.Event, argument: str) -> int:
        ctx.slot.state = WorkerState.RUNNING
        ctx.slot.lag = 5
        while True:
            ctx.slot.beat(time.monotonic_ns())
            time.sleep(0.01)

    def _deaf(self, ctx: ChildContext, stopping: threading.Event, argument: str) -> int:
        """Never drains."""
        ctx.slot.state = WorkerState.RUNNING
        while True:
            ctx.slot.beat(time.monotonic_ns())
            time.sleep(0.01)

    def _parent(self, ctx: ChildContext, stopping: threading.Event, argument: str) -> int:
        """Leaves a process of its own behind."""
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
            os._exit(0)
        self._note(ctx, event="stray", stray=pid)
        return self._idle(ctx, stopping, argument)

    def _waits(self, ctx: ChildContext, stopping: threading.Event, argument: str) -> int:
        ctx.slot.waiting_for = WAITS_FOR_KAFKA
        while not stopping.is_set():
            ctx.slot.beat(time.monotonic_ns())
            time.sleep(0.01)
        return Exit.OK

    def _note(self, ctx: ChildContext, **what: Any) -> None:
        fds = {os.readlink(f"/proc/self/fd/{fd}") if os.path.exists(f"/proc/self/fd/{fd}") else "" for fd in
               os.listdir("/proc/self/fd")}
        row = {"name": ctx.name, "pid": os.getpid(), "partitions": ctx.partitions, "suspects": ctx.suspects,
               "hard": ctx.hard_timed_out, "fds": sorted(fds - {""}), "at": time.monotonic(),
               "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
               "threads": len(os.listdir("/proc/self/task")), "reload_seq": ctx.shared.reload_seq,
               "timeout": ctx.settings.task_timeout, **what}
        with open(self.folder / "journal.jsonl", "a") as journal:
            journal.write(json.dumps(row) + "\n")


def _on_sigterm() -> threading.Event:
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    return stopping


def main() -> int:
    """Start as the JSON in the first argument says."""
    given = json.loads(sys.argv[1])
    folder = Path(given["folder"])

    def load() -> Settings:
        extra = json.loads((folder / "reload.json").read_text()) if (folder / "reload.json").exists() else {}
        return Settings.load(env={}, **(given["settings"] | extra))

    settings = load()
    tiny = Tiny(folder, given["behaviour"])
    pid_file = PidFile(settings.pid_file)

    def run(pipe: ReadyPipe | None = None) -> int:
        logs.setup(settings, process="supervisor")
        pid_file.write()
        supervisor = Supervisor(
            settings, {"membership": tiny.membership, "worker": tiny.worker}, load_settings=load,
            make_control=lambda s: ControlServer(s.settings, s), on_ready=pipe.up if pipe else None,
            lock_fds=[pid_file.fd, *([pipe.fd] if pipe else [])])
        try:
            return supervisor.run()
        finally:
            pid_file.remove()

    if given.get("daemon"):
        return launch(run, settings.log_file, [pid_file.fd])
    return run()


# ---- the test's side ------------------------------------------------------------------------------------------------
class TinyDaemon:
    """Starts the program and looks at it. Use as a context manager: it leaves no process behind."""

    def __init__(self, folder: Path, behaviour: dict[str, str] | None = None, **settings: Any) -> None:
        self.folder = folder
        defaults = {"assignment": "static", "partitions": [0, 1], "heartbeat_interval": 0.5, "log_format": "plain",
                    "missed_heartbeats_threshold": 3, "drain_timeout_s": 5, "log_level": "DEBUG", "host_name": "tiny",
                    "control_socket": str(folder / "s.sock"), "pid_file": str(folder / "y.pid")}
        self.given = {"folder": str(folder), "behaviour": behaviour or {}, "settings": defaults | settings}
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> TinyDaemon:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def start(self) -> None:
        """Start it, without waiting for anything."""
        from tests.support.services import reap_with_us  # the daemon itself, also this module, needs none of it

        with open(self.folder / "log", "ab") as stream:
            self.process = subprocess.Popen([sys.executable, "-m", "tests.support.tiny_daemon", json.dumps(self.given)],
                                            cwd=ROOT, stderr=stream, stdout=stream)
        reap_with_us(self.process.pid)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def own(self, *partitions: int, lease_s: float | None = None) -> None:
        """What the tiny membership claims from now on (group assignment)."""
        new = self.folder / "owned.new"
        new.write_text(json.dumps({"owned": partitions, "lease_s": lease_s, "at": time.monotonic()}))
        new.rename(self.folder / "owned.json")

    def call(self, command: str, **args: Any) -> Any:
        with ControlClient(str(self.folder / "s.sock")) as control:
            return control.call(command, **args)

    def status(self) -> dict[str, Any]:
        return self.call("status")

    def workers(self) -> dict[str, dict[str, Any]]:
        return {w["name"]: w for w in self.status()["workers"]}

    def running(self, *names: str) -> bool:
        """Whether exactly these workers (any, if none are named) are there and all RUNNING."""
        workers = self.workers()
        return bool(workers) and (not names or set(workers) == set(names)) and all(
            w["state"] == "RUNNING" for w in workers.values())

    def journal(self, event: str = "start", name: str | None = None) -> list[dict[str, Any]]:
        path = self.folder / "journal.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row for row in rows if row["event"] == event and name in (None, row["name"])]

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def wait(self, until: Callable[[], Any], within_s: float = 15.0) -> Any:
        """What `until` returns once that is true; an AssertionError with the daemon's log after `within_s`."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with contextlib.suppress(ConnectionError, FileNotFoundError):
                if found := until():
                    return found
            time.sleep(0.01)
        raise AssertionError(f"not within {within_s} s; the daemon's log:\n{self.log()[-6000:]}")

    def stop(self, within_s: float = 15.0) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def shared(self) -> Shared:
        """Its shared memory, mapped into this process."""
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            path = f"/proc/{self.pid}/fd/{fd}"
            if "yadtq-slots" in os.readlink(path):
                return Shared.attach(os.open(path, os.O_RDWR))
        raise AssertionError("no slots")


def alive(pid: int) -> bool:
    """Whether there is a process with this pid that is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


if __name__ == "__main__":
    sys.exit(main())
