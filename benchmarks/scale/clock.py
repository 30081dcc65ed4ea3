"""The time of a simulation: events in order, and nothing in between. Knows nothing of what is simulated."""
from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any


class Clock:
    """`at` puts an event into the future, `run` lets time pass. Seconds from 0."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._number = count()

    @property
    def now_ns(self) -> int:
        return int(self.now_s * 1e9)

    def at(self, when_s: float, call: Callable[..., object], *arguments: Any) -> None:
        heapq.heappush(self._heap, (max(when_s, self.now_s), next(self._number), call, arguments))

    def after(self, delay_s: float, call: Callable[..., object], *arguments: Any) -> None:
        self.at(self.now_s + delay_s, call, *arguments)

    def run(self, until_s: float) -> None:
        while self._heap and self._heap[0][0] <= until_s:
            self.now_s, _, call, arguments = heapq.heappop(self._heap)
            self.events += 1
            call(*arguments)
        self.now_s = max(self.now_s, until_s)
