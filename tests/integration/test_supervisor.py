"""The real supervisor with tiny roles: deaths, hangs, deadlines and lack of progress are seen, told and mended."""
from __future__ import annotations

import os
import signal
import time

import pytest

from tests.support.tiny_daemon import TinyDaemon, alive


def killed(daemon, name, signum=signal.SIGKILL):
    pid = daemon.workers()[name]["pid"]
    os.kill(pid, signum)
    return pid


def test_a_killed_worker_is_replaced_at_once_and_the_log_says_what_it_ran(tmp_path):
    with TinyDaemon(tmp_path, {"w0": "busy:5"}) as daemon:
        daemon.wait(lambda: daemon.running("w0", "w1"))
        daemon.wait(lambda: daemon.workers()["w0"]["task"])
        at = time.monotonic()
        pid = killed(daemon, "w0")
        daemon.wait(lambda: len(daemon.journal(name="w0")) == 2)
        first, second = daemon.journal(name="w0")
        assert second["at"] - at < 0.3
        assert second["suspects"] == ["task-w0-1"]
        assert first["suspects"] == []
        assert f"w0 (pid {pid}) was killed by SIGKILL while it ran task task-w0-1 (type-1, partition 0, offset 1)" \
            in daemon.log()
        assert daemon.workers()["w0"]["restarts"] == 1
        assert daemon.workers()["w1"]["restarts"] == 0


def test_suspects_are_handed_over_until_their_partition_is_beyond_them(tmp_path):
    with TinyDaemon(tmp_path, {"*": "busy:5"}, partitions=[0], retry_window_s=1) as daemon:
        daemon.wait(lambda: daemon.workers()["w0"]["task"])
        shared = daemon.shared()
        killed(daemon, "w0")
        daemon.wait(lambda: len(daemon.journal(name="w0")) == 2)
        time.sleep(1.1)                                     # beyond the retry window, so that no back-off delays it
        shared.partitions[0].watermark = 2                  # task 1 at offset 1 is done
        killed(daemon, "w0")
        daemon.wait(lambda: len(daemon.journal(name="w0")) == 3)
        assert [row["suspects"] for row in daemon.journal(name="w0")] == [[], ["task-w0-1"], []]


def test_a_frozen_worker_is_replaced(tmp_path):
    with TinyDaemon(tmp_path) as daemon:
        daemon.wait(lambda: daemon.running("w0", "w1"))
        pid = killed(daemon, "w1", signal.SIGSTOP)
        daemon.wait(lambda: len(daemon.journal(name="w1")) == 2)
        assert not alive(pid)
        assert "is without a heartbeat" in daemon.log()
        assert "for no heartbeat in" in daemon.log()


def test_a_worker_that_hangs_dumps_its_stacks_and_is_replaced_and_its_task_is_named(tmp_path):
    with TinyDaemon(tmp_path, {"w0": "hang-once"}) as daemon:
        daemon.wait(lambda: len(daemon.journal(name="w0")) == 2)
        log = daemon.log()
        assert "with task the-hanging-task (sleepy, partition 0, offset 41) in hand" in log
        assert "_hang" in log               # faulthandler's line of the frame that hung
        assert daemon.journal(name="w0")[1]["suspects"] == ["the-hanging-task"]
        daemon.wait(lambda: daemon.running("w0", "w1"))


def test_a_task_past_its_deadlines_is_told_first_and_then_killed_and_its_successor_knows(tmp_path):
    with TinyDaemon(tmp_path, {"w0": "overdue:0.7-once"}) as daemon:
        at = daemon.wait(lambda: daemon.journal(name="w0"))[0]["at"]
        daemon.wait(lambda: len(daemon.journal(name="w0")) == 2)
        soft = daemon.journal("soft", "w0")
        assert {(row["soft_for"], row["seq"]) for row in soft} == {(7, 7)}
        assert len(soft) >= 2                                # again and again, since the task goes on
        second = daemon.journal(name="w0")[1]
        assert second["hard"] == [["the-long-task", 2, 0, 77]]
        assert second["suspects"] == []
        assert 0.7 <= second["at"] - at < 1.5
        assert "for a task past its hard deadline" in daemon.log()
        daemon.wait(lambda: daemon.running("w0", "w1"))
        assert "WORKER_" not in daemon.log()                 # the task's fault, not the worker's


def test_hard_deadlines_do_not_make_a_worker_fatal(tmp_path):
    with TinyDaemon(tmp_path, {"w0": "overdue:0.05"}, partitions=[0], max_worker_retries=1) as daemon:
        daemon.wait(lambda: len(daemon.journal(name="w0")) >= 6)
        assert "FATAL" not in daemon.log()
        assert "WORKER_RECOVERY_FAILED" not in daemon.log()


def test_a_worker_that_beats_but_takes_no_work_is_restarted(tmp_path):
    with TinyDaemon(tmp_path, {"w0": "stuck-once"}, progress_timeout_s=1) as daemon:
        daemon.wait(lambda: len(daemon.journal(name="w0")) == 2)
        assert "is without progress" in daemon.log()
        assert "with 5 records waiting" in daemon.log()


def test_a_paused_partition_is_no_lack_of_progress(tmp_path):
    with TinyDaemon(tmp_path, {"w0": "stuck"}, partitions=[0], progress_timeout_s=1) as daemon:
        daemon.wait(lambda: daemon.running("w0"))
        daemon.call("pause", partition=0)
        time.sleep(1.6)
        assert len(daemon.journal(name="w0")) == 1
        daemon.call("resume", partition=0)
        daemon.wait(lambda: len(daemon.journal(name="w0")) == 2)


def test_a_worker_that_dies_again_and_again_is_fatal_until_the_cool_down_is_over(tmp_path):
    with TinyDaemon(tmp_path, {"w0": "raise"}, max_worker_retries=1, cool_down_s=0.5, retry_window_s=30) as daemon:
        daemon.wait(lambda: daemon.workers()["w0"]["state"] == "FATAL" and daemon.status()["daemon"]["reasons"])
        status = daemon.status()
        assert len(daemon.journal(name="w0")) == 2           # max_worker_retries = 1: one restart
        assert status["daemon"]["state"] in ("DEGRADED", "STARTING")
        assert "w0 is FATAL" in status["daemon"]["reasons"][0]
        log = daemon.log()
        assert "WORKER_INITIALIZATION_FAILED: w0" in log
        assert "WORKER_RECOVERY_FAILED: w0" in log
        assert "ValueError: a role that fails" in log
        daemon.wait(lambda: daemon.workers()["w1"]["state"] == "RUNNING")
        daemon.wait(lambda: len(daemon.journal(name="w0")) >= 3)


def test_a_configuration_that_can_not_work_is_not_tried_again(tmp_path):
    with TinyDaemon(tmp_path, {"w0": "exit:3"}) as daemon:
        daemon.wait(lambda: daemon.workers()["w0"]["state"] == "FATAL")
        assert len(daemon.journal(name="w0")) == 1


@pytest.mark.parametrize("status", [4, 5, 6, 0])
def test_recycled_workers_start_at_once_but_never_in_a_loop(tmp_path, status):
    with TinyDaemon(tmp_path, {"w0": f"exit:{status}"}, partitions=[0], max_worker_retries=0) as daemon:
        started = daemon.wait(lambda: len(rows := daemon.journal(name="w0")) >= 7 and rows)
        assert started[5]["at"] - started[0]["at"] < 1.5
        count, at = len(daemon.journal()), time.monotonic()
        time.sleep(1.0)
        assert len(daemon.journal()) - count <= 2 + 10 * (time.monotonic() - at)
        assert daemon.workers()["w0"]["state"] != "FATAL"


def test_what_dead_children_leave_behind_is_swept(tmp_path):
    with TinyDaemon(tmp_path, {"w0": "parent-once"}) as daemon:
        stray = daemon.wait(lambda: daemon.journal("stray"))[0]["stray"]
        assert alive(stray)
        killed(daemon, "w0")
        daemon.wait(lambda: not os.path.exists(f"/proc/{stray}"))       # killed and reaped
        assert f"killed pid {stray}, which a dead child left behind" in daemon.log()


def test_waiting_for_kafka_is_told_and_does_not_end_the_daemon(tmp_path):
    with TinyDaemon(tmp_path, {"*": "waits"}) as daemon:
        reasons = daemon.wait(lambda: daemon.status()["daemon"]["reasons"])
        assert "waiting for Kafka at localhost:9092" in reasons[0]
        assert daemon.workers()["w0"]["state"] == "STARTING"
        assert "degraded: " in daemon.log()
        assert daemon.stop() == 0


def test_children_start_clean(tmp_path):
    """No signal blocked, one thread, no descriptor of the supervisor's or of a sibling."""
    with TinyDaemon(tmp_path, partitions=[0, 1, 2, 3]) as daemon:
        daemon.wait(lambda: daemon.running("w0", "w1", "w2", "w3"))
        with_client = daemon.shared()                        # a control connection is open while w1 is forked again
        from yadtqd.control_client import ControlClient
        with ControlClient(str(tmp_path / "s.sock")) as control:
            assert control.call("ping")["pid"] == daemon.pid
            killed(daemon, "w1")
            daemon.wait(lambda: len(daemon.journal(name="w1")) == 2)
        with_client.close()
        for row in daemon.journal():
            assert row["blocked"] == []
            assert row["threads"] == 1
            kinds = sorted(fd.split(":")[0].split(" ")[0].removeprefix("/") for fd in row["fds"])
            assert kinds.count("socket") == 1                # the isolator's listening one
            assert not any("eventpoll" in fd for fd in row["fds"])
            assert not any("y.pid" in fd for fd in row["fds"])
            assert not any(fd.startswith("pipe:") for fd in row["fds"])
