"""The slots: what a child writes is what the supervisor reads, whenever the child is stopped or killed."""
from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtqd.shared import HEADER_BYTES, PARTITION_BYTES, Shared
from yadtqd.slot import SLOT_BYTES, Slot, TaskInHand

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shared():
    made = Shared.create(8, 16)
    yield made
    made.close()


def test_a_task_is_read_as_it_was_written(shared):
    slot = shared.slot(3)
    slot.clear()
    assert slot.read().task is None
    assert slot.read().lag == -1
    slot.begin(1, "0198c5d2-7b1e-7000-8000-000000000001", "addition", 2, 77, 10, 20, 30, attempt=4)
    assert slot.read().task == TaskInHand(1, "0198c5d2-7b1e-7000-8000-000000000001", "addition", 2, 77, 4, 10, 20, 30)
    slot.begin(2, "b", "c", 0, 0, 0, 0, 0)
    assert slot.read().task == TaskInHand(2, "b", "c", 0, 0, 0, 0, 0, 0)
    slot.end()
    assert slot.read().task is None


@given(task_id=st.text(max_size=80), name=st.text(max_size=200), offset=st.integers(0, 2**62))
def test_any_names_fit_cut_at_their_bounds(task_id, name, offset):
    shared = Shared.create(2, 1)
    try:
        slot, neighbour = shared.slot(0), shared.slot(1)
        slot.begin(5, task_id, name, 1, offset, 1, 2, 3)
        task = slot.read().task
        assert task.task_id == task_id.encode()[:40].decode(errors="replace")
        assert task.task == name.encode()[:88].decode(errors="replace")
        assert task.offset == offset
        assert neighbour.read() == (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, None)
    finally:
        shared.close()


def test_a_writer_stopped_before_the_flip_leaves_the_old_task_readable():
    raw = bytearray(SLOT_BYTES)
    slot = Slot(0, memoryview(raw))
    slot.begin(1, "first", "t", 0, 1, 0, 0, 0)
    struct.pack_into("<q", raw, 128, 2)                     # the half of task 2, torn: its number and rubbish
    raw[140:200] = os.urandom(60)
    assert slot.read().task.task_id == "first"


def test_a_half_that_is_not_the_current_one_is_never_taken():
    raw = bytearray(SLOT_BYTES)
    slot = Slot(0, memoryview(raw))
    slot.begin(1, "first", "t", 0, 1, 0, 0, 0)
    struct.pack_into("<q", raw, 4 * 8, 3)                   # CUR says 3, whose half holds task 1
    assert slot.read().task is None


def test_the_layout_is_the_one_of_its_version():
    """A change here must raise LAYOUT_VERSION: a new supervisor may read the memory that an old one left."""
    raw = bytearray(SLOT_BYTES)
    slot = Slot(0, memoryview(raw))
    slot.pid, slot.state, slot.beat_ns, slot.epoch, slot.soft_for, slot.lag = 1, 2, 3, 4, 6, 12
    slot.count(done=8, failed=9, retried=10, crashed=11)
    slot.begin(7, "id", "name", 5, 6, 1, 2, 3, attempt=9)
    assert struct.unpack_from("<13q", raw) == (1, 2, 3, 4, 7, 0, 6, 0, 8, 9, 10, 11, 12)
    assert struct.unpack_from("<8q40s88s", raw, 320) == (
        7, 1, 2, 3, 5, 6, 9, 2 | 4 << 8, b"id".ljust(40, b"\0"), b"name".ljust(88, b"\0"))
    assert (HEADER_BYTES, SLOT_BYTES, PARTITION_BYTES) == (4096, 512, 128)


def test_attach_sees_the_same_memory_and_refuses_another_layout(shared):
    shared.partitions[5].owned = 1
    shared.slot(1).begin(1, "x", "y", 0, 0, 0, 0, 0)
    again = Shared.attach(os.dup(shared.fd))
    assert again.partitions.owned() == (5,)
    assert again.slot(1).read().task.task_id == "x"
    again.close()
    shared.cells[1] = 99
    with pytest.raises(ValueError, match="another layout"):
        Shared.attach(shared.fd)
    with pytest.raises(ValueError, match="another layout"):
        Shared.attach(os.memfd_create("empty"))


def test_partitions_beyond_the_table_are_refused(shared):
    for number in (-1, 16):
        with pytest.raises(IndexError):
            shared.partitions[number]


def test_lag_counts_from_what_is_finished_or_committed(shared):
    row = shared.partitions[0]
    assert row.lag == -1
    row.end_offset, row.committed = 10, 4
    assert row.lag == 6
    row.watermark = 9
    assert row.lag == 1


WRITER = """
import os, sys, time
from yadtqd.shared import Shared
slot = Shared.attach(int(sys.argv[1])).slot(0)
print("on", flush=True)
n = 0
while True:
    n += 1
    slot.begin(n, f"id-{n}-{'x' * (n % 30)}", f"type-{n}", n % 7, n, n, n, n, attempt=n % 5)
    slot.end() if n % 3 == 0 else None
"""


def test_no_torn_task_is_read_from_a_busy_writer_or_a_killed_one(shared):
    slot = shared.slot(0)
    seen = 0
    for _ in range(8):
        slot.clear()
        with subprocess.Popen([sys.executable, "-c", WRITER, str(shared.fd)], pass_fds=[shared.fd], cwd=ROOT,
                              stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            until = time.monotonic() + 0.1
            while time.monotonic() < until:
                seen += check_whole(slot.read().task)
            writer.send_signal(signal.SIGKILL)
        seen += check_whole(slot.read().task)
    assert seen > 100


def check_whole(task: TaskInHand | None) -> bool:
    if task is None:
        return False
    n = task.n
    assert task == TaskInHand(n, f"id-{n}-{'x' * (n % 30)}"[:40], f"type-{n}", n % 7, n, n % 5, n, n, n)
    return True


def test_which_kafka_this_is_is_told_in_shared_memory() -> None:
    shared = Shared.create(4, 4)
    assert shared.kafka == ""
    for identity in ("abc/def", "a-longer-one/" + "x" * 36, "short/-"):
        shared.kafka = identity
        assert Shared.attach(shared.fd).kafka == identity
    shared.kafka = "x" * 1000
    assert len(shared.kafka) == 256
