"""Isolated attempts on a real worker and isolator: several at once, memory limits, what they leave behind, a drain."""
from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.queue_user import QueueUser
from tests.support.recorded import History
from tests.support.role_host import RoleHost, until
from yadtq.config import Settings
from yadtq.result_backend import ClaimEntry
from yadtqd.exits import Exit

pytestmark = pytest.mark.integration


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.replace(tasks=("tests.support.poison", "tests.support.recording"), auto_commit_interval_ms=100,
                            isolated_concurrency=3)


@pytest.fixture
def user(quick: Settings) -> Iterator[QueueUser]:
    with QueueUser(quick) as user:
        yield user


def starts(path: Path) -> list[int]:
    """Tokens in the order of their starts."""
    return list(History.read(path).starts) if path.exists() else []


def processes(marker: str) -> list[int]:
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in command.read_bytes().split(b"\0"):
                found.append(int(command.parent.name))
        except OSError:
            continue
    return found


def test_several_at_once_in_order_and_nobody_waits_for_them(quick: Settings, user: QueueUser, tmp_path: Path) -> None:
    path = tmp_path / "history"
    with RoleHost(quick, own=(0,)) as host:
        host.start("isolator")
        host.start("worker", "w0", (0,))
        slow = user.send([user.message("p.isolated_sleep", str(path), n, 2.0) for n in range(3)], partition=0)
        quick_one = user.submit("recorded", str(path), 100)
        assert user.result(quick_one)[0] == 100
        assert not any(record.state == "OK" for n in slow if (record := user.record(n))), "they are still under way"
        until(lambda: len(starts(path)) == 4, "three of them at once")
        until(lambda: all((record := user.record(n)) and record.shown for n in slow), "PROCESSING")
        task = host.slot("w0").read().task
        assert task is not None
        assert task.task_id in slow
        begun = time.monotonic()
        ids = user.send([user.message("p.isolated_sleep", str(path), n, 0.5) for n in range(3, 12)], partition=0)
        results = user.results([*slow, *ids])
        assert time.monotonic() - begun < 2 + 4.5, "one by one it would be more"
        assert len({pid for _, pid in results}) == 12
        assert sorted(starts(path)) == [*range(12), 100]
        until(lambda: host.shared.partitions[0].watermark == 13, "the watermark")
        assert not host.statuses


def test_memory_limits(quick: Settings, user: QueueUser) -> None:
    with RoleHost(quick, own=(0,)) as host:
        host.start("isolator")
        host.start("worker", "w0", (0,))
        for task in ("p.isolated_creep", "p.isolated_async_hog"):
            error = user.error(user.submit(task, timeout_s=60.0))
            assert (error.code, error.error_type) == ("TASK_MEMORY_LIMIT", "MemoryError")
            assert error.message.startswith(f"{task} ran into its memory limit of 160 MiB")
        large = user.error(user.submit("p.isolated_large_result", 70_000_000, timeout_s=60.0))
        assert large.code == "PAYLOAD_TOO_LARGE", "the limit is the handler's, not that of telling how it ended"
        assert not host.statuses


def test_what_an_attempt_leaves_behind_is_ended_with_it(quick: Settings, user: QueueUser, tmp_path: Path) -> None:
    """Also what went into a session of its own, and while other attempts are under way."""
    marker = f"{300 + uuid.uuid4().int % 10**6 / 10**6:.6f}"
    with RoleHost(quick, own=(0,)) as host:
        host.start("isolator")
        host.start("worker", "w0", (0,))
        long = user.submit("p.isolated_sleep", str(tmp_path / "history"), 1, 8.0)
        until(lambda: starts(tmp_path / "history"), "another attempt")
        assert user.result(user.submit("p.isolated_leaves", marker)) > 0
        until(lambda: not processes(marker), "nothing left", 5)
        record = user.record(long)
        assert record is not None
        assert record.state == "P"
        assert user.result(long)[0] == 1
        stuck = user.submit("p.isolated_stuck", str(tmp_path / "stuck"), 2, "sleep", timeout_s=0.3, grace_s=0.3)
        assert user.error(stuck).code == "TASK_HARD_TIMEOUT"


def test_a_drain_lets_them_end_or_breaks_them_off_without_counting_it(quick: Settings, user: QueueUser,
                                                                      tmp_path: Path) -> None:
    """A suspect that a drain breaks off had `lone` counted before; its next run is not one more that nobody saw."""
    path, settings = tmp_path / "history", quick.replace(drain_timeout_s=2.0)
    suspect = user.message("recorded", str(path), 1, 60.0, timeout_s=90.0)
    user.send([suspect], partition=0)
    entry = ClaimEntry(suspect.id, 0, 0, suspect.task, suspect.submitted_ms)
    assert user.backend.claim(0, 0, [entry], 1)[0].answer == "RUN"        # by a worker that nobody saw die
    with RoleHost(settings, own=(0,)) as host:
        host.start("isolator")
        host.start("worker", "w0", (0,))
        until(lambda: starts(path) == [1], "its start")
        child = processes_of(host.pids["isolator"])[0]
        host.kill("w0", signal.SIGTERM)
        assert host.status("w0") == Exit.OK
        until(lambda: not os.path.exists(f"/proc/{child}"), "the end of its process")
        entry = ClaimEntry(suspect.id, 0, 0, suspect.task, suspect.submitted_ms)
        claim = user.backend.claim(0, 10**6, [entry], 1)[0]
        assert (claim.answer, claim.seen, claim.lone) == ("RUN", 0, 0)


def processes_of(pid: int) -> list[int]:
    """The children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_handler_that_leaves_signals_blocked_keeps_its_worker_from_nothing(quick: Settings, user: QueueUser) -> None:
    with RoleHost(quick, own=(0,)) as host:
        pid = host.start("worker", "w0", (0,))
        assert user.result(user.submit("p.block_signals")) == pid
        assert user.result(user.submit("addition", 1, 2)) == 3
        blocked = next(line for line in Path(f"/proc/{pid}/task/{pid}/status").read_text().splitlines()
                       if line.startswith("SigBlk"))
        assert int(blocked.split()[1], 16) == 0
        host.kill("w0", signal.SIGTERM)
        assert host.status("w0", 20) == Exit.OK
