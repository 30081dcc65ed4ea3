"""The command yadtqd before it supervises: options, --check-config, exit statuses, the pid file."""
from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from yadtq.errors import AlreadyRunning, ConfigurationError
from yadtqd.exits import DaemonExit, Exit
from yadtqd.main import load_settings, main
from yadtqd.pid_file import PidFile, prepare_folder


@pytest.fixture(autouse=True)
def no_options_from_outside(monkeypatch):
    for name in [name for name in os.environ if name.startswith("YADTQ_")]:
        monkeypatch.delenv(name)


def run(*arguments):
    return CliRunner().invoke(main, arguments)


def test_check_config_shows_values_origins_and_no_secret(tmp_path, monkeypatch):
    (tmp_path / "y.toml").write_text('kafka_host = "broker"\nredis_password = "geheim"\n')
    monkeypatch.setenv("YADTQ_TASK_TIMEOUT", "33")
    done = run("--config", str(tmp_path / "y.toml"), "--check-config", "-o", "num_partitions=7", "--log-level", "debug")
    assert done.exit_code == DaemonExit.OK
    lines = {line.split(" = ")[0]: line for line in done.output.splitlines()}
    assert '"broker"' in lines["kafka_host"]
    assert f"{tmp_path}/y.toml:1" in lines["kafka_host"]
    assert "33" in lines["task_timeout"]
    assert "YADTQ_TASK_TIMEOUT" in lines["task_timeout"]
    assert "7" in lines["num_partitions"]
    assert "argument" in lines["num_partitions"]
    assert '"DEBUG"' in lines["log_level"]
    assert "default" in lines["redis_port"]
    assert "geheim" not in done.output


def test_all_mistakes_are_told_at_once(tmp_path):
    (tmp_path / "y.toml").write_text("kafka_prot = 1\ntask_timeout = -5\n")
    done = run("--config", str(tmp_path / "y.toml"), "--check-config", "-o", "redis_port=many", "-o", "max_workrs=2")
    assert done.exit_code == DaemonExit.CONFIGURATION
    for word in (f"{tmp_path}/y.toml:1", "kafka_port", f"{tmp_path}/y.toml:2", "redis_port: 'many'",
                 "did you mean max_workers"):
        assert word in done.output


@pytest.mark.parametrize("arguments", [["-o", "nonsense"], ["--log-level", "loud"], ["--nope"], ["extra"]])
def test_wrong_usage(arguments):
    assert run(*arguments).exit_code == DaemonExit.USAGE


def test_paths_become_absolute_for_a_daemon_that_changes_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = load_settings(None, {"log_file": "x.log", "pid_file": "run/y.pid"})
    assert (settings.log_file, settings.pid_file) == (f"{tmp_path}/x.log", f"{tmp_path}/run/y.pid")


def test_the_version():
    assert run("--version").output.startswith("yadtqd, version ")


def test_exit_statuses_stay_what_they_are():
    """They are documented, and unit files and scripts go by them."""
    assert {e.name: e.value for e in DaemonExit} == {
        "OK": 0, "FAILED": 1, "USAGE": 2, "CONFIGURATION": 3, "ALREADY_RUNNING": 4, "NOT_UP_IN_TIME": 5,
        "DRAIN_CUT_SHORT": 6}
    assert {e.name: e.value for e in Exit} == {
        "OK": 0, "CRASHED": 1, "STOP_FATAL_CONFIG": 3, "STALE": 4, "SOFT_RECYCLE": 5, "LOST_LEASE": 6,
        "INITIALIZATION_FAILED": 7, "KAFKA_REPLACED": 8, "RECYCLED": 9}


# ---- the pid file
def test_a_locked_pid_file_names_its_owner_and_a_left_one_blocks_nobody(tmp_path):
    path = str(tmp_path / "run" / "y.pid")
    code = ("import sys, time; from yadtqd.pid_file import PidFile; p = PidFile(sys.argv[1]); p.write(); "
            "print('held', flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyRunning, match=f"pid {holder.pid}"):
            PidFile(path)
        holder.kill()
        holder.wait()
    mine = PidFile(path)
    mine.write()
    assert (tmp_path / "run" / "y.pid").read_text() == f"{os.getpid()}\n"
    mine.remove()
    assert not (tmp_path / "run" / "y.pid").exists()


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "y.pid").symlink_to(tmp_path / "victim")
    with pytest.raises(ConfigurationError, match="set pid_file"):
        PidFile(str(tmp_path / "y.pid"))
    assert not (tmp_path / "victim").exists()


def test_folders_of_others_and_unwritable_ones_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    os.chown(tmp_path, 4712, -1) if os.getuid() == 0 else None
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        prepare_folder(tmp_path, "control_socket")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigurationError, match="may not write"):
        prepare_folder(tmp_path, "control_socket")
