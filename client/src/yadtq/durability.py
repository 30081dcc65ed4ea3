"""When is what was written to Redis known to be safe? (PROTOCOL.md rule 6.)

Owns the account of writes whose safety is not known yet, and the sight of a restarted Redis. A worker has one object
and asks it before it moves its watermark; it never delays an answer. The decision is pure: it takes the clock and the
fields of INFO. Durability itself asks for those at most every LOOK_S.

With an append-only file and Redis's `appendfsync everysec`, a write is on disk when two seconds have passed since, the
same process still runs, the last write to the file went well, and no fsync is under way (one that takes long delays the
next). Redis 7.2 could tell by WAITAOF; the rule of 7.0 holds there as well and costs nothing a batch, so it is used
for both.

Where Sentinels may make a replica the primary, the disk is half of it: the write must be on a replica too, on so many
that primary and replicas are most of all there are, since any side of a partition that elects a primary has one of
those. And the disk is the other half: a primary that is restarted before anybody missed it has what its file has, and
its replicas follow. While most Sentinels see this primary and no replica that could take its place, the disk alone
counts: what is lost then takes a second failure, and waiting for the replica would have stopped everything at the
first.
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
    """What INFO said at `at_s` (monotonic), and what the Sentinels say of the process that said it."""

    at_s: float
    run_id: str                         # of the process and of its data: another after a restart and after a failover
    aof_enabled: bool
    fsync_pending: bool
    write_ok: bool
    offset: int                         # of the replication stream: all that was written up to `at_s` lies before it
    replicas: tuple[int, ...] = ()      # how far each replica that is online has acknowledged it, the best one first
    known: int | None = None            # how many replicas there are, dead ones included; None: there are no Sentinels
    alone_at: float | None = None       # when most Sentinels saw this primary and no replica to take its place


def look_from(info: Mapping[str, str], at_s: float) -> Look:
    """Read the fields that decide; absent ones count as the worse case."""
    run_id = f"{info.get('run_id', '')}/{info.get('master_replid', '')}"
    alone_at = info.get("sentinels_alone_at")
    return Look(at_s, run_id, info.get("aof_enabled") == "1",
                info.get("aof_pending_bio_fsync", "1") != "0", info.get("aof_last_write_status") == "ok",
                _number(info.get("master_repl_offset", "")) or 0, replicas_online(info),
                _number(info.get("sentinels_replicas", "")), None if alone_at is None else float(alone_at))


def replicas_online(info: Mapping[str, str]) -> tuple[int, ...]:
    """How far the replicas that are online have come. Their `lag` would not do: it tells when they last said so."""
    offsets = []
    for name, text in info.items():
        if name.startswith("slave") and name[5:].isdigit():
            fields = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
            offset = _number(fields.get("offset", ""))
            if fields.get("state") == "online" and offset is not None:
                offsets.append(offset)
    return tuple(sorted(offsets, reverse=True))


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def safe_until(mode: str, look: Look, earlier: Iterable[Look] = ()) -> float | None:
    """Everything written before this monotonic time is safe by this look; None: it proves nothing.

    `mode` is the setting: auto, aof or replica. With auto and no append-only file nothing can ever be proved by the
    disk, so everything counts as safe there (and the worker says so once); with Sentinels auto wants both, disk and
    replica. `earlier` are looks at the same process: what was written before one of them is on a replica once that has
    all of the stream that there was then.
    """
    if mode == "replica":
        return _on_replicas(look, earlier)
    disk = look.at_s if mode == "auto" and not look.aof_enabled else _on_disk(look)
    if mode == "aof" or look.known is None:
        return disk
    there = max(_on_replicas(look, earlier) or _NEVER, look.alone_at or _NEVER)
    return None if disk is None or there == _NEVER else min(disk, there)


def _on_disk(look: Look) -> float | None:
    if not look.aof_enabled or look.fsync_pending or not look.write_ok:
        return None
    return look.at_s - SETTLE_S


def _on_replicas(look: Look, earlier: Iterable[Look]) -> float | None:
    """Before when everything is on enough replicas: half of those that there are, rounded up; one where that is not
    known."""
    needed = max(1, (1 + (look.known or 0)) // 2)
    if len(look.replicas) < needed:
        return None
    there = look.replicas[needed - 1]
    return max((one.at_s for one in (*earlier, look) if one.offset <= there), default=None)


_NEVER: Final = float("-inf")


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
        self._warned = self._alone = False
        self._written = float("-inf")
        self._looks: deque[Look] = deque(maxlen=LOOKS)      # those that the replicas have not reached
        self.restarted = False              # Redis was restarted, or another has taken over: reset by `rewritten`

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
        self._tell_if_alone(look)
        if self._mode == "replica" or look.known is not None:
            while self._looks and safe is not None and self._looks[0].at_s <= safe:
                self._looks.popleft()
            self._looks.append(look)
        if safe is not None and not self.restarted:
            self._safe = max(self._safe, safe)

    def _tell_if_alone(self, look: Look) -> None:
        alone = self._mode == "auto" and look.known is not None and not look.replicas and look.alone_at is not None
        if alone and not self._alone:
            log.warning("no replica of Redis is up: results are committed once they are on the primary's disk, and "
                        "would be lost if that went too")
        elif self._alone and look.replicas:
            log.info("Redis has a replica again")
        self._alone = alone or (self._alone and not look.replicas)
