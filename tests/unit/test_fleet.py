"""What the fleet does when the kernel refuses it, and what it hands to a successor; the forks are played here."""
from __future__ import annotations

import os
import select
import time

import pytest

from yadtq.config import Settings
from yadtqd import fleet as fleet_module
from yadtqd.child import Child
from yadtqd.fleet import Fleet
from yadtqd.restart_policy import Fate
from yadtqd.shared import Shared
from yadtqd.suspicion import SEVERAL
from yadtqd.worker_state import WorkerState

NOW = 10**12


@pytest.fixture
def fleet(monkeypatch):
    shared = Shared.create(8, 8)
    epoll = select.epoll()
    made = Fleet(Settings(), shared, {"worker": lambda ctx: 0}, epoll, list)
    made.shared = shared
    yield made
    made.close()
    epoll.close()
    shared.close()


def test_a_refused_fork_is_a_failure_of_the_child_and_leaves_nothing(fleet, monkeypatch):
    def refuse(*_):
        raise OSError(11, "no more processes")
    monkeypatch.setattr(fleet_module, "fork", refuse)
    handle = fleet.add("w0", "worker", ((3, 1),))
    for attempt in range(3):
        assert fleet.may_start(handle, handle.next_start_ns or NOW)
        fleet.start(handle, NOW + attempt)
        assert handle.state is WorkerState.BACKOFF
        assert handle.child is None
        assert fleet.shared.partitions[3].worker == 0
    assert handle.next_start_ns > NOW + 10**8
    fleet.start(handle, handle.next_start_ns)
    assert handle.state is WorkerState.FATAL
    assert "could not be forked" in handle.note


def test_nobody_starts_while_another_is_bound_to_its_partition(fleet, monkeypatch):
    """`fork` is played: a real one needs a process without threads, and stands in test_fork.py."""
    pids = []

    def play(ctx, run, close_fds):
        pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
        pids.append(pid)
        return Child(pid, os.pidfd_open(pid))
    monkeypatch.setattr(fleet_module, "fork", play)
    first, second = fleet.add("w0", "worker", ((3, 1),)), fleet.add("w1", "worker", ((3, 1), (4, 1)))
    fleet.start(first, NOW)
    assert not fleet.may_start(second, NOW)
    fleet.kill(first, "a test")
    fd = first.child.pidfd
    deadline = time.monotonic() + 5
    while fleet.owns(fd) and time.monotonic() < deadline:
        fleet.reap(fd, NOW)
    assert fleet.shared.partitions[3].worker == 0
    assert fleet.may_start(second, NOW)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_slots_are_used_again_and_tasks_done_are_not_forgotten(fleet):
    first = fleet.add("w0", "worker")
    first.slot.count(done=3, failed=1)
    index = first.slot.index
    fleet.remove(first)
    assert (fleet.done_gone, fleet.failed_gone) == (3, 1)
    again = fleet.add("w1", "worker")
    assert again.slot.index == index
    assert again.slot.read().done == 0


@pytest.fixture
def dies(fleet, monkeypatch):
    """Let w0 of partition 3 die, with a task in hand or without; what its successor would have to suspect."""
    monkeypatch.setattr(fleet_module, "fork", lambda *_: Child(1, os.eventfd(0)))
    handle = fleet.add("w0", "worker", ((3, 1),))

    def die(at_s, task_id=None, state=WorkerState.RUNNING):
        now = NOW + int(at_s * 1e9)
        fleet.start(handle, now)
        handle.slot.state = state
        if task_id:
            handle.slot.begin(1, task_id, "t", 3, int(task_id), 0, 0, 0)
        fleet._by_fd.clear()
        os.close(handle.child.pidfd)
        fleet._ended(handle, "was killed", Fate.FAILED, now)
        return set(fleet._context(handle).suspects)
    die.handle = handle
    return die


def test_each_death_over_a_new_task_is_that_tasks_doing_and_no_failure_of_the_worker(dies):
    for n in range(20):
        assert str(n) in dies(20 * n, str(n))
        assert dies.handle.state is WorkerState.EXITED
    for n in range(3):                              # over one that was suspected: something else is wrong
        dies(400 + 15 * n, "19")
        assert dies.handle.state is WorkerState.BACKOFF
    dies(445, "19")
    assert dies.handle.state is WorkerState.FATAL


def test_deaths_in_a_row_make_suspects_of_all_that_was_claimed(dies, fleet):
    assert SEVERAL not in dies(0, "1")
    assert SEVERAL not in dies(3, "2")
    assert SEVERAL in dies(6, "3")
    fleet.shared.partitions[3].watermark = 7
    assert fleet._context(dies.handle).suspects == ()


def test_it_takes_two_when_one_of_them_had_nothing_in_hand(dies):
    assert SEVERAL not in dies(0)
    assert dies.handle.state is WorkerState.BACKOFF
    assert SEVERAL not in dies(11)                  # not in a row
    assert SEVERAL in dies(14)
    assert dies.handle.state is WorkerState.EXITED


def test_a_worker_that_can_not_start_has_no_task_to_blame(dies):
    for n in range(4):
        assert dies(n, state=WorkerState.STARTING) == set()
    assert dies.handle.state is WorkerState.FATAL
