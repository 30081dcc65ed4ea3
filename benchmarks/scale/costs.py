"""What the parts cost whose work grows with the cluster: measured on the real code, in processor time of this machine.

Everything here runs in this process and takes seconds; nothing needs a server. Times are the least of three runs.
"""
from __future__ import annotations

import gc
import random
import select
import time
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from yadtq.config import Settings
from yadtq.durability import Durability
from yadtq.health import MOST_RECORDS, Beat, HealthReader, judge
from yadtq.heartbeat import Heartbeat, decode_heartbeat, encode_heartbeat
from yadtq.transport import Record
from yadtq.transport.connection import import_kafka
from yadtqd.deadlines import Limits
from yadtqd.fleet import Fleet
from yadtqd.placement import place
from yadtqd.shared import Shared
from yadtqd.sharing import grant, share
from yadtqd.watch import Watcher
from yadtqd.worker_state import WorkerState

TOPIC = "yadtq_tasks"
Figures = dict[str, Any]


def cpu_s(call: Callable[[], object], runs: int = 3) -> float:
    best = float("inf")
    for _ in range(runs):
        gc.collect()
        began = time.process_time()
        call()
        best = min(best, time.process_time() - began)
    return best


# ---- the group ------------------------------------------------------------------------------------------------------
def assignment(hosts: int, partitions: int, *, library: bool) -> Figures:
    """The leader's work when a host has died: what it is sent, what it computes, what it sends."""
    import_kafka()
    from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
    from kafka.protocol.consumer import JoinGroupRequest, JoinGroupResponse, SyncGroupRequest
    from kafka.protocol.consumer.metadata import ConsumerProtocolSubscription

    from yadtqd.group_assignor import GroupAssignor

    names = [f"host{n:04}" for n in range(hosts)]
    member_ids = {name: f"{name}-7c9e6679-7425-40de-944b-e07fc1f90ae7" for name in names}
    hands = share(partitions, {member_ids[name]: [] for name in names})
    alive = names[1:] or names
    sent = {name: GroupAssignor(TOPIC, hands[member_ids[name]].copy).metadata([TOPIC]).encode() for name in alive}
    rows: Any = JoinGroupResponse.JoinGroupResponseMember
    answer = JoinGroupResponse(
        throttle_time_ms=0, error_code=0, generation_id=9, protocol_type="consumer", protocol_name="cooperative-sticky",
        leader=member_ids[alive[0]], skip_assignment=False, member_id=member_ids[alive[0]],
        members=[rows(member_id=member_ids[name], group_instance_id=name, metadata=sent[name]) for name in alive])
    protocols: Any = JoinGroupRequest.JoinGroupRequestProtocol
    request = JoinGroupRequest(
        group_id="yadtq", session_timeout_ms=7000, rebalance_timeout_ms=100_000, member_id=member_ids[alive[0]],
        group_instance_id=alive[0], protocol_type="consumer",
        protocols=[protocols(name="cooperative-sticky", metadata=sent[alive[0]])])
    cluster = SimpleNamespace(topics=lambda: {TOPIC}, partitions_for_topic=lambda _: set(range(partitions)))

    def lead(assignor: Any) -> Any:
        members = [SimpleNamespace(member_id=member_ids[name],
                                   metadata=ConsumerProtocolSubscription.decode(sent[name])) for name in alive]
        return assignor.assign(cluster, members)

    ours = GroupAssignor(TOPIC, list)
    given = {member: hand.encode() for member, hand in lead(ours).items()}
    back: Any = SyncGroupRequest.SyncGroupRequestAssignment
    reply = SyncGroupRequest(group_id="yadtq", generation_id=9, member_id=member_ids[alive[0]],
                             group_instance_id=alive[0], protocol_type="consumer", protocol_name="cooperative-sticky",
                             assignments=[back(member_id=member, assignment=hand) for member, hand in given.items()])
    holds = {member_ids[name]: hands[member_ids[name]] for name in alive}
    figures = {
        "JoinGroup request of a host, bytes": len(request.encode(version=7)),
        "JoinGroup answer to the leader, KB": round(len(answer.encode(version=7)) / 1000, 1),
        "SyncGroup request of the leader, KB": round(len(reply.encode(version=5)) / 1000, 1),
        "the leader decodes and shares out, ms": round(cpu_s(lambda: lead(ours)) * 1000, 1),
        "of that yadtqd.sharing, ms": round(cpu_s(lambda: grant(share(partitions, holds), holds)) * 1000, 1),
    }
    if library:
        figures["kafka-python's own assignor, ms"] = round(cpu_s(lambda: lead(CooperativeStickyAssignor()), 1) * 1000)
    return figures


def metadata_bytes(partitions: int) -> int:
    """One answer of a broker that tells the whole task topic, three replicas each."""
    import_kafka()
    from kafka.protocol.metadata import MetadataResponse

    rows: Any = MetadataResponse.MetadataResponseTopic
    topic = rows(error_code=0, name=TOPIC, is_internal=False, partitions=[
        rows.MetadataResponsePartition(error_code=0, partition_index=p, leader_id=1, leader_epoch=1,
                                       replica_nodes=[1, 2, 3], isr_nodes=[1, 2, 3], offline_replicas=[])
        for p in range(partitions)])
    return len(MetadataResponse(throttle_time_ms=0, brokers=[], cluster_id="x" * 22, controller_id=1,
                                topics=[topic]).encode(version=12))


# ---- heartbeats -----------------------------------------------------------------------------------------------------
def beat(number: int, partitions: int) -> Heartbeat:
    """A heartbeat of a worker that is at work."""
    name = f"host{number // 4:04}"
    return Heartbeat(worker_id=f"{name}/w{number % partitions}", host=name, pid=4_000_000, partitions=[number],
                     sent_ms=1_790_000_000_000, seq=100_000, epoch=10_000_000, interval_s=5.0,
                     task_id="0198f2b0-7c9e-7679-9425-40de944be07f", task="matrix_multiplication",
                     task_since_ms=1_790_000_000_000, done=10**9, failed=1000, lag=10_000, version="0.1.0",
                     expires_after_s=15.0)


def heartbeats(workers: int) -> Figures:
    """The topic, and what a client pays that looks at it: at first, each second, and to judge what it has read."""
    one = encode_heartbeat(beat(7, workers))
    rate = workers / Settings().heartbeat_interval
    first = min(round(rate * 900), MOST_RECORDS)
    values = [encode_heartbeat(beat(n, workers)) for n in range(workers)]
    now_ms = int(time.time() * 1000)
    records = [Record(0, at, None, values[at % workers], now_ms) for at in range(min(first, 50_000))]
    opener: Any = None
    tracemalloc.start()
    reader = HealthReader(Settings(), opener, 5.0)
    reader._take(records)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    beats = {heartbeat.worker_id: Beat(heartbeat, now_ms) for heartbeat in map(decode_heartbeat, values)}
    take_us = cpu_s(lambda: HealthReader(Settings(), opener, 5.0)._take(records)) / len(records) * 1e6
    record_bytes = len(one) + 30        # key, and what Kafka adds to a record that comes alone in its batch: see below
    return {
        "workers": workers, "heartbeat, bytes": len(one), "heartbeats a second": round(rate),
        "into the topic, KB/s": round(rate * (record_bytes + 61) / 1000, 1),    # 61: the head of a batch of one
        "kept for an hour, MB": round(rate * 4200 * (record_bytes + 61) / 1e6),
        "a look each second: decode and keep, ms": round(take_us * rate / 1000, 2),
        "judge all, ms": round(cpu_s(lambda: judge(beats, now_ms)) * 1000, 1),
        "the first look reads": first, "which takes, s": round(take_us * first / 1e6, 2),
        "the reader keeps, MB": round(kept / 1e6, 1),
    }


# ---- a host ---------------------------------------------------------------------------------------------------------
def supervisor(workers: int) -> Figures:
    """A host with so many workers: the supervisor's look at all of them (four times a second), and a new placement."""
    shared = Shared.create(n_slots=max(workers, 1) + 8, n_partitions=max(workers, 1))
    epoll = select.epoll()
    fleet = Fleet(Settings(), shared, {"worker": lambda _: 0}, epoll, list)
    try:
        now_ns = time.monotonic_ns()
        for number in range(workers):
            handle = fleet.add(f"w{number}", "worker", ((number, 1),))
            handle.binding, handle.state = handle.wanted, WorkerState.RUNNING
            handle.child = SimpleNamespace(pid=1, pidfd=-1)  # type: ignore[assignment]
            handle.slot.beat(now_ns)
            handle.slot.begin(1, "0198f2b0-7c9e-7679-9425-40de944be07f", "addition", number, 1, now_ns, 0, 0)
        watcher = Watcher(fleet, shared, Limits.of(15.0, 60.0))
        look_s = cpu_s(lambda: watcher.look(time.monotonic_ns()))
    finally:
        fleet.close()
        epoll.close()
        shared.close()
    half = {n: (n,) for n in range(workers // 2)}
    return {"workers": workers, "a look at all, ms": round(look_s * 1000, 2),
            "of a core, %": round(look_s * 4 * 100, 1),
            "placement on half as many, ms": round(cpu_s(lambda: place(range(workers), half, workers // 2 or 1)) * 1000,
                                                    2)}


def commit_lag_s(commit_s: float = 1.0) -> float:
    """How long after its end a task is committed, at most, with an append-only file: what a dead host leaves behind."""
    now, ends, worst = 0.0, random.Random(1), 0.0
    info = {"run_id": "a", "aof_enabled": "1", "aof_pending_bio_fsync": "0", "aof_last_write_status": "ok"}
    durability = Durability("auto", lambda _: info)
    open_: list[float] = []
    next_commit = commit_s
    while now < 60.0:
        now += 0.001 + ends.random() * 0.02
        durability.note(now)
        open_.append(now)
        if now >= next_commit:
            next_commit = now + commit_s
            safe = durability.durable_before(now)
            done = [at for at in open_ if at <= safe]
            worst = max([worst, *(now - at for at in done)])
            open_ = open_[len(done):]
        durability.durable_before(now)
    return round(worst, 2)
