"""Publishes what follows a task, a retry or a dead letter, before the task counts as done.

Owns the order *record, publish, then done*: a task whose end was recorded is done when what follows it is acknowledged;
after a death in between, the claim's answer SETTLE makes the successor publish it again. Tasks come from the consumer
and the result writer, publishing is done by the bookkeeper's thread, acknowledgements come from the transport's. Looks
at the lease before each publish. Bounded: what waits here is open in the ledger.
"""
from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from yadtq.delayed import level_of
from yadtq.errors import YADTQError

if TYPE_CHECKING:
    from yadtq.result_backend import ResultBackend
    from yadtq.transport import Producer
    from yadtqd.follow_ups import FollowUps
    from yadtqd.held import Held
    from yadtqd.ledger import Ledger

log = logging.getLogger(__name__)

AGAIN_S = 1.0           # after a publish that Kafka refused


class Publisher:
    """`lease_holds()` is looked at before each publish; `on_forgotten` gets tasks to be claimed again."""

    def __init__(self, producer: Producer, backend: ResultBackend, ledger: Ledger, follow_ups: FollowUps,
                 lease_holds: Callable[[], bool], wake: Callable[[], object],
                 on_forgotten: Callable[[list[Held]], None]) -> None:
        self._producer, self._backend, self._ledger, self.follow_ups = producer, backend, ledger, follow_ups
        self._lease_holds, self._wake, self._on_forgotten = lease_holds, wake, on_forgotten
        self._to_publish: deque[Held] = deque()
        self._published: deque[Held] = deque()      # acknowledged
        self._under_way: set[Held] = set()
        self._not_before = 0.0

    def __len__(self) -> int:
        return len(self._to_publish) + len(self._under_way) + len(self._published)

    def publish(self, batch: Iterable[Held]) -> None:
        """Publish what follows each (`follow`), then count it as done."""
        self._to_publish.extend(batch)
        self._wake()

    def settle(self, batch: list[Held], round_: int) -> list[Held]:
        """These had ended, or waited for their retry, before we came: publish what follows them (again: nobody knows
        whether that was done). Returns those that are followed by nothing. Raises RedisConnectionError."""
        rest: list[Held] = []
        owed: list[Held] = []
        for held, record in zip(batch, self._backend.read([held.message.id for held in batch]), strict=True):
            follow = self.follow_ups.owed(held, record)
            if follow is None:
                rest.append(held)
            else:
                held.claim_round, held.follow = round_, follow
                owed.append(held)
        self.publish(owed)
        return rest

    # ---- bookkeeper -------------------------------------------------------------------------------------------------
    def work(self, now: float) -> None:
        """Send what is to be sent, count as done what was acknowledged; never waits."""
        self._count_published(now)
        while self._to_publish and now >= self._not_before and self._lease_holds():
            held = self._to_publish.popleft()
            follow = held.follow
            assert follow is not None
            self._under_way.add(held)
            level = 0 if follow.due_ms < 0 else level_of(follow.due_ms - time.time_ns() // 1_000_000)
            try:
                self._producer.send(follow.topic, level, follow.value, follow.key, self._report_of(held))
            except YADTQError as error:
                self._reported(held, error)

    def _count_published(self, now: float) -> None:
        by_round: dict[int, list[Held]] = {}
        while self._published:
            held = self._published.popleft()
            # Redis was asked in that round; what is no task is unknown to it
            round_ = held.claim_round if held.message.task else self._ledger.round
            by_round.setdefault(round_, []).append(held)
        for round_, batch in by_round.items():
            if not self._ledger.settle(batch, now, round_):
                self._on_forgotten(batch)       # with what follows: it may have to be recorded, and published, again
                continue
            for held in batch:
                if held.message.task:
                    held.follow = None

    def _report_of(self, held: Held) -> Callable[[int, YADTQError | None], None]:
        return lambda _, error: self._reported(held, error)

    def _reported(self, held: Held, error: YADTQError | None) -> None:
        self._under_way.discard(held)
        if error is None:
            if held.follow is not None and held.follow.code:
                log.error("%s was given up: partition %d offset %d is in the dead letters now", held.message.id,
                          held.partition, held.offset, extra={"task_id": held.message.id, "partition": held.partition})
            self._published.append(held)
        else:
            log.warning("what follows a task could not be published, it is tried again: %s", error)
            self._not_before = time.monotonic() + AGAIN_S
            self._to_publish.append(held)
        self._wake()
