"""Whether a partition has records that its consumer does not bring, though it is asked for them.

Pure but for what it remembers; the consumer's thread feeds it. Only time counts that was spent waiting for records: a
worker that fetches nothing, because it has enough to do or must not, starves of nothing. Where the log ends must come
from elsewhere than the consumer itself, which may be what is broken (the janitor asks Kafka).
"""
from __future__ import annotations

from collections.abc import Collection


class Starvation:
    """How long each partition that lies behind has been waited for in vain, in seconds."""

    def __init__(self) -> None:
        self._waited_s: dict[int, float] = {}

    def look(self, waited_s: float, got: Collection[int], behind: Collection[int], limit_s: float) -> list[int]:
        """Since the last look `waited_s` were spent in polls that had room to spare, records of `got` came, and those
        of `behind` have more. Which have been starving for `limit_s`?"""
        self._waited_s = {p: self._waited_s.get(p, 0.0) + waited_s for p in behind if p not in got}
        return sorted(p for p, waited in self._waited_s.items() if waited >= limit_s)

    def reset(self) -> None:
        """The consumer is another one, or Kafka is known to be away: begin anew."""
        self._waited_s = {}
