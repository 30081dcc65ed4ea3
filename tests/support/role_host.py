"""The daemon's real child roles under a host that does nothing by itself: a test forks, kills and looks as it likes.

`RoleHost` starts a program (this file) that makes the shared memory and the isolator's socket, forks roles through
yadtqd.child as the supervisor does, and reaps them. The test sees the same shared memory. Nothing is restarted.
"""
from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yadtq.config import Settings
from yadtqd.shared import FOR_EVER_NS, Shared
from yadtqd.worker_state import WorkerState

ROOT = Path(__file__).resolve().parents[2]


# ---- the program ----------------------------------------------------------------------------------------------------
class Program:
    """Forks what its standard input asks for, tells on its standard output what died."""

    def __init__(self, settings: Settings) -> None:
        from yadtqd import child, preload

        self.settings = settings
        self.shared = Shared.create(n_slots=32, n_partitions=64)
        self.shared.log_level = logging.getLevelNamesMapping()[settings.log_level]
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind("")
        self.listener.listen(64)
        self.pidfd = os.pidfd_open(os.getpid())
        self.children: dict[int, tuple[str, child.Child, int, tuple[int, ...]]] = {}
        self.slots = 0
        child.become_subreaper()
        preload.preload()
        gc.collect()
        gc.freeze()                     # as in the supervisor: else a child's first collection would copy all pages
        gc.disable()

    def run(self) -> None:
        self.say(pid=os.getpid(), fd=self.shared.fd)
        while True:
            ready, _, _ = select.select([0, *self.children], [], [])
            for fd in ready:
                if fd in self.children:
                    self.reap(fd)
                else:
                    asked = os.read(0, 65536).decode()
                    if not asked:
                        return          # the test is gone, and its children end with us
                    for line in asked.splitlines():
                        self.fork(**json.loads(line))

    def fork(self, role: str, name: str, partitions: list[int], suspects: list[str], hard: list[list[Any]]) -> None:
        from yadtqd import child, roles

        slot = self.shared.slot(self.slots)
        self.slots += 1
        slot.clear()
        ctx = child.ChildContext(
            settings=self.settings, role=role, name=name, slot=slot, shared=self.shared, partitions=tuple(partitions),
            parent_pidfd=self.pidfd, control_fd=self.listener.fileno(), isolator_address=self.address(),
            suspects=tuple(suspects), hard_timed_out=tuple(child.HardTimedOut(*one) for one in hard))
        made = child.fork(ctx, roles.roles()[role], [])
        for partition in partitions:
            self.shared.partitions[partition].worker = slot.index + 1
        self.children[made.pidfd] = name, made, slot.index, tuple(partitions)
        self.say(forked=name, pid=made.pid, slot=slot.index)

    def address(self) -> str:
        name = self.listener.getsockname()
        return name.decode() if isinstance(name, bytes) else str(name)

    def reap(self, pidfd: int) -> None:
        name, made, slot, partitions = self.children.pop(pidfd)
        _, status = os.waitpid(made.pid, 0)
        os.close(pidfd)
        for partition in partitions:
            if self.shared.partitions[partition].worker == slot + 1:
                self.shared.partitions[partition].worker = 0
        self.say(died=name, pid=made.pid, status=os.waitstatus_to_exitcode(status))

    @staticmethod
    def say(**what: Any) -> None:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()


# ---- the test's side ------------------------------------------------------------------------------------------------
class RoleHost:
    """A host; use as a context manager. With `own` those partitions are owned for ever, as in static assignment."""

    def __init__(self, settings: Settings, own: tuple[int, ...] = ()) -> None:
        self.settings, self._own = settings, own
        self.statuses: dict[int, int] = {}          # exit status by pid, -9 for SIGKILL
        self.pids: dict[str, int] = {}
        self.slots: dict[str, int] = {}

    def __enter__(self) -> RoleHost:
        from dataclasses import asdict

        from tests.support.services import reap_with_us  # the program itself, also this module, needs none of it

        plain = json.dumps(asdict(self.settings))
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'client' / 'src'}"}
        self._process = subprocess.Popen([sys.executable, "-m", "tests.support.role_host", plain], cwd=ROOT,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        reap_with_us(self._process.pid)
        try:
            told = self._line(20)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        fd = os.open(f"/proc/{told['pid']}/fd/{told['fd']}", os.O_RDWR)
        self.shared = Shared.attach(fd)
        for partition in self._own:
            row = self.shared.partitions[partition]
            row.owned, row.generation = 1, 1
        if self._own:
            self.shared.lease_ns, self.shared.joined = FOR_EVER_NS, 1
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()                        # its children die with it: PDEATHSIG
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self.shared.close()

    def start(self, role: str, name: str = "", partitions: tuple[int, ...] = (), suspects: tuple[str, ...] = (),
              hard: tuple[tuple[Any, ...], ...] = (), *, wait: bool = True) -> int:
        """Fork a role; with `wait`, until it says that it is RUNNING. Returns its pid."""
        name = name or role
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"role": role, "name": name, "partitions": partitions,
                                              "suspects": suspects, "hard": hard}) + "\n")
        self._process.stdin.flush()
        self.pids.pop(name, None)
        until(lambda: name in self._listen().pids, "a fork", 10)
        if wait:
            until(lambda: self.slot(name).state >= WorkerState.RUNNING or self._died(name), f"{name} running", 30)
            assert not self._died(name), f"{name} died: {self.statuses}"
        return self.pids[name]

    def slot(self, name: str) -> Any:
        return self.shared.slot(self.slots[name])

    def kill(self, name: str, signum: int = signal.SIGKILL) -> None:
        os.kill(self.pids[name], signum)

    def status(self, name: str, timeout_s: float = 15) -> int:
        """Wait until a role has ended; its exit status (-9: SIGKILL)."""
        until(lambda: self._died(name), f"the end of {name}", timeout_s)
        return self.statuses[self.pids[name]]

    def _died(self, name: str) -> bool:
        return self._listen().pids[name] in self.statuses

    def _listen(self) -> RoleHost:
        assert self._process.stdout is not None
        while select.select([self._process.stdout], [], [], 0)[0]:
            told = self._line(5)
            if "forked" in told:
                self.pids[told["forked"]], self.slots[told["forked"]] = told["pid"], told["slot"]
            elif "died" in told:
                self.statuses[told["pid"]] = told["status"]
        return self

    def _line(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise TimeoutError("the host says nothing")
        # one line a read: what select() does not see must not lie in a buffer
        line = b""
        while not line.endswith(b"\n"):
            got = os.read(self._process.stdout.fileno(), 1)
            if not got:
                raise RuntimeError("the host is gone")
            line += got
        return json.loads(line)


def until(done: Callable[[], object], what: str, timeout_s: float = 15.0) -> Any:
    """Wait for a condition; its value."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = done()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {timeout_s:g} s")
        time.sleep(0.005)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    for key in ("tasks", "partitions"):
        given[key] = tuple(given[key])
    with contextlib.suppress(KeyboardInterrupt):
        settings_ = Settings(**given)
        from yadtq import log as logs

        logs.setup(settings_, process="host")
        Program(settings_).run()
