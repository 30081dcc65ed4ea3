"""Tasks that kill the process that runs them, among innocent ones: each is found, isolated, and ended as a dead letter.

A real daemon with one worker that everything goes through. Looked at: the end of each poison task and what its error
says, how often it ran, that every innocent task has one result, and that the worker was never given up for them.
"""
from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import Daemon, wait_for
from tests.support.recorded import History, broken_promises
from yadtq import YADTQClient
from yadtq.dead_letter import decode_dead_letter
from yadtq.errors import TaskCrashed, TaskFailed
from yadtq.transport import open_consumer

if TYPE_CHECKING:
    from yadtq.config import Settings

pytestmark = [pytest.mark.fault, pytest.mark.timeout(180)]
OPTIONS = {"num_partitions": 2, "max_workers": 1, "heartbeat_interval": 0.5, "kafka_session_timeout_ms": 6000,
           "tasks": ["tests.support.recording", "tests.support.poison"], "max_crashes": 2, "max_worker_retries": 1}
IN_THE_WORKER = {"segfault": "SIGSEGV", "exit": "status 3", "killed": "SIGKILL", "abort": "SIGABRT",
                 "recursion": "SIGSEGV", "close_and_die": "SIGSEGV", "memory": "SIGSEGV", "children": "status 9"}
APART = {"segfault": "SIGSEGV", "kill_parent": "SIGKILL", "close_all": "could not tell how its task ended"}
Start = Callable[..., tuple[Daemon, YADTQClient]]


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    opened: list[Any] = []

    def begin(**options: Any) -> tuple[Daemon, YADTQClient]:
        client = YADTQClient(2, settings=settings.replace(transport=options.get("transport", "auto")))
        opened.append(client.close)
        daemon = Daemon(settings, tmp_path, **OPTIONS | options)
        opened.append(daemon.end)
        daemon.start()
        daemon.wait_running(1)
        return daemon, client
    yield begin
    for close in reversed(opened):
        close()


class Innocents:
    """Recorded tasks, and the promises about them."""

    def __init__(self, client: YADTQClient, folder: Path) -> None:
        self.client, self.path = client, folder / "innocents"
        self.tokens: list[int] = []
        self.ids: list[str] = []

    def submit(self, count: int, seconds: float = 0.001) -> None:
        tokens = range(len(self.tokens), len(self.tokens) + count)
        self.ids += self.client.submit_tasks(
            [{"task": "recorded", "args": [str(self.path), token, seconds]} for token in tokens])
        self.tokens += tokens

    def check(self, faults: int) -> History:
        """All have succeeded, once; none was started more often than faults allow."""
        results = dict(zip(self.tokens, self.client.get_results(self.ids, timeout=90), strict=True))
        history = History.read(self.path)
        assert broken_promises(history, results, results, self.tokens, faults=faults) == []
        return history


def end_of(client: YADTQClient, task_id: str) -> TaskFailed:
    with pytest.raises(TaskFailed) as caught:
        client.get_result(task_id, timeout=90)
    return caught.value


def letters(settings: Settings, wanted: int) -> dict[str, str]:
    """Code by task id of the dead letters: what was published and not known to be is published again."""
    consumer = open_consumer(settings)
    consumer.assign(settings.kafka_dead_letter_topic, {0: 0})
    found: dict[str, str] = {}

    def look() -> bool:
        for record in consumer.poll(100, 0.1):
            letter = decode_dead_letter(record.value)
            found[letter.id] = letter.code
        return len(found) >= wanted
    wait_for(look, 30, f"{wanted} dead letters")
    consumer.close()
    return found


@pytest.mark.parametrize("transport", ["librdkafka", "kafka-python"])
def test_every_kind_of_poison_among_hundreds_of_innocents(settings: Settings, start: Start, tmp_path: Path,
                                                          transport: str) -> None:
    daemon, client = start(transport=transport)
    innocents, path = Innocents(client, tmp_path), str(tmp_path / "poison")
    wanted: dict[str, tuple[str, str]] = {}
    begun = time.monotonic()
    kinds = [("p.die", *item) for item in IN_THE_WORKER.items()] + [("p.isolated_die", *i) for i in APART.items()]
    for token, (task, how, says) in enumerate(kinds):
        innocents.submit(30)
        wanted[client.submit_task(task, args=[path, token, how])] = how, says
    innocents.submit(30)
    for task_id, (how, says) in wanted.items():
        error = end_of(client, task_id)
        assert error.code == "TASK_CRASHED", (how, error)
        assert says in error.message, (how, error)
    took_s = time.monotonic() - begun
    history = innocents.check(faults=len(IN_THE_WORKER))
    starts = History.read(Path(path)).starts
    again = sum(Counter(history.starts).values()) - len(innocents.tokens)
    (worker,) = daemon.wait_running(1)
    print(f"{len(wanted)} poison tasks ended in {took_s:.1f} s, {worker['restarts']} restarts, {again} of "
          f"{len(innocents.tokens)} innocents started again, starts of the poison: {dict(starts)}")
    assert len(wanted) == len(kinds)
    assert all(2 <= starts[token] <= 3 for token in range(len(kinds))), "once in the worker at most, twice apart"
    assert worker["restarts"] <= len(IN_THE_WORKER)
    assert again <= 10 * len(IN_THE_WORKER), "only what had just ended and was not recorded yet starts again"
    assert "WORKER_RECOVERY_FAILED" not in daemon.log.read_text(), "a worker is not given up for its tasks"
    assert letters(settings, len(wanted)) == dict.fromkeys(wanted, "TASK_CRASHED")
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if b"300.25" in _command(pid)], "children were left"


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def test_a_task_that_kills_its_workers_parent_ends_too(start: Start, tmp_path: Path) -> None:
    """The whole host goes down once: systemd's part is played here. Then it runs apart, and its parent is its own."""
    daemon, client = start(isolated_concurrency=2)
    innocents, path = Innocents(client, tmp_path), str(tmp_path / "poison")
    innocents.submit(50)
    poison = client.submit_task("p.die", args=[path, 1, "kill_parent"])
    innocents.submit(50)
    assert daemon.process is not None
    daemon.process.wait(60)
    daemon.start()
    daemon.wait_running(1)
    error = end_of(client, poison)
    assert error.code == "TASK_CRASHED"
    assert "SIGKILL" in error.message
    innocents.check(faults=1)
    assert History.read(Path(path)).starts[1] == 3
    assert not re.search(r"isolator \(pid \d+\) (was|exited)", daemon.log.read_text()), "the isolator outlives it"


def test_a_task_that_closes_everything_that_its_worker_has_open(start: Start, tmp_path: Path) -> None:
    daemon, client = start()
    innocents, path = Innocents(client, tmp_path), str(tmp_path / "poison")
    innocents.submit(50)
    poison = client.submit_task("p.die", args=[path, 1, "close_all"])
    innocents.submit(50, seconds=0.02)
    with contextlib.suppress(TaskCrashed):      # or it ends well, before its worker ends: both are ends
        client.get_result(poison, timeout=60)
    innocents.check(faults=6)
    assert History.read(Path(path)).starts[1] <= 6
    assert "WORKER_RECOVERY_FAILED" not in daemon.log.read_text()


def test_a_child_that_a_handler_forked_never_comes_back_as_a_worker(start: Start, tmp_path: Path) -> None:
    daemon, client = start()
    (worker,) = daemon.wait_running(1)
    ids = [client.submit_task("p.forked_return", args=[str(tmp_path / "forks"), token]) for token in range(20)]
    assert set(client.get_results(ids, timeout=60)) == {worker["pid"]}
    assert client.get_result(client.submit_task("addition", args=[1, 2]), timeout=30) == 3
    assert [w["pid"] for w in daemon.workers()] == [worker["pid"]]
