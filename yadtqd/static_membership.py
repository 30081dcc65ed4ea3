"""Membership without a group, for `assignment = "static"`: only the commits of the partitions that are configured.

Without a group nothing would keep a second host with the same partition from moving its offset back. So each commit is
a transaction without data, with a transactional id per partition: whoever begins later fences the one before. The
library waits without a time-out for a transaction's end, so a thread commits and the main thread beats, for as long as
the other comes round: one that hangs for good is replaced, and workers don't notice.
"""
from __future__ import annotations

import logging
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from yadtq.errors import YADTQError
from yadtq.transport import open_admin
from yadtq.transport.connection import connect_kafka_python, from_kafka_python, import_kafka
from yadtqd.assignment import Assignment
from yadtqd.exits import Exit
from yadtqd.group_member import FatalMembership
from yadtqd.membership import RECOMMIT_S, ensure_topics
from yadtqd.slot import WAITS_FOR_KAFKA
from yadtqd.worker_exit import end_now
from yadtqd.worker_state import WorkerState

if TYPE_CHECKING:
    from yadtqd.child import ChildContext

log = logging.getLogger(__name__)

BEAT_S = 0.1
RETRY_S = 0.5
GOODBYE_S = 2.0
HANGS_S = 60.0              # a commit that takes longer will never end


class StaticMembership:
    """The main thread beats, the thread commits."""

    def __init__(self, ctx: ChildContext) -> None:
        self._ctx, self._settings, self._shared = ctx, ctx.settings, ctx.shared
        self._assignment = Assignment(ctx.shared)
        self._producers: dict[int, Any] = {}
        self._stopping = threading.Event()
        self._round_at = time.monotonic()       # when the thread last came round
        self._recommit_at = time.monotonic() + RECOMMIT_S

    def run(self) -> int:
        """Until SIGTERM."""
        signal.signal(signal.SIGTERM, lambda *_: self._stopping.set())
        self._ctx.slot.state = WorkerState.STARTING
        thread = threading.Thread(target=self._commit_for_ever, name="commit", daemon=True)
        thread.start()
        while not self._stopping.wait(BEAT_S):
            if self._comes_round():
                self._ctx.slot.beat(time.monotonic_ns())
        thread.join(GOODBYE_S)
        return Exit.OK

    def _comes_round(self) -> bool:
        silent_s = time.monotonic() - self._round_at
        round_s = 2 * self._settings.auto_commit_interval_ms / 1000
        if silent_s > round_s + self._settings.kafka_request_timeout_ms / 1000:
            self._ctx.slot.waiting_for = WAITS_FOR_KAFKA
        return silent_s < round_s + HANGS_S

    def _commit_for_ever(self) -> None:
        ready = False
        while True:
            self._round_at = time.monotonic()
            last = self._stopping.is_set()
            try:
                if not ready:
                    self._begin()
                    ready = True
                self._commit()
                self._ctx.slot.waiting_for = 0
            except FatalMembership as error:
                end_now(Exit.STOP_FATAL_CONFIG, str(error))
            except YADTQError as error:
                self._ctx.slot.waiting_for = 1
                log.warning("membership: %s", error)
                self._stopping.wait(RETRY_S)
            except BaseException as error:
                log.critical("the commit thread failed", exc_info=True)
                end_now(Exit.CRASHED, f"commit: {error!r}")
            if last:
                return
            self._stopping.wait(self._settings.auto_commit_interval_ms / 1000)

    def _begin(self) -> None:
        """Find out where each partition is read from. Workers wait for `topic_partitions`, which comes last."""
        settings = self._settings
        count = ensure_topics(settings, self._shared)
        beyond = [p for p in settings.partitions if p >= count]
        if beyond:
            raise FatalMembership(f"partitions {beyond} are configured, but {settings.kafka_task_topic} has {count}")
        admin = open_admin(settings)
        try:
            begins = admin.begin_offsets(settings.kafka_task_topic)
            committed = admin.committed(settings.kafka_group, settings.kafka_task_topic)
        finally:
            admin.close()
        self._assignment.give(settings.partitions)
        self._assignment.begin({p: max(committed.get(p, 0), begins.get(p, 0)) for p in settings.partitions},
                               continues=True)          # the supervisor said what is owned
        self._shared.topic_partitions = count
        self._assignment.joined()
        self._ctx.slot.state = WorkerState.RUNNING

    def _commit(self) -> None:
        now = time.monotonic()
        everything = now >= self._recommit_at
        for partition, position in self._assignment.to_commit(all_of_them=everything).items():
            self._commit_one(partition, position)
            self._assignment.committed({partition: position})
        if everything:
            self._recommit_at = now + RECOMMIT_S

    def _commit_one(self, partition: int, position: int) -> None:
        """A transaction without data, which Kafka refuses if a later holder of the partition has begun one."""
        import_kafka()
        from kafka import errors
        from kafka.structs import OffsetAndMetadata, TopicPartition

        try:
            producer = self._producer(partition)
            producer.begin_transaction()
            tp = TopicPartition(self._settings.kafka_task_topic, partition)
            producer.send_offsets_to_transaction({tp: OffsetAndMetadata(position, "", -1)}, self._settings.kafka_group)
            producer.commit_transaction()
        except (errors.ProducerFencedError, errors.InvalidProducerEpochError) as error:
            raise FatalMembership(f"another host commits partition {partition}: with static assignment each partition "
                                  "must be configured on one host only") from error
        except errors.KafkaError as error:
            broken = self._producers.pop(partition, None)      # its transaction's state is unknown: begin anew
            if broken is not None:
                broken.close(timeout=0)
            raise from_kafka_python(error) from error

    def _producer(self, partition: int) -> Any:
        if partition not in self._producers:
            kafka = import_kafka()
            settings = self._settings
            producer = connect_kafka_python(
                kafka.KafkaProducer, settings, enable_idempotence=True,
                transactional_id=f"{settings.kafka_group}.{settings.kafka_task_topic}.{partition}",
                max_block_ms=settings.kafka_request_timeout_ms)
            try:
                producer.init_transactions()
            except BaseException:
                producer.close(timeout=0)
                raise
            self._producers[partition] = producer
        return self._producers[partition]
