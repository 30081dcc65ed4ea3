"""What every operation on a task's record means, as pure functions: the reference for the functions that run in Redis.

A record is None (missing) or a `Record`. `Shard` is what all of a shard's records share: the clear number and the fence
of each partition. Each function takes a record and gives the record that comes out, and an answer; nothing has a clock
or does I/O. tests/contract/test_redis_functions.py holds the real functions against this, case by case.

States: Q queued, S scheduled, P claimed, R waits for its retry, X a cancel was wished for a task that nobody knew, and
the ends OK, KO, CX. `shown` is the state under which people see the task: a claimed one counts as queued until
`started` says otherwise; a hidden record (X, or Z: a tombstone) is in no listing.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

ENDS = ("OK", "KO", "CX")


class Record(NamedTuple):
    """One task, as Redis knows it."""

    s: str
    a: int = 0                      # the attempt that waits, runs or has ended
    p: int = -1                     # where its message lies; with `e` set: the partition of the claim's token
    e: int | None = None            # epoch of the claim's token, None: nobody's
    x: bool = False                 # a cancel was asked for
    g: int = 0                      # clear number
    k: str = ""
    t0: int = 0
    t1: int = 0
    t2: int = 0
    o: int = -1
    w: str = ""
    r: bytes = b""
    f: bytes = b""
    u: tuple[str, ...] = ()
    shown: str = "Q"
    replay: int = 0
    seen: int = 0
    lone: int = 0
    due: int = -1
    group: str = ""                 # the label it was submitted with

    @property
    def ended(self) -> bool:
        return self.s in ENDS


@dataclass
class Shard:
    """What the records of one shard share."""

    gen: int = 0
    fences: dict[int, int] = field(default_factory=dict)

    def enter(self, p: int, e: int) -> bool:
        """Raise the fence of a partition; False when a later epoch has been there."""
        if self.fences.get(p, 0) > e:
            return False
        self.fences[p] = e
        return True

    def live(self, record: Record | None) -> Record | None:
        """The record, unless everything of its clear number was cleared."""
        return record if record is not None and record.g >= self.gen else None


class Token(NamedTuple):
    """Who acts: a partition's owner in an epoch."""

    p: int
    e: int


class Message(NamedTuple):
    """What a worker has in hand: attempt `n` of a task."""

    n: int = 0
    g: int = 0
    k: str = "addition"
    t0: int = 1000
    replay: int = 0
    expired: bool = False
    o: int = -1
    group: str = ""
    stays: bool = False             # its retries stay at its place in the log


class End(NamedTuple):
    """How an attempt ended."""

    how: str = "OK"
    t1: int = 1100
    t2: int = 1200
    r: bytes = b""
    f: bytes = b""
    w: str = "host/w1"
    due: int = -1


Outcome = tuple[Record | None, str]


def submit(shard: Shard, old: Record | None, g: int, k: str, t0: int, p: int, due: int = -1, *,
           late: bool = False, replay: int = 0, group: str = "") -> Outcome:
    """DONE; CLEARED: to be stamped anew; LATE: too old to create a record (a replay never is: its task may be old)."""
    if g < shard.gen:
        return old, "CLEARED"
    record = shard.live(old)
    waiters: tuple[str, ...] = ()
    if record is not None and record.replay < replay:
        record, waiters = None, record.u                        # a dead letter's new life
    if record is not None and record.s != "X":
        return old, "DONE"
    if record is None and late and not replay:
        return old, "LATE"
    state = "S" if due >= 0 else "Q"
    return Record(state, p=p, x=record is not None, g=g, k=k, t0=t0, due=due, shown=state, u=waiters,
                  replay=replay, group=group), "DONE"


def claim(shard: Shard, old: Record | None, token: Token, m: Message, now: int = 0, error: bytes = b"") -> Outcome:
    """RUN; SUSPECT: run, and an older epoch's claim never ended; WAIT; SETTLE; SKIP; STALE; CLEARED.

    The message of a task whose retries stay in their place is that of all its attempts: the record says which is next.
    """
    if not shard.enter(*token):
        return old, "STALE"
    if m.g < shard.gen:
        return old, "CLEARED"
    record = shard.live(old)
    waiters: tuple[str, ...] = ()
    if record is not None and record.replay < m.replay:
        record, waiters = None, record.u                        # a dead letter's new life
    if record is None:
        fresh = Record("P", m.n, token.p, token.e, g=m.g, k=m.k, t0=m.t0, u=waiters, replay=m.replay,
                       group=m.group)
        return (_expire(fresh, token, m, now, error), "SETTLE") if m.expired else (fresh, "RUN")
    if record.replay > m.replay:
        return old, "SKIP"
    if m.stays:
        m = m._replace(n=max(m.n, record.a))
    if record.ended:
        if record.s == "CX" and record.o < 0:
            record = record._replace(p=token.p, o=m.o)          # its message is here: from now on it may expire
        return record, "SETTLE" if record.a == m.n or record.s == "CX" else "SKIP"
    mine = record.s == "P" and record.a == m.n and record.p == token.p
    if mine and _epoch(record) > token.e:
        return old, "STALE"
    if m.n < record.a:
        return old, "SETTLE" if record.s == "R" and record.a == m.n + 1 else "SKIP"
    if record.s == "P" and record.a == m.n and record.p != token.p:
        return old, "SKIP"                                      # before all else: its body may run there
    if record.s == "R" and m.stays and record.a == m.n and record.p != token.p:
        return old, "SKIP"                                      # or will
    if record.x:
        named = record if record.s != "X" else record._replace(k=m.k, t0=m.t0, group=m.group)
        return named._replace(s="CX", a=m.n, shown="CX", p=token.p, e=record.e if record.s == "P" else None, t2=now,
                              o=m.o, r=b"", f=b"", u=()), "SETTLE"
    if m.expired:
        return _expire(record, token, m, now, error), "SETTLE"
    if record.s == "R" and m.stays and record.a == m.n and record.due > now:
        return old, "WAIT"
    suspect = mine and _epoch(record) < token.e
    shown = "P" if record.shown == "P" else "Q"
    taken = record._replace(s="P", a=m.n, p=token.p, e=token.e, x=False, g=m.g, shown=shown)
    return taken, "SUSPECT" if suspect else "RUN"


def _expire(record: Record, token: Token, m: Message, now: int, error: bytes) -> Record:
    return record._replace(s="KO", shown="KO", a=m.n, p=token.p, e=token.e, x=False, t2=now, o=m.o, r=b"", f=error,
                           u=())


def _epoch(record: Record) -> int:
    return -1 if record.e is None else record.e


def started(shard: Shard, old: Record | None, token: Token, n: int, t1: int, w: str) -> Outcome:
    """DONE: shown as PROCESSING; ASKED: so too, and a cancel was asked for; LATE: not claimed by this token."""
    if not shard.enter(*token):
        return old, "STALE"
    if old is not None and old.g < shard.gen:
        return old, "CLEARED"
    if old is None or (old.s, old.a, old.p, old.e) != ("P", n, *token):
        return old, "LATE"
    return old._replace(shown="P", t1=t1, w=w), "ASKED" if old.x else "DONE"


def finish(shard: Shard, old: Record | None, token: Token, m: Message, end: End) -> Outcome:
    """DONE; CANCELLED: so it ends instead of waiting for its retry; LATE: it went another way, claim again; STALE;
    CLEARED."""
    if not shard.enter(*token):
        return old, "STALE"
    if m.g < shard.gen:
        return old, "CLEARED"
    record = shard.live(old)
    waiters: tuple[str, ...] = ()
    if record is not None and record.replay < m.replay:
        record, waiters = None, record.u
    if record is not None:
        if record.ended or m.n < record.a or record.replay > m.replay:
            return old, "LATE"
        if record.s == "P" and record.a == m.n and record.p == token.p and _epoch(record) > token.e:
            return old, "STALE"
    base = record or Record("Q", u=waiters, replay=m.replay)
    known = record is not None and record.s != "X"
    base = base._replace(k=base.k if known else m.k, t0=base.t0 if known else m.t0, g=m.g, p=token.p, x=False, w=end.w,
                         t1=end.t1, f=end.f, group=base.group if known else m.group)
    if end.how == "R" and not (record is not None and record.x):
        return base._replace(s="R", shown="R", a=m.n + 1, e=None, t2=0, o=-1, r=b"", due=end.due), "DONE"
    how = "CX" if end.how == "R" else end.how                   # a cancel that was asked for stops the retries
    return base._replace(s=how, shown=how, a=m.n, e=token.e, t2=end.t2, o=m.o, r=b"" if end.how == "R" else end.r, u=(),
                         due=end.due), "CANCELLED" if end.how == "R" else "DONE"


def cancel(shard: Shard, old: Record | None, now: int = 0) -> Outcome:
    """CONFIRMED: the body will not start; ASKED: the worker decides, or nobody knows the task; ENDED."""
    record = shard.live(old)
    if record is None:
        return Record("X", x=True, g=shard.gen, t0=now, shown="X"), "ASKED"
    if record.ended:
        return old, "ENDED"
    if record.s in ("X", "P"):
        return record._replace(x=True), "ASKED"
    return record._replace(s="CX", shown="CX", e=None, t2=now, o=-1, r=b"", f=b"", u=()), "CONFIRMED"


def watch(shard: Shard, old: Record | None, client: str) -> Outcome:
    """UNKNOWN; ENDED: here it is; WAITING: noted; FULL: 64 others wait."""
    record = shard.live(old)
    if record is None or record.s == "X":
        return old, "UNKNOWN"
    if record.ended:
        return old, "ENDED"
    if client in record.u:
        return old, "WAITING"
    if len(record.u) >= 64:
        return old, "FULL"
    return record._replace(u=(*record.u, client)), "WAITING"


def lone(shard: Shard, old: Record | None, token: Token, n: int, what: str) -> Outcome:
    """A suspect runs alone: begin, end (seen), crash (seen). DONE; LATE: not claimed by this token; STALE."""
    if not shard.enter(*token):
        return old, "STALE"
    record = shard.live(old)
    if record is None or (record.s, record.a, record.p, record.e) != ("P", n, *token):
        return old, "LATE"
    if what == "begin":
        return record._replace(lone=record.lone + 1), "DONE"
    return record._replace(lone=0, seen=record.seen + (what == "crash")), "DONE"


def expire(shard: Shard, old: Record | None, cut: int, committed: dict[int, int]) -> Outcome:
    """BURIED: only a tombstone is left of an ended task that is old and consumed; else KEPT."""
    record = shard.live(old)
    if record is None or not record.ended or record.shown == "Z":
        return old, "KEPT"
    if record.t2 > cut or record.o < 0 or record.o >= committed.get(record.p, 0):
        return old, "KEPT"
    return record._replace(shown="Z", k="", w="", r=b"", f=b"", u=(), group=""), "BURIED"
