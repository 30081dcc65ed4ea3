"""The scheduler of an in-memory queue: has delayed tasks wait for their time, as the daemon's does on Kafka.

Owns one consumer of the in-memory delayed topic and a heap of what it read. Called by the in-memory worker before it
looks for tasks; has no thread of its own. Its memory has no bound: it holds what a test submits.
"""
from __future__ import annotations

import heapq
import time
from typing import TYPE_CHECKING

from yadtq.delayed import LEVELS, DelayedTask, decode_delayed
from yadtq.errors import OffsetOutOfRange
from yadtq.transport.memory import MemoryConsumer, MemoryProducer

if TYPE_CHECKING:
    from yadtq.config import Settings

READ_AT_ONCE = 1000


class MemoryScheduler:
    """`fire_due` in a loop."""

    def __init__(self, settings: Settings, producer: MemoryProducer) -> None:
        self._settings, self._producer = settings, producer
        self._consumer = MemoryConsumer(settings)
        self._next = dict.fromkeys(range(LEVELS), 0)
        self._consumer.assign(settings.kafka_delayed_topic, self._next)
        self._heap: list[tuple[int, int, DelayedTask]] = []
        self._count = 0

    def fire_due(self, *, at_once: bool = False) -> float:
        """Publish what is due, or everything (`at_once`); the seconds until the next one is due."""
        self._read()
        now_ms = int(time.time() * 1000)
        while self._heap and (at_once or self._heap[0][0] <= now_ms):
            task = heapq.heappop(self._heap)[2]
            self._producer.send(self._settings.kafka_task_topic, task.partition, task.value, task.key)
        self._producer.flush(10)
        return max(self._heap[0][0] - now_ms, 0) / 1000 if self._heap else float("inf")

    def _read(self) -> None:
        while True:
            try:
                records = self._consumer.poll(READ_AT_ONCE, 0)
            except OffsetOutOfRange as jump:            # clear_all_tasks has deleted what was there
                self._next[jump.partition] = jump.earliest
                self._consumer.assign(self._settings.kafka_delayed_topic, self._next)
                continue
            if not records:
                return
            for record in records:
                self._next[record.partition] = record.offset + 1
                task = decode_delayed(record.value)
                self._count += 1
                heapq.heappush(self._heap, (task.due_ms, self._count, task))

    def close(self) -> None:
        """Forget what waits. Idempotent."""
        self._consumer.close()
