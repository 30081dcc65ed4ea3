"""Soft time-outs: they interrupt the task they are meant for, never another, never what is fragile, and never escape.

The storm plays the supervisor: a thread that watches the slot, writes SOFT_FOR for tasks past their deadline, and sends
SIGUSR1 then and at random other times, late and twice.
"""
from __future__ import annotations

import os
import queue
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from yadtqd.slot import SLOT_BYTES, Slot
from yadtqd.soft_timeout import TICK_S, Guard, SoftTimeout


@pytest.fixture
def slot() -> Slot:
    return Slot(0, memoryview(bytearray(SLOT_BYTES)))


@pytest.fixture
def guard(slot: Slot) -> Iterator[Guard]:
    kept = [(s, signal.getsignal(s)) for s in (signal.SIGUSR1, signal.SIGALRM)]
    guard = Guard(slot)
    guard.install()
    yield guard
    for signum, handler in kept:
        signal.signal(signum, handler)


def soft_timeout_after(slot: Slot, delay_s: float, seq: int) -> threading.Thread:
    """Play the supervisor: some time after a handler has begun it says that task `seq` is overdue, again and again."""
    def supervisor() -> None:
        wait_until(lambda: slot.live != 0)
        time.sleep(delay_s)
        slot.soft_for = seq
        os.kill(os.getpid(), signal.SIGUSR1)
        while slot.live == seq:
            time.sleep(TICK_S)
            if slot.live == seq:
                os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=supervisor)
    thread.start()
    return thread


def wait_until(condition: Callable[[], bool], limit_s: float = 10) -> None:
    give_up = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.001)


@pytest.mark.parametrize("stuck", [
    lambda: time.sleep(30),
    lambda: threading.Event().wait(30),
    lambda: queue.Queue().get(timeout=30),
    lambda: [None for _ in iter(int, 1)],
], ids=["sleep", "event", "queue", "loop"])
def test_it_interrupts_what_is_stuck(slot: Slot, guard: Guard, stuck: object) -> None:
    slot.begin(7, "id", "stuck", 0, 0, 0, 0, 0)
    thread = soft_timeout_after(slot, 0.02, 7)
    begun = time.monotonic()
    with pytest.raises(SoftTimeout):
        guard.call(7, 0.0, stuck, (), {})
    thread.join()
    assert time.monotonic() - begun < 5
    assert guard.fired
    assert slot.live == 0


def test_a_handler_that_catches_exception_does_not_keep_it(slot: Slot, guard: Guard) -> None:
    def greedy() -> None:
        try:
            time.sleep(30)
        except Exception:
            time.sleep(30)

    slot.begin(1, "id", "greedy", 0, 0, 0, 0, 0)
    thread = soft_timeout_after(slot, 0.02, 1)
    with pytest.raises(SoftTimeout):
        guard.call(1, 0.0, greedy, (), {})
    thread.join()


def test_a_signal_for_an_earlier_task_does_nothing(slot: Slot, guard: Guard) -> None:
    slot.begin(2, "id", "later", 0, 0, 0, 0, 0)
    thread = soft_timeout_after(slot, 0.02, 1)
    assert guard.call(2, 0.0, lambda: time.sleep(0.1) or "done", (), {}) == "done"
    thread.join()
    assert not guard.fired


def test_a_short_deadline_has_its_own_timer(slot: Slot, guard: Guard) -> None:
    slot.begin(3, "id", "short", 0, 0, 0, 0, 0)
    begun = time.monotonic()
    with pytest.raises(SoftTimeout):
        guard.call(3, 0.05, time.sleep, (30,), {})
    assert time.monotonic() - begun < 5
    slot.begin(4, "id", "next", 0, 0, 0, 0, 0)
    assert guard.call(4, 0.05, lambda: "quick", (), {}) == "quick"
    time.sleep(0.1)                                   # its timer does not hit what comes after it


def test_it_waits_until_a_context_manager_has_been_entered(slot: Slot, guard: Guard) -> None:
    steps = []

    class Resource:
        def __enter__(self) -> None:
            steps.append("entering")
            time.sleep(0.1)
            steps.append("entered")

        def __exit__(self, *exc: object) -> None:
            steps.append("left")

    def handler() -> None:
        with Resource():
            time.sleep(30)

    slot.begin(5, "id", "resource", 0, 0, 0, 0, 0)
    thread = soft_timeout_after(slot, 0.03, 5)
    with pytest.raises(SoftTimeout):
        guard.call(5, 0.0, handler, (), {})
    thread.join()
    assert steps == ["entering", "entered", "left"]


def test_storm(slot: Slot, guard: Guard) -> None:
    """Twenty thousand short tasks under signals at random: each ends as it should, none is hit by another's."""
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    overdue: set[int] = set()
    over = threading.Event()

    def supervisor() -> None:
        while not over.is_set():
            live = slot.live
            if live and live % 3 == 0 and rng.random() < 0.5:
                overdue.add(live)
                slot.soft_for = live
            os.kill(os.getpid(), signal.SIGUSR1)
            if rng.random() < 0.3:
                time.sleep(rng.random() / 5000)

    def body(n: int) -> int:
        return sum(range(n))

    thread = threading.Thread(target=supervisor)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread.start()
    hit = 0
    try:
        for seq in range(1, 20_001):
            slot.begin(seq, "id", "body", 0, seq, 0, 0, 0)
            try:
                assert guard.call(seq, 0.0, body, (seq % 500,), {}) == sum(range(seq % 500))
            except SoftTimeout:
                hit += 1
                assert seq in overdue
            slot.end()
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert hit > 0
