"""setup.sh tells what it does, why it failed and what to do then, and leaves nothing half done.

It is run for real on a copy of its files: with wrong arguments, with a package index that refuses or hangs, with a
Maven that brings wrong jars, interrupted, and without a password for sudo.
"""
from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from local_servers import start_time
from tests.support.services import ROOT

COPIED = ("setup.sh", "packaging", "requirements", "pyproject.toml", "client/pyproject.toml")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that setup.sh needs, and an environment that an earlier run has made, by its mark `precious`."""
    root = tmp_path / "checkout"
    for name in COPIED:
        source, target = ROOT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    (root / ".venv").mkdir()
    (root / ".venv" / "precious").touch()
    return root


def run(root: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([root / "setup.sh", *arguments], cwd="/", text=True, capture_output=True, timeout=100,
                          stdin=subprocess.DEVNULL, env=os.environ | env, check=False)


def bash(script: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """A piece of bash with setup.sh's parts at hand."""
    head = (f"set -euo pipefail; cd {ROOT}; ROOT=$PWD STATE={folder} LOGS={folder}/logs PYTHON=python3 CLIENT_ONLY=;"
            ". packaging/setup/ui.sh; . packaging/setup/install.sh;")
    return subprocess.run(["bash", "-c", head + script], text=True, capture_output=True, timeout=60,
                          stdin=subprocess.DEVNULL, env=os.environ | env, check=False)


def program(folder: Path, name: str, text: str) -> None:
    """A stand-in for a program, first on the PATH when `folder` is."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("#!/bin/bash\n" + text)
    (folder / name).chmod(0o755)


def test_the_help_names_every_command_and_fits_a_terminal() -> None:
    said = run(ROOT, "--help")
    assert said.returncode == 0
    assert all(len(line) <= 79 for line in said.stdout.splitlines())
    cases = re.findall(r"^    ([a-z |]+)\)", (ROOT / "setup.sh").read_text().partition("\nmain() {")[2], re.MULTILINE)
    commands = {name.strip() for case in cases for name in case.split("|")} - {"help"}
    assert {"install", "demo", "test", "up", "down", "doctor", "status"} <= commands
    assert commands <= set(re.findall(r"^  ([a-z]+) ", said.stdout, re.MULTILINE))


@pytest.mark.parametrize("arguments", [["upp"], ["--nope"], ["up", "--nope"], ["up", "--config", "/no/such/file"],
                                       ["up", "--config"], ["down", "now"], ["doctor", "x"], ["install", "redis"],
                                       ["clean", "--nope"], ["demo", "x"], ["lock", "x"]])
def test_wrong_arguments_are_refused_before_anything_is_done(checkout: Path, arguments: list[str]) -> None:
    said = run(checkout, *arguments)
    assert said.returncode == 2
    assert "--help" in said.stderr
    assert not said.stdout
    assert not (checkout / ".yadtq").exists()


def test_a_failed_step_is_named_with_its_last_words_and_the_cure(tmp_path: Path) -> None:
    broken = 'broken() { echo "the reason"; false; echo "never"; };'
    said = bash(broken + 'step "Doing it" it "do that" broken; echo on', tmp_path)
    assert said.returncode == 1
    assert "FAILED  Doing it" in said.stderr
    assert "the reason" in said.stderr
    assert "never" not in said.stderr
    assert "what to do: do that" in said.stderr
    assert "on" not in said.stdout.splitlines()


def test_an_index_that_refuses_leaves_the_old_environment(checkout: Path) -> None:
    said = run(checkout, PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_NO_CACHE_DIR="1", PIP_FIND_LINKS="",
               PIP_RETRIES="0", PIP_CONFIG_FILE=os.devnull)
    assert said.returncode == 1, said.stdout + said.stderr
    assert "FAILED  Making the Python environment" in said.stderr
    assert "what to do:" in said.stderr
    assert (checkout / ".venv" / "precious").exists()
    assert not (checkout / ".yadtq" / "venv.before").exists()


def test_the_python_that_was_named_is_taken(tmp_path: Path) -> None:
    program(tmp_path / "bin", "python3", f'exec {sys.executable} "$@"\n')
    program(tmp_path / "bin", "mine",
            f'case $* in *_base_executable*) echo /mine ;; *) exec {sys.executable} "$@" ;; esac\n')
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    for named in ("mine", str(tmp_path / "bin" / "mine")):
        assert bash("find_python; echo $PYTHON", tmp_path, PATH=path, YADTQ_SETUP_PYTHON=named).stdout == "/mine\n"
    unnamed = bash("find_python; echo $PYTHON", tmp_path, PATH=path, YADTQ_SETUP_PYTHON="")
    assert Path(unnamed.stdout.strip()).samefile(sys._base_executable)


@pytest.mark.parametrize(("named", "is_"), [("nowhere", "missing"), ("old", "Python 3.9.2")])
def test_a_python_that_is_missing_or_too_old_is_not_replaced_by_another(checkout: Path, tmp_path: Path,
                                                                       named: str, is_: str) -> None:
    program(tmp_path / "bin", "old", 'case $* in --version) echo Python 3.9.2 ;; *) exit 1 ;; esac\n')
    said = run(checkout, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}", YADTQ_SETUP_PYTHON=named)
    assert said.returncode == 1
    assert f"{named} here is: {is_}\n" in said.stderr
    assert "another one in YADTQ_SETUP_PYTHON" in said.stderr
    assert (checkout / ".venv" / "precious").exists()


def test_the_environment_of_a_running_daemon_is_not_replaced(checkout: Path) -> None:
    (checkout / ".yadtq").mkdir()
    us = {"pid": os.getpid(), "started": start_time(os.getpid()), "port": 0}
    (checkout / ".yadtq" / "state.json").write_text(json.dumps({"yadtqd": us}))
    said = run(checkout)
    assert said.returncode == 1
    assert "the yadtqd of this checkout is running from it" in said.stderr
    assert (checkout / ".venv" / "precious").exists()


def test_ctrl_c_leaves_the_old_environment_and_no_process(checkout: Path) -> None:
    with socket.socket() as silent:  # an index that takes the connection and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        env = {"PIP_INDEX_URL": f"http://127.0.0.1:{silent.getsockname()[1]}/simple", "PIP_NO_CACHE_DIR": "1",
               "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
        command = ["env", "--default-signal=INT", checkout / "setup.sh", "install"]  # a background job ignores it
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL, text=True, env=os.environ | env, start_new_session=True)
        silent.settimeout(60)
        silent.accept()[0].close()  # pip has come: the environment is half made
        assert not (checkout / ".venv" / "precious").exists()
        os.killpg(started.pid, signal.SIGINT)  # what a terminal does
        said, _ = started.communicate(timeout=30)
    assert started.returncode == 130, said
    assert "interrupted during: Making the Python environment" in said
    assert (checkout / ".venv" / "precious").exists()
    ended_by = time.monotonic() + 5
    while (left := processes_in(checkout)) and time.monotonic() < ended_by:
        time.sleep(0.05)
    assert not left


def processes_in(folder: Path) -> list[str]:
    """The command lines that name the folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


@pytest.mark.parametrize(("jars", "complaint"), [({"evil.jar": b"x"}, "differs from its checksum"), ({}, "differs")])
def test_jars_that_are_not_the_pinned_ones_are_not_installed(tmp_path: Path, jars: dict[str, bytes],
                                                            complaint: str) -> None:
    (tmp_path / "wrong").mkdir()
    for name, content in jars.items():
        (tmp_path / "wrong" / name).write_bytes(content)
    program(tmp_path / "bin", "mvn", 'for word; do case $word in -DoutputDirectory=*) cp -r '
            f'{tmp_path}/wrong "${{word#*=}}" ;; esac; done\n')
    fetch = [ROOT / "packaging" / "kafka" / "fetch.sh"]
    env = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    said = subprocess.run(fetch, env=env, text=True, capture_output=True, timeout=60, check=False)
    assert said.returncode == 1
    assert complaint in said.stderr
    assert {entry.name for entry in (tmp_path / "cache" / "yadtq").iterdir()} <= {".lock", "maven"}


def test_a_jar_that_was_changed_later_is_noticed(tmp_path: Path) -> None:
    fetch = ROOT / "packaging" / "kafka" / "fetch.sh"
    there = Path(subprocess.run([fetch, "path"], text=True, capture_output=True, check=True, timeout=10).stdout.strip())
    copy = tmp_path / "yadtq" / there.name
    copy.mkdir(parents=True)
    for jar in there.glob("*.jar"):
        (copy / jar.name).symlink_to(jar)
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    assert subprocess.run([fetch, "verify"], env=env, check=False, timeout=30).returncode == 0
    altered = next(copy.glob("kafka-clients-*.jar"))
    altered.unlink()
    altered.write_bytes(b"PK")
    said = subprocess.run([fetch, "verify"], env=env, check=False, timeout=30, text=True, capture_output=True)
    assert said.returncode != 0
    assert altered.name in said.stdout + said.stderr
    altered.unlink()
    assert subprocess.run([fetch, "verify"], env=env, check=False, timeout=30).returncode != 0
    looked = subprocess.run([sys.executable, ROOT / "packaging/setup/doctor.py"], env=env, text=True,
                            capture_output=True, timeout=60, check=False)
    assert looked.returncode == 1
    assert "-> run ./setup.sh install" in looked.stdout


def test_without_a_password_for_sudo_an_administrator_is_told_what_to_run(tmp_path: Path) -> None:
    program(tmp_path / "bin", "id", "echo 1000\n")
    program(tmp_path / "bin", "sudo", "exit 1\n")
    program(tmp_path / "bin", "apt-get", "exit 99\n")
    said = bash("missing_packages() { echo redis-server; }; install_system_packages", tmp_path,
                PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert said.returncode == 1
    assert "sudo is needed to install system packages (redis-server), and for nothing else" in said.stdout
    assert "administrator run: apt-get update && apt-get install --no-install-recommends redis-server" in said.stderr


def test_a_redis_that_is_new_is_not_started_and_one_that_was_there_is_left_alone(tmp_path: Path) -> None:
    script = (ROOT / "packaging" / "setup" / "apt_install.sh").read_text()
    copy = tmp_path / "apt_install.sh"
    policy = tmp_path / "policy-rc.d"
    copy.write_text(script.replace("/usr/sbin/policy-rc.d", str(policy)))
    said = tmp_path / "said"
    program(tmp_path / "bin", "apt-get", f'case "$*" in *install*) {{ sh {policy} redis-server start; echo "redis $?"; '
            f'sh {policy} postgresql start; echo "other $?"; }} >>{said} 2>/dev/null; esac\n')
    program(tmp_path / "bin", "systemctl", f'echo "systemctl $*" >>{said}\n')
    env = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}

    program(tmp_path / "bin", "dpkg-query", "exit 1\n")
    subprocess.run(["bash", copy, "maven", "redis-server"], check=True, env=env, timeout=20)
    assert said.read_text().split("\n")[:3] == ["redis 101", "other 0", "systemctl disable redis-server.service"]
    assert not policy.exists()

    said.unlink()
    program(tmp_path / "bin", "dpkg-query", 'echo "install ok installed"\n')
    subprocess.run(["bash", copy, "redis-server"], check=True, env=env, timeout=20)
    assert "systemctl" not in said.read_text()
    assert "redis 101" not in said.read_text()


def test_the_doctor_names_the_mistake_in_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "bad.toml"
    config.write_text("redis_prot = 6379\n")
    said = subprocess.run([sys.executable, ROOT / "packaging/setup/doctor.py"], text=True, capture_output=True,
                          timeout=60, env=os.environ | {"YADTQ_CONFIG": str(config)}, check=False)
    assert said.returncode == 1
    assert f"{config}:1" in said.stdout
    assert "redis_port" in said.stdout


def test_no_registry_or_index_is_named_in_the_locked_requirements() -> None:
    for file in (ROOT / "requirements").glob("*.txt"):
        assert "://" not in file.read_text()
        assert "--index-url" not in file.read_text()
