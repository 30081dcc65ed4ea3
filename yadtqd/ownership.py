"""Keeps the host's workers in step with the partitions that it owns and with the certainty that it does.

Runs in the supervisor's one thread. Reads what membership wrote into shared memory (for static assignment it writes it
itself), lets yadtqd.placement share the partitions out, and starts, rebinds or stops workers through the fleet.
"""
from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from yadtqd.fleet import Fleet
from yadtqd.placement import place
from yadtqd.shared import FOR_EVER_NS, Shared, lease_drain_s
from yadtqd.worker_handle import WORKER, Binding

if TYPE_CHECKING:
    from yadtq.config import Settings

log = logging.getLogger(__name__)


class Ownership:
    """What was wanted at the last look, to see whether anything changed."""

    def __init__(self, fleet: Fleet, shared: Shared, settings: Settings) -> None:
        self.settings = settings
        self.lease_held = False
        self._fleet, self._shared = fleet, shared
        self._seen: tuple[object, ...] = ()

    def take_static(self) -> None:
        """Static assignment: the configuration says what this host owns, for ever."""
        shared, wanted = self._shared, set(self.settings.partitions)
        for partition in wanted | set(shared.partitions.owned()):
            row = shared.partitions[partition]
            row.generation += 1 if partition in wanted and not row.owned else 0
            row.owned = 1 if partition in wanted else 0
        shared.lease_ns, shared.joined = FOR_EVER_NS, 1
        shared.ownership_changed()

    def follow(self, now_ns: int) -> None:
        """Bring the workers in step; cheap when nothing changed."""
        self._notice_lease()
        state = (self._shared.ownership_seq, self.lease_held, self.settings.max_workers)
        if state == self._seen:
            return
        self._seen = state
        limit_s, why = self._limit()
        wanted = self._wanted() if self.lease_held else {}
        for handle in self._fleet.workers():
            binding = wanted.pop(handle.name, ())
            if binding != handle.wanted:
                handle.wanted = binding
            if handle.alive and handle.binding != binding:
                self._fleet.stop(handle, limit_s, why, now_ns)
        if self.lease_held:
            self._fleet.forget_partitions(self._shared.partitions.owned())
        for name, binding in wanted.items():
            self._fleet.add(name, WORKER, binding)

    def give_up(self) -> None:
        """The daemon stops: want no worker any more."""
        for handle in self._fleet.workers():
            handle.wanted = ()

    def _notice_lease(self) -> None:
        held = self._shared.lease_left_s() > 0
        if held != self.lease_held and self._shared.joined:
            if held:
                log.info("the lease of this host is certain: it owns partitions %s",
                         list(self._shared.partitions.owned()))
            else:
                log.warning("the lease of this host is over: its place in the group is not certain, its workers stop")
        self.lease_held = held

    def _limit(self) -> tuple[float, str]:
        """How long workers may drain whose partitions this host loses, and why."""
        if not self.lease_held:     # for how long already, if the whole host was frozen?
            left_s = lease_drain_s(self._shared.lease_left_s(), self.settings)
            return left_s, "the lease of this host is over"
        return self.settings.drain_timeout_s, "its partitions change"

    def _wanted(self) -> dict[str, Binding]:
        rows, owned = self._shared.partitions, self._shared.partitions.owned()
        now = {int(h.name[1:]): tuple(p for p, _ in h.wanted) for h in self._fleet.workers()}
        placed = place(owned, now, self.settings.max_workers)
        return {f"w{n}": tuple((p, rows[p].generation) for p in hand) for n, hand in placed.items()}
