"""Which tasks that an earlier worker had claimed may have killed it, and so have to run in a process of their own.

Pure. A claim of an older epoch makes a suspect (PROTOCOL.md rule 9). If this host's supervisor has reaped the worker
before us on all our partitions, its slot tells what it ran when it died: only that is suspect, its neighbours are
innocent. If nobody saw it die (another host's, or the supervisor died too), all of them are.

Narrowing it down so is safe: if a task that was wrongly thought innocent kills us, our own slot names it.
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yadtq.result_backend import Claim


SEVERAL = "*"       # in a slot: more than it can name


class Suspicion:
    """`witnessed`: the end of the worker before us was seen; `named`: ids that stood in its slot."""

    def __init__(self, *, witnessed: bool, named: Iterable[str]) -> None:
        self._named = frozenset(named)
        self._witnessed = witnessed and SEVERAL not in self._named

    def falls_on(self, task_id: str, claim: Claim) -> bool:
        """Must this task, which may run, run alone?"""
        if claim.lone or claim.seen:
            return True                     # it ran alone before, and did not end well or nobody saw how
        if not claim.suspect:
            return False
        return not self._witnessed or task_id[:40] in self._named
