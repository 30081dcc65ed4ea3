"""The unit files: systemd finds nothing wrong with them, they are closed enough, and they agree with the code."""
from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from yadtq.config import OPTIONS
from yadtqd.exits import DaemonExit

CHECKOUT = Path(__file__).parents[2]
SYSTEMD = CHECKOUT / "systemd"
UNITS = ["yadtqd.service", "yadtqd.socket", "yadtq.target", "kafka.service"]
PROGRAMS = ["usr/bin/yadtqd", "usr/bin/yadtqctl", "usr/bin/java", "usr/lib/yadtq-kafka/await-ready",
            "usr/lib/yadtq-kafka/first-start"]
OTHERS = ["sysinit.target", "basic.target", "sockets.target", "multi-user.target", "shutdown.target",
          "network.target", "network-online.target", "nss-lookup.target", "time-sync.target", "local-fs.target",
          "system.slice", "-.slice"]
MAX_EXPOSURE = 2.0

needs_analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root file system with our units installed, the programs that they name, and the units that each system has."""
    units = tmp_path / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for name in [*UNITS, "yadtqd.service.d", "kafka.service.d"]:
        source = SYSTEMD / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, units / name)
    for name in OTHERS:
        (units / name).write_text("[Unit]\nDescription=stands for the system's own\n")
    for name in PROGRAMS:
        program = tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    return tmp_path


def analyze(root: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", args[0], f"--root={root}", *args[1:]], capture_output=True, text=True,
                          timeout=60, check=False, env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"})


@needs_analyze
def test_verify_finds_nothing(root: Path) -> None:
    found = analyze(root, "verify", *UNITS)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@needs_analyze
def test_verify_would_find_a_mistake(root: Path) -> None:
    unit = root / "usr/lib/systemd/system/yadtqd.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=10", "WatchdogSecs=10"))
    assert "'WatchdogSecs'" in analyze(root, "verify", *UNITS).stderr


@needs_analyze
@pytest.mark.parametrize("unit", ["yadtqd.service", "kafka.service"])
def test_the_exposure_is_small(root: Path, unit: str) -> None:
    told = analyze(root, "security", "--offline=true", unit)
    level = re.search(rf"Overall exposure level for {unit}: ([\d.]+)", told.stdout)
    assert level, told.stderr
    assert float(level[1]) <= MAX_EXPOSURE


@pytest.mark.skipif(not shutil.which("systemd-sysusers"), reason="systemd-sysusers is not installed")
@pytest.mark.parametrize("name", ["yadtq", "kafka"])
def test_users_are_made_with_their_groups(tmp_path: Path, name: str) -> None:
    told = subprocess.run(["systemd-sysusers", f"--root={tmp_path}", "--dry-run",
                           str(SYSTEMD / f"sysusers.d/{name}.conf")], capture_output=True, text=True, timeout=60,
                          check=True)
    assert re.search(rf"Creating group '{name}'", told.stderr + told.stdout)
    assert re.search(rf"Creating user '{name}'", told.stderr + told.stdout)


def values(unit: str, key: str) -> list[str]:
    """All values of a key, in order."""
    return re.findall(rf"^{key}=(.*)$", (SYSTEMD / unit).read_text(), re.MULTILINE)


@pytest.mark.parametrize("unit", ["yadtqd.service.d", "kafka.service.d"])
def test_each_line_of_the_hardening_stands_below_its_reason(unit: str) -> None:
    above = ""
    for line in (SYSTEMD / unit / "50-hardening.conf").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            assert re.match(r"# (?!--)", above), f"{unit}: {line} has no reason"
        above = line


def test_every_password_has_its_credential_and_may_be_missing() -> None:
    passwords = {name for name, option in OPTIONS.items() if option.secret}
    loaded = dict(value.split(":", 1) for value in values("yadtqd.service", "LoadCredential"))
    assert passwords <= set(loaded)
    assert all(path == f"/etc/yadtq/credentials/{name}" for name, path in loaded.items())
    assert set(values("yadtqd.service", "SetCredential")) == {rf"{name}:\n" for name in loaded}


def test_the_exit_statuses_mean_to_systemd_what_they_mean_to_us() -> None:
    hopeless = {int(status) for status in values("yadtqd.service", "RestartPreventExitStatus")[0].split()}
    assert hopeless == {DaemonExit.USAGE, DaemonExit.CONFIGURATION, DaemonExit.ALREADY_RUNNING}
    assert values("yadtqd.service", "SuccessExitStatus") == [str(int(DaemonExit.DRAIN_CUT_SHORT))]


def test_the_stop_time_out_is_longer_than_a_drain() -> None:
    assert int(values("yadtqd.service", "TimeoutStopSec")[0]) > OPTIONS["drain_timeout_s"].default + 5


def test_the_socket_is_where_everybody_looks_for_it() -> None:
    path = "/run/yadtq/yadtqd.sock"
    assert values("yadtqd.socket", "ListenStream") == [path]
    assert path.replace("/run/", "%t/") in values("yadtqd.service", "ExecReload")[0]
    assert values("yadtqd.socket", "SocketMode") == ["0660"]
    assert values("yadtqd.socket", "SocketGroup") == ["yadtq"]


# ---- waiting for Kafka ----------------------------------------------------------------------------------------------
def await_ready(tmp_path: Path, properties: str, **env: str) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "server.properties"
    file.write_text(properties)
    return subprocess.run([str(SYSTEMD / "kafka-await-ready"), str(file)], capture_output=True, text=True, timeout=30,
                          check=False, env={"PATH": "/usr/bin:/bin", "KAFKA_READY_WITHIN_S": "1", **env})


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("listeners", [
    "listeners=SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:1",
    "listeners = CONTROLLER://:1, PLAINTEXT://0.0.0.0:{port}  ",
    "listeners=PLAINTEXT://127.0.0.1:1\nlisteners:PLAINTEXT://:{port}",
    "process.roles=broker,controller\n#listeners=PLAINTEXT://:1\nlisteners=CONTROLLER://localhost:1,A://localhost:{port}",
])
def test_kafka_is_ready_when_its_first_client_port_is_open(tmp_path: Path, port: int, listeners: str) -> None:
    told = await_ready(tmp_path, "controller.listener.names=CONTROLLER\n" + listeners.format(port=port))
    assert (told.returncode, told.stderr) == (0, "")


def test_a_controller_alone_is_ready_with_its_own_port(tmp_path: Path, port: int) -> None:
    told = await_ready(tmp_path, f"controller.listener.names=C\nlisteners=C://127.0.0.1:{port}\n")
    assert (told.returncode, told.stderr) == (0, "")


def test_a_kafka_that_takes_long_is_left_alone_and_one_that_ended_is_a_failure(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()[1]
    properties = f"listeners=PLAINTEXT://127.0.0.1:{closed}\n"
    slow = await_ready(tmp_path, properties)
    assert slow.returncode == 0
    assert "is not open after 1 s" in slow.stderr
    gone = subprocess.Popen(["/bin/true"])
    gone.wait(timeout=10)
    failed = await_ready(tmp_path, properties, MAINPID=str(gone.pid), KAFKA_READY_WITHIN_S="20")
    assert failed.returncode == 1
    assert "Kafka ended before" in failed.stderr
