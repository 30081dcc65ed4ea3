"""Soft and hard time-outs wherever a handler runs: who catches the soft one cleans up, who is stuck is ended."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import Daemon
from tests.support.recorded import History
from yadtq import YADTQClient
from yadtq.errors import TaskFailed

if TYPE_CHECKING:
    from yadtq.config import Settings

pytestmark = [pytest.mark.fault, pytest.mark.timeout(180)]
OPTIONS = {"num_partitions": 4, "heartbeat_interval": 5.0, "kafka_session_timeout_ms": 6000, "task_timeout": 1.0,
           "task_timeout_grace_s": 1.0, "isolated_concurrency": 4, "max_worker_retries": 1,
           "tasks": ["tests.support.recording", "tests.support.poison"]}
# in C code with the interpreter's lock and without, swallowing every exception, with all signals blocked
STUCK = [("p.stuck", "regex"), ("p.stuck", "sleep"), ("p.stuck", "blocked"), ("p.stuck", "lock"),
         ("p.async_stuck", "pow"), ("p.isolated_stuck", "regex"), ("p.isolated_stuck", "blocked"),
         ("p.isolated_stuck", "sleep")]


@pytest.fixture
def client(settings: Settings) -> Iterator[YADTQClient]:
    with YADTQClient(4, settings=settings) as client:
        yield client


def error_of(client: YADTQClient, task_id: str) -> str:
    with pytest.raises(TaskFailed) as caught:
        client.get_result(task_id, timeout=90)
    return caught.value.code


@pytest.mark.parametrize("threads", [1, 3])
def test_a_stuck_handler_is_ended_and_its_neighbours_succeed(settings: Settings, client: YADTQClient, tmp_path: Path,
                                                             threads: int) -> None:
    path, others = str(tmp_path / "stuck"), str(tmp_path / "others")
    kinds = STUCK if threads == 1 else STUCK[:4]
    with Daemon(settings, tmp_path, **OPTIONS, worker_threads=threads) as daemon:
        daemon.wait_running(4)
        ids, stuck = [], []
        for token, (task, how) in enumerate(kinds):
            ids += client.submit_tasks([{"task": "recorded", "args": [others, 20 * token + n]} for n in range(20)])
            stuck.append(client.submit_task(task, args=[path, token, how]))
        assert [error_of(client, task_id) for task_id in stuck] == ["TASK_HARD_TIMEOUT"] * len(stuck)
        assert [r[0] for r in client.get_results(ids, timeout=90)] == list(range(20 * len(kinds)))
        starts = Counter(History.read(Path(path)).starts)
        assert "WORKER_RECOVERY_FAILED" not in daemon.log.read_text()
        # where several run in one process, nobody knows who held it up: they run once more, isolated
        assert all(starts[token] <= 2 for token in range(len(kinds))), starts


def test_who_catches_the_soft_time_out_can_clean_up(settings: Settings, client: YADTQClient, tmp_path: Path) -> None:
    path = str(tmp_path / "history")
    with Daemon(settings, tmp_path, **OPTIONS | {"task_timeout_grace_s": 20.0}) as daemon:
        daemon.wait_running(4)
        for token, task in enumerate(["p.cleans_up", "p.isolated_cleans_up", "p.async_cleans_up", "p.cleans_up"]):
            assert error_of(client, client.submit_task(task, args=[path, token])) == "TASK_TIMEOUT"
        text = Path(path).read_text()
        assert text.count('"cleaned"') == 4, "files are closed, locks released"
        assert "SoftTimeout" in Path(path + ".open").read_text()
        assert client.get_result(client.submit_task("addition", args=[1, 2]), timeout=30) == 3
