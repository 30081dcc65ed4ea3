"""What is wrong with a configuration whose single values are right: options that contradict each other.

Pure functions, used by `yadtq.config` in every process. Reads nothing but the settings that it is given.
"""
from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from yadtq.options import module_path

if TYPE_CHECKING:
    from yadtq.config import Settings

MESSAGE_OVERHEAD = 65_536       # bytes of a message beside its payload: names, key, headers, batch; generous on purpose


def mistakes(s: Settings) -> Iterator[tuple[str, str]]:
    """Each contradiction as (the option to mend, what is wrong and what would be right)."""
    yield from _kafka(s)
    yield from _security(s)
    yield from _supervising(s)
    yield from _working(s)


def _kafka(s: Settings) -> Iterator[tuple[str, str]]:
    if 0 < s.kafka_replication_factor < s.kafka_min_insync_replicas:
        yield "kafka_min_insync_replicas", (f"{s.kafka_min_insync_replicas} can't be in sync where there are only "
                                            f"{s.kafka_replication_factor} (kafka_replication_factor)")
    room = s.kafka_max_message_bytes - MESSAGE_OVERHEAD
    if s.max_payload_bytes > room:
        yield "max_payload_bytes", (f"{s.max_payload_bytes} does not fit a message of kafka_max_message_bytes = "
                                    f"{s.kafka_max_message_bytes}; at most {max(room, 0)}, or raise the brokers' limit")
    topics = (s.kafka_task_topic, s.kafka_heartbeat_topic, s.kafka_dead_letter_topic, s.kafka_delayed_topic)
    if len(set(topics)) < len(topics):
        yield "kafka_task_topic", "tasks, heartbeats, dead letters and delayed tasks need four different topics"


def _security(s: Settings) -> Iterator[tuple[str, str]]:
    if s.kafka_security_protocol.startswith("SASL"):
        for name in ("kafka_sasl_mechanism", "kafka_sasl_username", "kafka_sasl_password"):
            if not getattr(s, name):
                yield name, f"is needed with kafka_security_protocol = {s.kafka_security_protocol}"
    elif s.kafka_sasl_username or s.kafka_sasl_password:
        yield "kafka_security_protocol", (f"{s.kafka_security_protocol} sends no user name or password; "
                                          "write SASL_SSL or SASL_PLAINTEXT")
    if bool(s.kafka_ssl_cert_file) != bool(s.kafka_ssl_key_file):
        yield "kafka_ssl_cert_file", "a certificate and its key go together: give both kafka_ssl_cert_file and " \
                                     "kafka_ssl_key_file, or neither"
    if s.kafka_ssl_cert_file and "SSL" not in s.kafka_security_protocol:
        yield "kafka_security_protocol", f"{s.kafka_security_protocol} uses no certificate; write SSL or SASL_SSL"
    yield from _redis_security(s)


def _redis_security(s: Settings) -> Iterator[tuple[str, str]]:
    files = [name for name in ("redis_ssl_ca_file", "redis_ssl_cert_file", "redis_ssl_key_file") if getattr(s, name)]
    if files and not s.redis_ssl:
        yield "redis_ssl", f"is false, but {files[0]} is given; write redis_ssl = true"
    if bool(s.redis_ssl_cert_file) != bool(s.redis_ssl_key_file):
        yield "redis_ssl_cert_file", "a certificate and its key go together: give both redis_ssl_cert_file and " \
                                     "redis_ssl_key_file, or neither"
    if s.redis_sentinel_username and not s.redis_sentinels:
        yield "redis_sentinels", "is empty, but redis_sentinel_username is given; name them, as host:port,host:port"
    if s.redis_sentinels and not s.redis_sentinel_master.strip():
        yield "redis_sentinel_master", "is needed with redis_sentinels: the name in `sentinel monitor NAME ...`"


def _supervising(s: Settings) -> Iterator[tuple[str, str]]:
    if s.assignment == "static" and not s.partitions:
        yield "partitions", "are needed with assignment = static, such as partitions = [0, 1]"
    if s.assignment == "group" and s.partitions:
        yield "partitions", "are shared out by the group; write assignment = \"static\" to choose them by hand"
    if len(set(s.partitions)) < len(s.partitions):
        yield "partitions", f"{list(s.partitions)} names a partition twice"
    if "/" in s.host_name or s.host_name != s.host_name.strip():
        yield "host_name", f"{s.host_name!r} may have no slash (worker ids are host/w3) and no space at its ends"


def _working(s: Settings) -> Iterator[tuple[str, str]]:
    if s.prefetch < s.fetch_batch:
        yield "prefetch", f"{s.prefetch} is less than one batch (fetch_batch = {s.fetch_batch})"
    if s.max_lone < s.max_crashes:
        yield "max_lone", f"{s.max_lone} would give a task up before max_crashes = {s.max_crashes} is reached"
    if s.processing_after_ms >= s.hard_timeout_ms:
        yield "processing_after_ms", (f"{s.processing_after_ms} is past the hard time-out of {s.hard_timeout_ms} ms "
                                      "(task_timeout + task_timeout_grace_s): no task would ever be shown")
    for module in s.tasks:
        if not module_path(module):
            yield "tasks", f"{module!r} is no module path; write such as \"shop.tasks\""


def unknown(name: str, known: Iterable[str]) -> str:
    """The message about a name that is no option, with the nearest ones that are."""
    near = difflib.get_close_matches(name.lower(), list(known), n=2, cutoff=0.6)
    return f"{name}: there is no such option" + (f"; did you mean {' or '.join(near)}?" if near else "")
