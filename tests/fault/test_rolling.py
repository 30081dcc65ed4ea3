"""Restarts in full swing: of all workers one by one, of everything on SIGHUP, of the daemon, of one host of two.

While submissions go on without a pause, nothing is lost, each task has one result, and no task is interrupted: every
body starts exactly once and ends, since each takes less than the drain limit.
"""
from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import Daemon, wait_for
from tests.support.recorded import History
from tests.support.steady_load import SteadyLoad
from yadtq import YADTQClient
from yadtqd.control_client import ControlClient

if TYPE_CHECKING:
    from yadtq.config import Settings

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(300)]
OPTIONS = {"num_partitions": 4, "max_workers": 2, "heartbeat_interval": 0.5, "kafka_session_timeout_ms": 6000,
           "drain_timeout_s": 20}


@pytest.fixture(params=["librdkafka", "kafka-python"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Scene:
    """Daemons and a load on them."""

    def __init__(self, settings: Settings, folder: Path, transport: str) -> None:
        self.settings, self.folder, self.transport = settings, folder, transport
        self.client = YADTQClient(4, settings=settings.replace(transport=transport))
        self.load = SteadyLoad(self.client, folder / "history")
        self.daemons: list[Daemon] = []

    def daemon(self, name: str = "host1") -> Daemon:
        daemon = Daemon(self.settings, self.folder, name, **OPTIONS | {
            "transport": self.transport, "control_socket": str(self.folder / f"{name}.sock"),
            "pid_file": str(self.folder / f"{name}.pid")})
        self.daemons.append(daemon)
        daemon.start()
        return daemon

    def in_full_swing(self, ended: int = 100) -> None:
        """Until so many tasks more have ended."""
        goal = self.load.ended() + ended
        wait_for(lambda: self.load.ended() >= goal, 60, f"{goal} tasks ended")

    def check(self) -> History:
        history = self.load.finish()
        again = {t: n for t, n in history.starts.items() if n != 1}
        assert not again, f"interrupted and run again: {again}\n" + "\n".join(d.tail(80) for d in self.daemons)
        assert history.starts == history.ends
        return history

    def close(self) -> None:
        for daemon in self.daemons:
            daemon.end()
        self.client.close()


@pytest.fixture
def scene(settings: Settings, tmp_path: Path, transport: str) -> Iterator[Scene]:
    made = Scene(settings, tmp_path, transport)
    yield made
    made.close()


def pids(daemon: Daemon) -> dict[str, int]:
    status = daemon.status()
    return {row["name"]: row["pid"] for row in (*status["workers"], *status["roles"])}


def renewed(daemon: Daemon, names: set[str], before: dict[str, int]) -> Callable[[], bool]:
    """Whether all of these run in new processes."""
    def look() -> bool:
        rows = [*daemon.status()["workers"], *daemon.status()["roles"]]
        running = {row["name"]: row["pid"] for row in rows if row["state"] == "RUNNING"}
        return all(running.get(name, before[name]) != before[name] for name in names)
    return look


def command(daemon: Daemon, name: str, **args: Any) -> None:
    with ControlClient(daemon.socket, timeout_s=5) as control:
        control.call(name, **args)


def test_children_and_then_the_daemon_are_restarted_under_load(scene: Scene) -> None:
    daemon = scene.daemon()
    daemon.wait_running(2)
    scene.load.start()
    scene.in_full_swing()
    before = pids(daemon)
    command(daemon, "reload")
    wait_for(renewed(daemon, set(before), before), 90, "all children replaced")
    scene.in_full_swing(50)
    begun = time.monotonic()
    assert daemon.end() == 0
    stopped_s = time.monotonic() - begun
    daemon.start()
    daemon.wait_running(2)
    scene.in_full_swing(50)
    history = scene.check()
    print(f"{len(history.ends)} tasks, none interrupted; the daemon drained in {stopped_s:.1f} s")


@pytest.mark.parametrize("transport", ["librdkafka"], indirect=True)
def test_two_hosts_are_restarted_one_after_the_other(scene: Scene) -> None:
    first, second = scene.daemon("host1"), scene.daemon("host2")
    wait_for(lambda: all(len(d.workers()) == 2 and all(w["state"] == "RUNNING" for w in d.workers())
                         for d in (first, second)), 60, "two workers on each host")
    scene.load.start()
    scene.in_full_swing()
    for daemon in (first, second):
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(40) == 0
        daemon.start()
        daemon.wait_running(2)
        scene.in_full_swing(50)
    history = scene.check()
    print(f"{len(history.ends)} tasks, none interrupted")
