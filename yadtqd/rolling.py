"""Restarts children one by one: the next only when the last one runs again, so that the host goes on working.

`RollingRestart` does that when an operator asks, `Recycling` lets workers go that ask themselves, few at a time. Both
run in the supervisor's one thread; `step` is called at each turn of its loop and never waits.
"""
from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable

from yadtqd.fleet import Fleet
from yadtqd.recycling import grants
from yadtqd.slot import RETIRE, WAITS_TO_RETIRE
from yadtqd.worker_handle import WorkerHandle
from yadtqd.worker_state import WorkerState

log = logging.getLogger(__name__)

START_S = 30.0      # one that does not run by then does not hold up the others: the restart policy sees to it


class RollingRestart:
    """The names that wait for their restart, and the one that is being restarted."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._waiting: deque[str] = deque()
        self._current: tuple[str, int, int] | None = None   # name, its count of starts before, when to give up

    @property
    def under_way(self) -> bool:
        """Whether anything is left to restart."""
        return bool(self._waiting or self._current)

    def add(self, names: Iterable[str]) -> list[str]:
        """Queue children for a restart; those already queued keep their place. What was added."""
        added = [name for name in names if name not in self._waiting]
        self._waiting.extend(added)
        return added

    def cancel(self) -> None:
        """Restart nothing more."""
        self._waiting.clear()
        self._current = None

    def step(self, now_ns: int, drain_s: float) -> None:
        """Go on to the next when the current one is done."""
        if self._current is not None and self._done(*self._current, now_ns):
            self._current = None
        while self._current is None and self._waiting:
            handle = self._fleet.handles.get(self._waiting.popleft())
            if handle is not None:
                self._current = (handle.name, handle.starts, now_ns + int((drain_s + START_S) * 1e9))
                self._restart(handle, now_ns, drain_s)

    def _restart(self, handle: WorkerHandle, now_ns: int, drain_s: float) -> None:
        self._fleet.forgive(handle)
        self._fleet.stop(handle, drain_s, "it is restarted", now_ns)

    def _done(self, name: str, starts: int, give_up_ns: int, now_ns: int) -> bool:
        handle = self._fleet.handles.get(name)
        if handle is None or now_ns > give_up_ns:
            return True
        return handle.starts > starts and handle.state is not WorkerState.STARTING


class Recycling:
    """Lets workers go that are due to be recycled; they take the time that what they run needs, and are watched."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._asking: list[str] = []        # in the order in which they were seen to ask

    def step(self, now_ns: int) -> None:
        """Grant what may be granted now."""
        workers = self._fleet.workers()
        for handle in workers:
            if handle.state is WorkerState.RUNNING and handle.slot.drain_by_ns != RETIRE:
                handle.retire_ns = 0        # its successor runs
        asking = {h.name: h for h in workers if h.state is WorkerState.RUNNING and not h.retire_ns
                  and h.slot.waiting_for & WAITS_TO_RETIRE}
        self._asking = [name for name in self._asking if name in asking]
        self._asking += [name for name in asking if name not in self._asking]
        for name in grants(self._asking, [h.retire_ns for h in workers if h.retire_ns], len(workers), now_ns):
            log.info("%s is recycled: it has asked to be replaced", name)
            asking[name].retire_ns, asking[name].slot.drain_by_ns = now_ns, RETIRE
