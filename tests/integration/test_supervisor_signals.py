"""The real supervisor stops, drains, reloads and restarts as it is told, and leaves nothing behind."""
from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time

import pytest

from tests.support.tiny_daemon import TinyDaemon, alive
from yadtq.errors import ControlError


def pids(daemon):
    status = daemon.status()
    return [row["pid"] for row in (*status["workers"], *status["roles"])]


def test_sigterm_drains_the_workers_first_then_membership(tmp_path):
    with TinyDaemon(tmp_path) as daemon:
        daemon.wait(lambda: daemon.running("w0", "w1"))
        children = pids(daemon)
        assert daemon.stop() == 0
        assert not any(map(alive, children))
        left = daemon.journal("left", "membership")
        assert left[0]["workers"] == [0] * 16               # it left when no worker was bound any more
        assert not (tmp_path / "y.pid").exists()
        assert not (tmp_path / "s.sock").exists()


def test_the_drain_limit_is_kept(tmp_path):
    with TinyDaemon(tmp_path, {"w0": "deaf"}, drain_timeout_s=1) as daemon:
        daemon.wait(lambda: daemon.running("w0", "w1"))
        at = time.monotonic()
        assert daemon.stop() == 6                           # DRAIN_CUT_SHORT
        assert 1.0 <= time.monotonic() - at < 2.5
        assert "for its drain limit" in daemon.log()


def test_a_second_signal_stops_at_once(tmp_path):
    with TinyDaemon(tmp_path, {"w0": "deaf"}, drain_timeout_s=60) as daemon:
        daemon.wait(lambda: daemon.running("w0", "w1"))
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait(lambda: daemon.status()["daemon"]["state"] == "DRAINING")
        at = time.monotonic()
        daemon.process.send_signal(signal.SIGINT)
        assert daemon.process.wait(5) == 6
        assert time.monotonic() - at < 2


@pytest.mark.parametrize("command", ["drain", "stop"])
def test_operators_end_it_too(tmp_path, command):
    with TinyDaemon(tmp_path, {"w0": "busy:0.3"}) as daemon:
        daemon.wait(lambda: daemon.running("w0", "w1"))
        daemon.call(command)
        assert daemon.process.wait(10) == (0 if command == "drain" else 6)


def test_a_killed_supervisor_leaves_no_child_not_even_a_frozen_one(tmp_path):
    with TinyDaemon(tmp_path, partitions=list(range(8))) as daemon:
        daemon.wait(daemon.running)
        children = pids(daemon)
        assert len(children) == 9
        os.kill(children[0], signal.SIGSTOP)
        daemon.process.kill()
        daemon.process.wait()
        daemon.wait(lambda: not any(map(alive, children)), within_s=5)
        daemon.start()                                      # neither lock nor socket stands in the way
        daemon.wait(daemon.running)
        assert daemon.stop() == 0


def test_no_double_start(tmp_path):
    with TinyDaemon(tmp_path) as daemon:
        daemon.wait(daemon.running)
        first = daemon.process
        daemon.start()
        assert daemon.process.wait(10) != 0
        assert f"another yadtqd, pid {first.pid}, holds {tmp_path}/y.pid" in daemon.log()
        daemon.process = first
        assert daemon.running()


def test_reload_reads_the_configuration_and_restarts_the_children_one_by_one(tmp_path):
    with TinyDaemon(tmp_path, partitions=[0, 1, 2]) as daemon:
        daemon.wait(daemon.running)
        (tmp_path / "reload.json").write_text(json.dumps({"task_timeout": 77.0, "host_name": "other"}))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait(lambda: daemon.status()["daemon"]["reloading"])
        daemon.wait(lambda: "the reload is done" in daemon.log())
        assert not daemon.status()["daemon"]["reloading"]
        for name in ("w0", "w1", "w2"):
            assert [row["timeout"] for row in daemon.journal(name=name)] == [10.0, 77.0]
            assert daemon.journal(name=name)[1]["reload_seq"] == 1
        log = daemon.log()
        assert "a change of host_name needs a restart of the daemon" in log
        steps = [line.split(": ", 1)[1] for line in log.splitlines()
                 if "drains: it is restarted" in line or " runs " in line]
        rolled = steps[-8:]                                 # drain, run, drain, run: never two at a time
        assert [" runs " in step for step in rolled] == [False, True] * 4
        assert all(w["restarts"] == 0 for w in daemon.workers().values())


def test_a_bad_configuration_changes_nothing(tmp_path):
    with TinyDaemon(tmp_path) as daemon:
        daemon.wait(daemon.running)
        before = pids(daemon)
        (tmp_path / "reload.json").write_text(json.dumps({"task_timeout": -1}))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait(lambda: "the configuration stays as it was" in daemon.log())
        with pytest.raises(ControlError, match="task_timeout"):
            daemon.call("reload")
        assert pids(daemon) == before
        (tmp_path / "reload.json").write_text("{")          # an error that nobody foresaw ends nobody either
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait(lambda: "the reload failed" in daemon.log())
        assert pids(daemon) == before


def test_restart_of_one_and_of_all_on_request(tmp_path):
    with TinyDaemon(tmp_path, {"w1": "exit:3"}) as daemon:
        daemon.wait(lambda: daemon.workers()["w1"]["state"] == "FATAL" and daemon.workers()["w0"]["state"] == "RUNNING")
        assert daemon.call("restart", worker="w0") == {"restarting": ["w0"]}
        daemon.wait(lambda: len(daemon.journal(name="w0")) == 2)
        assert daemon.call("restart") == {"restarting": ["w0", "w1"]}
        daemon.wait(lambda: len(daemon.journal(name="w0")) == 3)
        daemon.wait(lambda: len(daemon.journal(name="w1")) == 2)        # a FATAL one is tried again at once
        with pytest.raises(ControlError, match="there is no 'w9'"):
            daemon.call("restart", worker="w9")
        with pytest.raises(ControlError, match="does not own partition 7"):
            daemon.call("pause", partition=7)


def test_the_log_level_reaches_the_children(tmp_path):
    with TinyDaemon(tmp_path) as daemon:
        daemon.wait(daemon.running)
        assert daemon.call("logs", level="error") == {"level": "ERROR"}
        assert daemon.shared().log_level == 40


def test_sigusr1_writes_the_state_to_the_log_and_sigusr2_the_stacks(tmp_path):
    with TinyDaemon(tmp_path) as daemon:
        daemon.wait(daemon.running)
        daemon.process.send_signal(signal.SIGUSR1)
        daemon.wait(lambda: "'workers': [{'name': 'w0'" in daemon.log())
        daemon.process.send_signal(signal.SIGUSR2)
        daemon.wait(lambda: "in _wait_and_dispatch" in daemon.log())
        assert daemon.running()


def test_systemd_hears_of_the_whole_life(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        heard: list[str] = []

        def hear(text):
            while True:
                heard.append(systemd.recv(4096).decode())
                if heard[-1].startswith(text):
                    return

        with TinyDaemon(tmp_path, {"w0": "busy:0.6"}) as daemon:
            hear("READY=1")
            assert daemon.running("w0", "w1")               # not before the workers consume
            hear("STATUS=RUNNING: 2 of 2 workers running, 2 partitions (0-1), lag 0, ")
            hear("WATCHDOG=1")
            daemon.process.send_signal(signal.SIGHUP)
            hear("RELOADING=1")
            hear("EXTEND_TIMEOUT_USEC=")                    # as long as it goes on
            hear("READY=1")
            for _ in range(7):                              # a quarter of 0.4 s each: the drain asks anew
                hear("WATCHDOG=1")
            daemon.process.send_signal(signal.SIGTERM)
            hear("STOPPING=1")
            hear("EXTEND_TIMEOUT_USEC=")
            assert daemon.process.wait(10) == 0


def test_a_stopped_loop_feeds_no_watchdog_and_judges_nobody_when_it_goes_on(tmp_path):
    """Frozen for longer than the children's limit: they are given time to show that they live, and do."""
    with TinyDaemon(tmp_path, heartbeat_interval=0.4) as daemon:
        daemon.wait(lambda: daemon.running("w0", "w1"))
        everybody = [daemon.pid, *pids(daemon)]
        for pid in everybody:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2.5)
        for pid in everybody:                               # the supervisor first: what it sees are old beats
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.05)
        daemon.wait(lambda: "the supervisor did not run for" in daemon.log())
        time.sleep(0.5)
        assert "without a heartbeat" not in daemon.log()
        assert len(daemon.journal()) == 2


def test_launching_as_a_daemon_returns_when_it_is_up_and_says_why_not(tmp_path):
    daemon = TinyDaemon(tmp_path, log_file=str(tmp_path / "daemon.log"))
    daemon.given["daemon"] = True
    daemon.start()
    assert daemon.process.wait(15) == 0
    assert "yadtqd is up" in daemon.log()
    pid = int((tmp_path / "y.pid").read_text())
    try:
        assert daemon.running("w0", "w1")                   # at once: launching has waited for it
        status = daemon.status()["daemon"]
        assert status["pid"] == pid
        assert os.getsid(pid) != os.getsid(0)
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert os.readlink(f"/proc/{pid}/fd/2") == str(tmp_path / "daemon.log")
        daemon.start()
        assert daemon.process.wait(15) != 0                 # no double start
        assert f"another yadtqd, pid {pid}" in daemon.log()
        assert daemon.running("w0", "w1")
    finally:
        os.kill(pid, signal.SIGTERM)
        daemon.wait(lambda: not alive(pid))


def test_a_daemon_that_fails_tells_the_launching_command(tmp_path):
    (tmp_path / "s.sock").write_text("no socket")
    daemon = TinyDaemon(tmp_path, log_file=str(tmp_path / "daemon.log"))
    daemon.given["daemon"] = True
    daemon.start()
    assert daemon.process.wait(15) != 0
    assert "yadtqd did not start: ConfigurationError" in daemon.log()
    assert "exists and is no socket" in daemon.log()


@pytest.mark.parametrize(("option", "word"), [("pid_file", "the folder"), ("control_socket", "control_socket")])
def test_folders_that_can_not_be_used_are_named(tmp_path, option, word):
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [".venv/bin/yadtqd" if os.path.exists(".venv/bin/yadtqd") else "yadtqd", "-o", f"pid_file={tmp_path}/y.pid",
         "-o", f"control_socket={tmp_path}/s.sock", "-o", f"{option}={tmp_path}/file/x"],
        capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert "CONFIGURATION_ERROR" in done.stderr
    assert word in done.stderr
    assert f"set {option}" in done.stderr
