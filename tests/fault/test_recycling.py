"""Workers that are replaced as configured: nothing is interrupted, nothing runs twice, not all go at once."""
from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import Daemon, wait_for
from tests.support.recorded import History
from yadtq import YADTQClient

if TYPE_CHECKING:
    from yadtq.config import Settings

pytestmark = [pytest.mark.fault, pytest.mark.timeout(180)]
OPTIONS = {"num_partitions": 2, "heartbeat_interval": 0.5, "kafka_session_timeout_ms": 6000, "recycle_jitter": 0.0,
           "drain_timeout_s": 1.0, "task_timeout": 60.0}


@pytest.fixture
def client(settings: Settings) -> Iterator[YADTQClient]:
    with YADTQClient(2, settings=settings) as client:
        yield client


def test_after_so_many_tasks(settings: Settings, client: YADTQClient, tmp_path: Path) -> None:
    path = tmp_path / "history"
    with Daemon(settings, tmp_path, **OPTIONS, worker_max_tasks=60) as daemon:
        before = {w["name"]: w["pid"] for w in daemon.wait_running(2)}
        ids = client.submit_tasks([{"task": "recorded", "args": [str(path), n, 0.01]} for n in range(300)])
        long = client.submit_tasks([{"task": "recorded", "args": [str(path), n, 3.0]} for n in (1000, 1001)])
        assert len(client.get_results([*ids, *long], timeout=90)) == 302
        history = History.read(path)
        assert set(history.starts.values()) == {1}, "nothing was interrupted: drain_timeout_s counts for no recycling"
        wait_for(lambda: all(w["recycled"] >= 1 and w["state"] == "RUNNING" for w in daemon.workers()), 30,
                 f"both recycled\n{daemon.tail()}")
        workers = daemon.wait_running(2)
        assert all(w["pid"] != before[w["name"]] for w in workers)
        assert all(w["restarts"] == 0 for w in workers), "that is no failure"
        assert sum(w["done"] for w in workers) == 302
        log = daemon.log.read_text()
        assert "this worker asks to be replaced: it has ended" in log
        assert "recycled: it has ended" in log
        assert "exited with status 9 (RECYCLED); starts again at once" in log
        going: set[str] = set()
        for what, name in re.findall(r"(?:fleet|rolling|watch): (w\d)(?: \(pid \d+\))? (is recycled|runs)", log):
            going = going | {what} if name == "is recycled" else going - {what}
            assert len(going) <= 1, "one after the other"


def test_a_worker_that_is_too_old_goes_while_it_idles(settings: Settings, client: YADTQClient, tmp_path: Path) -> None:
    with Daemon(settings, tmp_path, **OPTIONS, max_workers=1, worker_max_age_s=2.0) as daemon:
        daemon.wait_running(1)
        wait_for(lambda: any(w["recycled"] >= 2 for w in daemon.workers()), 30, f"recycled twice\n{daemon.tail()}")
        assert client.get_result(client.submit_task("addition", args=[1, 2]), timeout=30) == 3
        assert daemon.end() == 0
