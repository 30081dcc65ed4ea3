"""Is the Redis that we use the one that belongs to this Kafka?

Epochs are offsets of one Kafka topic, and Redis keeps the highest of each partition as its fence. If Kafka is replaced
by a new cluster while Redis is kept, all its epochs are lower than the fences: every worker would be answered
STALE, for ever. So membership, which is connected anyway, learns which Kafka it is (`learn`), and each worker compares
that with what its Redis says (`check`), beside what it asks Redis at its start: no further round trip to Kafka.
"""
from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from yadtq.errors import KafkaRefused, KafkaReplaced

if TYPE_CHECKING:
    from yadtq.result_backend import ResultBackend
    from yadtq.transport import Admin
    from yadtqd.shared import Shared

log = logging.getLogger(__name__)


def learn(admin: Admin, shared: Shared) -> None:
    """Membership: note which Kafka this is, once its topics exist and before any partition is ours."""
    try:
        shared.kafka = admin.identity()
    except KafkaRefused as error:       # a user who may not ask: nothing is compared then
        log.info("Kafka does not tell which cluster it is: %s", error)


def check(backend: ResultBackend, shared: Shared) -> None:
    """Worker: raise KafkaReplaced if the epochs in Redis are another Kafka's. Raises RedisConnectionError."""
    mine = shared.kafka
    if not mine:
        return
    theirs = backend.kafka_identity(mine)
    if theirs != mine:
        raise KafkaReplaced(f"the epochs in Redis come from another Kafka (cluster/heartbeat topic {theirs}; this is "
                            f"{mine}), so Redis would refuse everything that a worker of this one does. Use the Kafka "
                            "that belongs to it, or an empty Redis database")
