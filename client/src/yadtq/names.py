"""Every Redis key, function name and wire version of YADTQ in one place; what is an option stands in config.py.

Used by the client library and the daemon; imports nothing but the standard library. Never talks to anything.

Redis layout (docs/redis.md has the fields). A task's shard is a hash of its id; every key of a shard carries the same
hash tag, so that one Lua call touches one slot of a Redis Cluster only:

    yadtq:{s07}:m                       hash: the shard's clear number `g`, the fence of each partition `f:<partition>`,
                                        in shard 0 what a clear under way intends, `intent`
    yadtq:{s07}:t:<id>                  string: the record of one task (`yadtq.records`)
    yadtq:{s07}:v:<id>                  string: its result, when too long to stand in the record
    yadtq:{s07}:i:<g>:<state>:<type>    sorted set of task ids by submission time in ms: the status index; the clear
                                        number in the key hides all older entries at once when it is raised
    yadtq:{s07}:ig:<g>:<state>:<group>  the same for the tasks of a group, which are in both
    yadtq:{s07}:k                       set of the `<g>:<type>` that have an index
    yadtq:r:<client id>                 pub/sub channel of one client that waits for results
    yadtq:store                         string: the store id, made by whoever comes first (a wiped Redis shows by it)
    yadtq:kafka                         string: which Kafka the epochs in here come from, written by its first worker
"""
from __future__ import annotations

from zlib import crc32

SHARDS = 16                      # a power of two; changing it orphans all records, so it is no option
WIRE_VERSION = 1                 # of TaskMessage, Heartbeat and records
LIBRARY = "yadtq_v1"             # the Redis function library; a new protocol version gets a new name beside the old one
FUNCTION_PREFIX = "yadtq1_"      # of the functions in it: their names are global in a Redis
PREFIX = "yadtq"

SHARD_TAGS = tuple(f"{{s{n:02d}}}" for n in range(SHARDS))


def shard_of(task_id: str) -> int:
    """The shard (0 to SHARDS-1) that holds the record of a task."""
    return crc32(task_id.encode()) & (SHARDS - 1)


def meta_key(shard: int) -> str:
    """The hash that holds a shard's clear number and fences."""
    return f"{PREFIX}:{SHARD_TAGS[shard]}:m"


META_KEYS = tuple(meta_key(shard) for shard in range(SHARDS))


def record_key(task_id: str) -> str:
    """The string that holds the record of a task."""
    return f"{PREFIX}:{SHARD_TAGS[shard_of(task_id)]}:t:{task_id}"


def value_key(task_id: str) -> str:
    """The string that holds the result of a task when it is too long for the record."""
    return f"{PREFIX}:{SHARD_TAGS[shard_of(task_id)]}:v:{task_id}"


def result_channel(client_id: str) -> str:
    """The pub/sub channel on which a waiting client is told of ends."""
    return f"{PREFIX}:r:{client_id}"


STORE_KEY = f"{PREFIX}:store"
KAFKA_KEY = f"{PREFIX}:kafka"


def scheduler_group(kafka_group: str) -> str:
    """The consumer group in which the schedulers of all hosts share out the levels of the delayed topic."""
    return f"{kafka_group}-scheduler"
