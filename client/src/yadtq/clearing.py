"""clear_all_tasks: everything that was submitted so far, scheduled tasks too, vanishes while workers run.

Owns the order of the steps (PROTOCOL.md): end offsets first, then the clear numbers of all shards are raised, which is
the moment of clearing and records the intent; what follows only tidies up and may be interrupted: a worker's janitor or
the next call completes it. Runs in the caller's thread.
"""
from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from yadtq.producer import ClearNumbers

if TYPE_CHECKING:
    from yadtq.connections import Connections

log = logging.getLogger(__name__)

DROP_BATCH = 1000       # records a call: some milliseconds of Redis


def clear_all_tasks(connections: Connections, clear_numbers: ClearNumbers) -> int:
    """Clear, and return how many records were dropped. Raises KafkaConnectionError before anything has changed, or,
    like RedisConnectionError, after the tasks are cleared but before all is tidied up: call again to complete it.
    """
    topic, delayed_topic = connections.settings.kafka_task_topic, connections.settings.kafka_delayed_topic
    backend, admin = connections.backend, connections.admin()
    try:
        admin.ensure_topics()
        ends, delayed = admin.end_offsets(topic), admin.end_offsets(delayed_topic)
        numbers = backend.raise_clear(ends, delayed)
        clear_numbers.set(numbers)
        try:
            admin.delete_records(topic, ends)
            admin.delete_records(delayed_topic, delayed)
        finally:                                # Kafka may be away by now: what Redis holds goes all the same
            cleared = 0
            while dropped := backend.drop_cleared(DROP_BATCH):
                cleared += dropped
            connections.waiter.look_again()     # who waits in this process learns it now, elsewhere at the next look
    finally:
        admin.close()
    pending = backend.pending_clear()
    if pending is not None and pending[:3] == (tuple(numbers), ends, delayed):
        backend.clear_done(pending)         # not another's, that was begun since: its caller may have died
    log.info("cleared %d tasks", cleared)
    return cleared
