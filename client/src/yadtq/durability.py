"""When is what was written to Redis known to be safe? (PROTOCOL.md rule 6.)

Owns the account of writes whose safety is not known yet, and the sight of a restarted Redis. A worker has one object
and asks it before it moves its watermark; it never delays an answer. The decision is pure: it takes the clock and the
fields of INFO. Durability itself asks for those at most every LOOK_S.

With an append-only file and Redis's `appendfsync everysec`, a write is on disk when two seconds have passed since, the
same process still runs, the last write to the file went well, and no fsync is under way (one that takes long delays the
next). Redis 7.2 could tell by WAITAOF; the rule of 7.0 holds there as well and costs nothing a batch, so it is used
for both.
"""
from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

log = logging.getLogger(__name__)

LOOK_S: Final = 0.5                 # how often INFO is asked for: a commit is delayed by so much more
LOOKS: Final = 1200                 # ten minutes of looks while a replica is behind; older ones only tell it later
SETTLE_S: Final = 2.0               # everysec means: flushed each second, and one second more when the disk is slow


class Look(NamedTuple):
    """What INFO said at `at_s` (monotonic)."""

    at_s: float
    run_id: str
    aof_enabled: bool
    fsync_pending: bool
    write_ok: bool
    offset: int                         # of the replication stream: all that was written up to `at_s` lies before it
    replica_offset: int | None          # what the best replica has acknowledged of it; None: none is connected


def look_from(info: Mapping[str, str], at_s: float) -> Look:
    """Read the fields that decide; absent ones count as the worse case."""
    return Look(at_s, info.get("run_id", ""), info.get("aof_enabled") == "1",
                info.get("aof_pending_bio_fsync", "1") != "0", info.get("aof_last_write_status") == "ok",
                _number(info.get("master_repl_offset", "")) or 0, _replica_offset(info))


def _replica_offset(info: Mapping[str, str]) -> int | None:
    """How far the best replica that is online has come. Its `lag` would not do: it only tells when it last said so."""
    offsets = []
    for name, text in info.items():
        if name.startswith("slave") and name[5:].isdigit():
            fields = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
            offset = _number(fields.get("offset", ""))
            if fields.get("state") == "online" and offset is not None:
                offsets.append(offset)
    return max(offsets, default=None)


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def safe_until(mode: str, look: Look, earlier: Iterable[Look] = ()) -> float | None:
    """Everything written before this monotonic time is safe by this look; None: it proves nothing.

    `mode` is the setting: auto, aof or replica. With auto and no append-only file nothing can ever be proved, so
    everything counts as safe (and the worker says so once). `earlier` are looks at the same process: with replica,
    what was written before one of them is safe once the replica has all of the stream that there was then.
    """
    if mode == "replica":
        there = look.replica_offset
        return None if there is None else max((one.at_s for one in (*earlier, look) if one.offset <= there),
                                              default=None)
    if not look.aof_enabled:
        return look.at_s if mode == "auto" else None
    if look.fsync_pending or not look.write_ok:
        return None
    return look.at_s - SETTLE_S


class Durability:
    """The account of one worker; one thread uses it.

    Example:
        durability.note(now)                        # something was written
        if written_at <= durability.durable_before(now): ...commit past it
    """

    def __init__(self, mode: str, info: Callable[[str], Mapping[str, str]]) -> None:
        self._mode, self._info = mode, info
        self._run_id = ""
        self._safe = float("-inf")
        self._next_look = float("-inf")
        self._warned = False
        self._written = float("-inf")
        self._looks: deque[Look] = deque(maxlen=LOOKS)      # with replica: those that the replica has not reached
        self.restarted = False              # Redis was restarted: reset by `rewritten`

    def note(self, now: float) -> None:
        """Something was written (its reply came) at `now`."""
        self._written = max(self._written, now)

    def durable_before(self, now: float) -> float:
        """What was written at or before this monotonic time is known to be safe.

        Asks Redis at most every LOOK_S and only while something isn't known to be safe; the first call (make it before
        the first write) always asks. Raises RedisConnectionError. After a restart of Redis `restarted` is set, and
        nothing more becomes safe until the worker has written again what it holds and says so (`rewritten`).
        """
        if self._mode == "off":
            if not self._run_id:            # else the first restart would not be seen as one
                self.look(now)
            return now
        if now >= self._next_look and (self._written > self._safe or not self._run_id):
            self.look(now)
        return self._safe

    def rewritten(self) -> None:
        """All that wasn't known to be safe has been written again, and noted: go on."""
        self.restarted = False

    def look(self, now: float) -> None:
        """Ask Redis now."""
        self._next_look = now + LOOK_S
        self.judge(look_from(self._info("server persistence replication"), now))

    def judge(self, look: Look) -> None:
        """Draw the conclusions from a look."""
        if self._run_id and look.run_id != self._run_id:
            self.restarted = True
            self._looks.clear()
        self._run_id = look.run_id
        if self._mode == "auto" and not look.aof_enabled and not self._warned:
            self._warned = True
            log.warning("Redis keeps no append-only file: results are committed though a crash of Redis may lose the "
                        "last ones (set appendonly yes, or durability = \"off\" to accept that in silence)")
        safe = safe_until(self._mode, look, self._looks)
        if self._mode == "replica":
            while self._looks and safe is not None and self._looks[0].at_s <= safe:
                self._looks.popleft()
            self._looks.append(look)
        if safe is not None and not self.restarted:
            self._safe = max(self._safe, safe)
