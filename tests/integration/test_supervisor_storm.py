"""Sixteen workers under random signals: slots stay whole, nothing leaks, nobody is left over, and all run again."""
from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.support.tiny_daemon import TinyDaemon, alive
from yadtqd.worker_state import WorkerState

STORM_S = 5.0
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGCONT, signal.SIGUSR1, signal.SIGUSR2,
           signal.SIGSEGV, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD]


def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def check_slot(slot):
    """A tiny worker's tasks tell by themselves whether what is read of them is whole."""
    view = slot.read()
    if view.task is None:
        return 0
    n = view.task.n
    assert view.task.task_id.endswith(f"-{n}")
    assert (view.task.task, view.task.offset, view.task.attempt) == (f"type-{n}", n, n & 7)
    return 1


@pytest.mark.slow
@pytest.mark.fault
def test_a_storm_of_signals(tmp_path):
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    halting = {f"w{n}": "busy:0.002" for n in range(8)}     # mostly with a task in hand; the others write all the time
    with TinyDaemon(tmp_path, halting, partitions=list(range(16)), max_worker_retries=1000, retry_window_s=1,
                    heartbeat_interval=0.4) as daemon:
        daemon.wait(daemon.running)
        shared = daemon.shared()
        slots = [shared.slot(i) for i in range(17)]
        fds, seen, sent = len(os.listdir(f"/proc/{daemon.pid}/fd")), 0, 0
        until = time.monotonic() + STORM_S
        while time.monotonic() < until:
            for pid in chance.sample(found := children(daemon.pid), min(2, len(found))):
                try:
                    os.kill(pid, chance.choice(SIGNALS))
                    sent += 1
                except ProcessLookupError:
                    continue
            if chance.random() < 0.2:
                os.kill(daemon.pid, chance.choice([signal.SIGCHLD, signal.SIGUSR2]))
            seen += sum(map(check_slot, slots))
            time.sleep(0.01)
        for pid in children(daemon.pid):                    # one frozen in its start would be given a minute
            os.kill(pid, signal.SIGCONT)
        daemon.wait(lambda: daemon.running() and len(daemon.workers()) == 16, within_s=40)
        daemon.wait(lambda: daemon.status()["roles"][0]["state"] == WorkerState.RUNNING.name)
        deaths = len(daemon.journal()) - 16
        assert sent > 100
        assert seen > 100
        assert deaths > 16
        daemon.wait(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) <= fds)
        daemon.wait(lambda: len(children(daemon.pid)) == 17)            # no zombie, nobody twice
        for row in daemon.status()["partitions"]:
            assert row["worker"] == f"w{row['partition']}"
        assert "Traceback" not in daemon.log()
        shared.close()
        pids = {row["pid"] for row in daemon.journal()} | set(children(daemon.pid))
        assert daemon.stop() == 0
        assert not any(map(alive, pids))
