"""A queue with a limit on a real Kafka and a real Redis, while its worker is stopped, and when it goes on."""
from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.role_host import RoleHost, until
from yadtq import QueueFull, YADTQClient
from yadtq.config import Settings
from yadtq.task import TaskStatus

pytestmark = pytest.mark.integration
LIMIT = 200


@pytest.fixture
def client(settings: Settings) -> Iterator[YADTQClient]:
    with YADTQClient(settings=settings.replace(max_backlog=LIMIT)) as client:
        yield client


def entries(count: int) -> list[dict[str, object]]:
    return [{"task": "addition", "args": [n, 1]} for n in range(count)]


def test_a_stopped_worker_fills_the_queue_and_a_started_one_empties_it(client: YADTQClient, settings: Settings) -> None:
    first = client.submit_tasks(entries(LIMIT - 1))
    one = client.submit_task("addition", [1, 1])
    with pytest.raises(QueueFull) as full:
        client.submit_task("addition", [2, 2])
    assert (full.value.waiting, full.value.limit) == (LIMIT, LIMIT)
    with pytest.raises(QueueFull):
        client.submit_tasks(entries(5))
    begun = time.monotonic()
    with pytest.raises(QueueFull):
        client.submit_task("addition", [2, 2], on_backlog="wait", submit_timeout_s=1)
    assert time.monotonic() - begun < 20
    assert client.count_tasks()[TaskStatus.QUEUED] == LIMIT
    with RoleHost(settings, own=(0, 1, 2, 3)) as host:
        host.start("worker", "w0", (0, 1, 2, 3))
        many = client.submit_tasks(entries(5 * LIMIT), on_backlog="wait")    # five times what may be queued
        assert client.get_results([*first, one, *many], timeout=60) == [
            *range(1, LIMIT), 2, *range(1, 5 * LIMIT + 1)]


def test_the_queue_never_grows_beyond_the_limit(client: YADTQClient, settings: Settings) -> None:
    """One client alone, many threads: the estimate counts what was admitted since Redis was asked."""
    seen: list[int] = []
    over = threading.Event()

    def watch() -> None:
        with YADTQClient(settings=settings) as other:
            while not over.wait(0.02):
                seen.append(other.count_tasks()[TaskStatus.QUEUED])

    def submit() -> None:
        for _ in range(20):
            client.submit_tasks(entries(50), on_backlog="wait")

    with RoleHost(settings, own=(0, 1, 2, 3)) as host:
        host.start("worker", "w0", (0, 1, 2, 3))
        watching = threading.Thread(target=watch)
        watching.start()
        threads = [threading.Thread(target=submit) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        over.set()
        watching.join(20)
        until(lambda: client.count_tasks()[TaskStatus.SUCCESS] == 3000, "all done", 60)
    assert seen
    assert max(seen) <= 2 * LIMIT, "what is under way between the question and the writing of its records comes on top"
