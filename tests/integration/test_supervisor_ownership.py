"""The real supervisor follows what membership claims: partitions that come, go and move, and leases that end."""
from __future__ import annotations

import os
import signal
import time

from tests.support.tiny_daemon import TinyDaemon, alive


def group(tmp_path, behaviour=None, **settings):
    return TinyDaemon(tmp_path, behaviour, **({"assignment": "group", "partitions": []} | settings))


def test_a_worker_per_owned_partition_and_the_others_go_on_when_one_moves(tmp_path):
    with group(tmp_path) as daemon:
        daemon.wait(lambda: daemon.status()["roles"][0]["state"] == "RUNNING")
        assert daemon.workers() == {}
        daemon.own(0, 1, 2)
        daemon.wait(lambda: daemon.running("w0", "w1", "w2"))
        before = daemon.workers()
        gone = before["w1"]["pid"]
        daemon.own(0, 2, 3)
        daemon.wait(lambda: daemon.running("w0", "w2", "w3"))
        after = daemon.workers()
        assert not alive(gone)
        assert [after[name]["pid"] for name in ("w0", "w2")] == [before[name]["pid"] for name in ("w0", "w2")]
        assert daemon.shared().partitions[1].worker == 0     # what membership's revoke waits for


def test_max_workers_shares_partitions_out_and_restarts_only_whom_it_must(tmp_path):
    with group(tmp_path, max_workers=2) as daemon:
        daemon.own(0, 1, 2, 3)
        daemon.wait(lambda: daemon.running("w0", "w1"))
        before = daemon.workers()
        assert sorted(before["w0"]["partitions"] + before["w1"]["partitions"]) == [0, 1, 2, 3]
        loser = next(name for name in before if 3 in before[name]["partitions"])
        other = {"w0": "w1", "w1": "w0"}[loser]
        daemon.own(0, 1, 2)
        daemon.wait(lambda: len(daemon.journal(name=loser)) == 2)
        daemon.wait(lambda: daemon.running("w0", "w1"))
        assert daemon.workers()[other]["pid"] == before[other]["pid"]
        assert daemon.journal(name=loser)[1]["partitions"] == [p for p in before[loser]["partitions"] if p != 3]


def test_a_partition_is_never_consumed_by_two_workers(tmp_path):
    """It moves only once its old worker, which does not drain, was killed at the limit and reaped."""
    with group(tmp_path, {"w0": "deaf-once"}, max_workers=2, drain_timeout_s=0.5) as daemon:
        daemon.own(0, 2)
        daemon.wait(lambda: daemon.running("w0", "w1"))
        deaf = daemon.workers()["w0"]["pid"]
        daemon.own(0, 2, 4)
        daemon.wait(lambda: len(daemon.journal(name="w0")) == 2)
        assert not alive(deaf)
        assert "for its drain limit" in daemon.log()


def test_a_partition_lost_and_regained_gets_a_new_worker(tmp_path):
    with group(tmp_path) as daemon:
        daemon.own(5)
        daemon.wait(lambda: daemon.running("w5"))
        first = daemon.workers()["w5"]["pid"]
        shared = daemon.shared()
        shared.partitions[5].generation += 1                # in between two looks of the supervisor
        shared.ownership_seq += 1
        daemon.wait(lambda: len(daemon.journal(name="w5")) == 2)
        assert not alive(first)
        daemon.wait(lambda: daemon.running("w5"))


def test_workers_stop_when_the_lease_is_over_and_start_again_with_a_new_one(tmp_path):
    with group(tmp_path, {"*": "deaf"}, kafka_session_timeout_ms=2000, drain_timeout_s=60) as daemon:
        daemon.own(0, lease_s=1.0)
        daemon.wait(lambda: daemon.running("w0"))
        pid = daemon.workers()["w0"]["pid"]
        at = time.monotonic()
        daemon.wait(lambda: not alive(pid))
        assert time.monotonic() - at < 2.0                  # lease, and most of the margin of half a second
        daemon.wait(lambda: daemon.status()["daemon"]["reasons"])
        assert "the lease of this host is over" in daemon.status()["daemon"]["reasons"][0]
        assert daemon.workers() == {}
        daemon.own(0)
        daemon.wait(lambda: daemon.running("w0"))
        daemon.wait(lambda: daemon.status()["daemon"]["state"] == "RUNNING")


def test_workers_outlive_a_restart_of_membership(tmp_path):
    with group(tmp_path) as daemon:
        daemon.own(0, 1)
        daemon.wait(lambda: daemon.running("w0", "w1"))
        before = daemon.workers()
        os.kill(daemon.status()["roles"][0]["pid"], signal.SIGKILL)
        daemon.wait(lambda: daemon.status()["roles"][0]["restarts"] == 1)
        daemon.wait(lambda: daemon.status()["roles"][0]["state"] == "RUNNING")
        assert daemon.workers()["w0"]["pid"] == before["w0"]["pid"]


def test_tasks_of_a_partition_that_went_away_are_forgotten(tmp_path):
    with group(tmp_path, {"w0": "hang-once"}) as daemon:
        daemon.own(0)
        daemon.wait(lambda: len(daemon.journal(name="w0")) == 2)
        assert daemon.journal(name="w0")[1]["suspects"] == ["the-hanging-task"]
        daemon.own()
        daemon.wait(lambda: daemon.workers() == {})
        daemon.own(0)
        daemon.wait(lambda: len(daemon.journal(name="w0")) == 3)
        assert daemon.journal(name="w0")[2]["suspects"] == []
