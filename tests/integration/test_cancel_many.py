"""Cancelling many tasks by group, type, state and time: the client's methods and both command lines, on a real Redis.

No worker runs here (a claim is played where one is needed): what a worker does about it is test_cancel_running's.
"""
from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.services import ROOT
from yadtq import AsyncYADTQClient, CancelAnswer, CancelReport, TaskStatus, YADTQClient
from yadtq.cli import exits
from yadtq.config import Settings
from yadtq.errors import InvalidTask, TaskCancelled
from yadtq.names import shard_of
from yadtq.records import ClaimEntry

pytestmark = pytest.mark.integration


@pytest.fixture
def client(settings: Settings) -> Iterator[YADTQClient]:
    with YADTQClient(settings=settings) as client:
        yield client


def submit(client: YADTQClient, count: int, task: str = "addition", group: str | None = None) -> list[str]:
    return client.submit_tasks([{"task": task, "args": [n, 1], "group": group} for n in range(count)])


def claim(client: YADTQClient, ids: list[str]) -> None:
    backend = client._connections.backend
    numbers = backend.clear_numbers()
    now_ms = int(time.time() * 1000)
    claims = backend.claim(0, 1, [ClaimEntry(one, 0, numbers[shard_of(one)], "addition", now_ms) for one in ids],
                           now_ms)
    assert {one.answer for one in claims} == {"RUN"}


def test_a_group_of_thousands_and_nothing_else(client: YADTQClient) -> None:
    mine = submit(client, 5000, group="import-17")
    others = submit(client, 500, group="import-18") + submit(client, 500)
    claim(client, mine[:7])
    would = client.cancel_tasks(group="import-17", dry_run=True)
    assert (would.confirmed, would.asked, would.ended) == (4993, 7, 0)
    assert client.count_tasks(group="import-17")[TaskStatus.CANCELLED] == 0
    report = client.cancel_tasks(group="import-17")
    assert report == CancelReport(4993, 7, 0)
    assert client.count_tasks(group="import-17")[TaskStatus.CANCELLED] == 4993
    assert client.count_tasks()[TaskStatus.QUEUED] == len(others) + 7
    again = client.cancel_tasks(group="import-17", with_ids=True)          # those that the worker has not ended yet
    assert again.answers == dict.fromkeys(mine[:7], CancelAnswer.ASKED)
    for one in mine[10:12]:
        with pytest.raises(TaskCancelled):
            client.get_result(one, timeout=5)


def test_by_type_state_and_time(client: YADTQClient) -> None:
    early = submit(client, 50)
    time.sleep(0.05)
    between = time.time()
    time.sleep(0.05)
    late, other = submit(client, 50), submit(client, 50, "division")
    assert client.cancel_tasks(task="addition", until=between, with_ids=True).answers == dict.fromkeys(
        early, CancelAnswer.CONFIRMED)
    assert client.cancel_tasks(task=["addition", "division"], status=TaskStatus.PROCESSING).total == 0
    assert client.cancel_tasks(task="division", group="no such") == CancelReport()
    assert client.cancel_tasks(status=TaskStatus.QUEUED).confirmed == len(late) + len(other)


def test_a_group_and_a_type_must_both_hold(client: YADTQClient) -> None:
    submit(client, 30, group="import-17")
    wanted = submit(client, 20, "division", group="import-17")
    submit(client, 10, "division")
    report = client.cancel_tasks(task="division", group="import-17", with_ids=True)
    assert set(report.answers) == set(wanted)
    assert client.count_tasks()[TaskStatus.CANCELLED] == 20


def test_by_ids_of_any_number(client: YADTQClient) -> None:
    ids = submit(client, 4500)
    assert client.cancel_tasks(iter([*ids, ids[0]])) == CancelReport(4500, 0, 1)
    assert client.cancel_tasks(ids[0], with_ids=True).answers == {ids[0]: CancelAnswer.ENDED}
    assert client.cancel_tasks(["nobody-knows-it"]) == CancelReport(0, 1, 0)
    assert client.cancel_tasks([]) == CancelReport()


@pytest.mark.parametrize("arguments", [
    {}, {"ids": ["one"], "group": "import-17"}, {"status": TaskStatus.SUCCESS}, {"status": "LOST"}, {"group": ""},
    {"ids": [17]}, {"task": "no name!"}])
def test_what_does_not_say_which_is_refused(client: YADTQClient, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidTask):
        client.cancel_tasks(**arguments)


def test_the_asynchronous_client_does_the_same(settings: Settings) -> None:
    async def run() -> None:
        async with AsyncYADTQClient(settings=settings) as client:
            ids = await client.submit_tasks([{"task": "addition", "group": "import-17"} for _ in range(100)])
            assert await client.cancel_tasks(group="import-17") == CancelReport(100, 0, 0)
            assert await client.cancel_task(ids[0]) is CancelAnswer.ENDED

    asyncio.run(run())


# ---- the command lines -----------------------------------------------------------------------------------------------
def program(settings: Settings, name: str, *arguments: str, status: int = 0, stdin: str = "") -> Any:
    environment = {one: text for one, text in os.environ.items() if not one.startswith("YADTQ_")} | {
        "YADTQ_KAFKA_SERVERS": settings.kafka_servers, "YADTQ_REDIS_HOST": settings.redis_host,
        "YADTQ_REDIS_PORT": str(settings.redis_port), "YADTQ_KAFKA_TASK_TOPIC": settings.kafka_task_topic}
    done = subprocess.run([sys.executable, "-m", name, "cancel", *arguments, "--json"], input=stdin, cwd=ROOT,
                          capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout) if done.stdout else None


@pytest.mark.parametrize("name", ["yadtq.cli", "yadtqd.yadtqctl"])
def test_the_command_lines_cancel_by_group_after_asking(client: YADTQClient, settings: Settings, name: str) -> None:
    ids = submit(client, 20, group="import-17")
    claim(client, ids[:1])
    program(settings, name, "--group", "import-17", status=exits.REFUSED, stdin="n\n")
    assert program(settings, name, "--group", "import-17", "--dry-run")["confirmed"] == 19
    assert client.count_tasks()[TaskStatus.CANCELLED] == 0
    late = program(settings, name, "--group", "import-17", "--yes", "--wait", "--wait-timeout", "0.2",
                   status=exits.TIMEOUT)
    assert (late["confirmed"], late["asked"], late["late"]) == (19, 1, ids[:1])
    one = program(settings, name, ids[0], ids[1])
    assert one["answers"] == {ids[0]: "ASKED", ids[1]: "ENDED"}
    program(settings, name, status=exits.USAGE)
    program(settings, name, ids[0], "--group", "import-17", status=exits.USAGE)
