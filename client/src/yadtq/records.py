"""The record of a task as it lies in Redis, its states, and what the result backend's operations take and give.

Owns the layout on Python's side (redis_records.lua owns it on the other; golden bytes in tests/contract). Pure: no
connection, no clock. Used by clients and workers in any thread.
"""
from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

STATES: Final = ("", "Q", "S", "P", "R", "X", "OK", "KO", "CX", "Z")   # by their number in a record
STATE_NUMBER: Final = {name: number for number, name in enumerate(STATES) if name}
SHOWN_STATES: Final = ("Q", "S", "P", "R", "OK", "KO", "CX")             # what a page can be asked for
ENDED: Final = frozenset(("OK", "KO", "CX"))
MAGIC: Final = 0xA1                 # 0xA, and the version of the record's layout
GROUP_MARK: Final = "\0"            # between a task's type and its group

_HEAD = Struct("<BBBBBIIidIHHHIdHHIIHdddd")
HEAD_BYTES: Final = _HEAD.size
_ABSURD: Final = 1e17               # more than any sum of times and offsets
_APART, _DROPPED = 1, 2             # where the result is: a key of its own, gone with its time to live


class TaskRecordRaw(NamedTuple):
    """One record, decoded but for its values. Times are Unix times in ms."""

    id: str
    state: str                      # Q S P R OK KO CX; P is shown as QUEUED until `shown`
    attempt: int                    # that waits, runs or has ended
    partition: int
    epoch: int | None               # of the claim, None: unclaimed
    cancel_asked: bool
    g: int                          # clear number
    task: str
    submitted_ms: int
    started_ms: int | None
    ended_ms: int | None
    offset: int                     # of the message that ended it; -1: none yet
    worker: str
    shown: bool                     # PROCESSING is shown
    result: bytes | None            # None: none, not asked for, or gone
    error: bytes | None
    has_result: bool                # there is one, in `result` or to be read
    expired: bool                   # it had its time: value and task type are gone
    due_ms: int | None
    replay: int
    seen: int
    lone: int
    apart: bool                     # the result lies under a key of its own
    waiters: tuple[str, ...]
    group: str = ""


def parse_record(task_id: str, raw: bytes) -> TaskRecordRaw | None:
    """A record from its bytes; None for bytes that are no record, which count as a missing one."""
    size = len(raw)
    if size < HEAD_BYTES:
        return None
    (magic, state, shown, asked, where, length, attempt, partition, epoch, g, seen, lone, replay, _,
     submitted, nk, nw, nr, nf, nu, started, ended, offset, due) = _HEAD.unpack_from(raw)
    if magic != MAGIC or length != size or not 1 <= state <= 8 or HEAD_BYTES + nk + nw + nr + nf + nu != size:
        return None
    w = HEAD_BYTES + nk
    r = w + nw
    f = r + nr
    u = f + nf
    if not -_ABSURD < epoch + submitted + started + ended + offset + due < _ABSURD:     # one is NaN or infinite, too
        return None
    task, _, group = raw[HEAD_BYTES:w].decode("utf-8", "replace").partition(GROUP_MARK)
    return tuple.__new__(TaskRecordRaw, (       # half the time of TaskRecordRaw(...), and many records come this way
        task_id, STATES[state], attempt, partition, None if epoch < 0 else int(epoch), asked == 1, g,
        task, int(submitted), int(started) or None, int(ended) or None,
        int(offset), raw[w:r].decode("utf-8", "replace"), shown == 3, raw[r:f] or None, raw[f:u] or None,
        nr > 0 or where == _APART, where == _DROPPED, None if due < 0 else int(due), replay, seen, lone,
        where == _APART, tuple(raw[u:].decode("utf-8", "replace").split(",")) if nu else (), group))


def kind_of(task: str, group: str | None) -> str:
    """What a record says of the type and the group of its task, in one string."""
    return task + GROUP_MARK + group if group else task


class SubmitEntry(NamedTuple):
    """A task that is to be shown as QUEUED (or SCHEDULED, with a due time)."""

    id: str
    task: str
    g: int
    submitted_ms: int
    partition: int
    due_ms: int | None = None
    replay: int = 0                 # how often it was replayed from the dead letters
    group: str | None = None


class ClaimEntry(NamedTuple):
    """A message in a worker's hand. Without its offset a cancelled task's record can't expire."""

    id: str
    n: int
    g: int
    task: str
    submitted_ms: int
    expires_ms: int | None = None
    replay: int = 0
    offset: int = -1
    group: str | None = None
    stays: bool = False             # its retries stay at its place in the log: it has a key


class Claim(NamedTuple):
    """The answer to a claim: RUN, WAIT, SETTLE, SKIP, STALE or CLEARED; on SETTLE `state` says how the attempt ended.

    `attempt`, where it is not -1, is the attempt to be run instead of the message's own, which has failed: at once, or
    with WAIT when it is due.
    """

    answer: str
    suspect: bool = False
    state: str = ""
    seen: int = 0
    lone: int = 0
    attempt: int = -1
    due_ms: int = 0


class FinishEntry(NamedTuple):
    """How attempt `n` ended: OK, KO, CX, or R (a retry is owed, due at `due_ms`)."""

    id: str
    n: int
    g: int
    task: str
    submitted_ms: int
    end: str
    offset: int
    started_ms: int
    ended_ms: int
    result: bytes = b""
    error: bytes = b""
    replay: int = 0
    due_ms: int | None = None
    group: str | None = None


class Push(NamedTuple):
    """One end, as it is pushed to waiting clients. A missing value must be read from the record."""

    id: str
    state: str
    attempt: int
    result: bytes | None
    error: bytes | None
