"""A checker that never fails is worth nothing: YADTQ is broken on purpose, and the checker of the promises finds it.

Each script of faults is played twice: as it is, when every promise has to hold, and with one rule of the protocol
switched off (tests/support/mutations.py), when the check that watches over it has to say so. What is not here: a
counter of a group in place of a set, since groups are labels and none completes.
"""
from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import empty, settings_for
from tests.fault.chaos.load import as_read
from tests.support.chaos_tasks import HISTORY_FILE, HOST
from tests.support.daemon import Daemon, wait_for
from tests.support.guarantees import Rules, Violation, unexcused, violations
from tests.support.history import Ended, Fault, History, Journal, Letter, Read, Started, Submitted, now
from tests.support.mutations import FAULT, MARK, MUTATION, functions_without_epochs
from tests.support.services import KafkaServer, RedisServer
from yadtq import YADTQClient
from yadtq.config import Settings
from yadtq.dead_letter import decode_dead_letter
from yadtq.result_backend import ResultBackend
from yadtq.task import new_task_id
from yadtq.transport import open_consumer

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(300)]
TRIES = 3
QUICK = {"num_partitions": 1, "max_workers": 1, "heartbeat_interval": 0.5, "auto_commit_interval_ms": 50,
         "tasks": ["tests.support.chaos_tasks", "tests.support.mutations"]}


class Play:
    """One script: a queue of one partition, its daemons, and a client that writes down what it is told."""

    def __init__(self, settings: Settings, folder: Path, mutation: str, exits: contextlib.ExitStack) -> None:
        self.settings, self.folder, self.mutation, self._exits = settings, folder, mutation, exits
        self.journal = Journal(folder / "client.events")
        self._client: YADTQClient | None = None

    def daemon(self, name: str = "host1", fault: str = "", **options: Any) -> Daemon:
        """A daemon whose workers are broken, if this play is."""
        env = {HISTORY_FILE: str(self.folder / "handlers.events"), HOST: name, MUTATION: self.mutation, FAULT: fault,
               MARK: str(self.folder / "mark")}
        paths = {"control_socket": str(self.folder / f"{name}.sock"), "pid_file": str(self.folder / f"{name}.pid")}
        daemon = Daemon(self.settings, self.folder, name, env=env, **QUICK | paths | options)
        self._exits.callback(daemon.kill)
        daemon.start()
        return daemon

    @property
    def client(self) -> YADTQClient:
        if self._client is None:
            self._client = self._exits.enter_context(YADTQClient(1, settings=self.settings))
        return self._client

    def submit(self, count: int, seconds: float = 0.0, *, kind: str = "quick", task: str = "chaos.run",
               key: str = "", ids: list[str] | None = None, args: list[Any] | None = None) -> list[str]:
        """Submit tasks, one after the other."""
        ids = ids or [new_task_id() for _ in range(count)]
        for id_ in ids:
            called = now()
            self.client.submit_task(task, args=[id_, *(args or [seconds])], task_id=id_, key=key or None)
            self.journal.write(Submitted(id=id_, kind=kind, called=called, at=now(), key=key))
        return ids

    def read(self, ids: list[str], timeout_s: float) -> None:
        """Wait for tasks, at most so long, and write down what is known then."""
        called = now()
        values = self.client.get_results(ids, timeout=timeout_s, return_exceptions=True)
        for id_, value in zip(ids, values, strict=True):
            read = as_read(id_, called, now(), value)
            self.journal.write(read or Read(id=id_, called=called, at=now(), status="QUEUED"))

    def started(self, count: int) -> None:
        """Wait until so many tasks have begun."""
        wait_for(lambda: sum(bool(task.starts) for task in self.history().tasks.values()) >= count, 40,
                 f"{count} tasks to start")

    def kill(self, pid: int) -> None:
        """SIGKILL, into the history."""
        begun = now()
        os.kill(pid, signal.SIGKILL)
        self.journal.write(Fault(kind="worker_kill", target=str(pid), begun=begun, at=now()))

    def history(self) -> History:
        return History.read(self.folder)


# ---- the scripts ----------------------------------------------------------------------------------------------------
def worker_killed(play: Play) -> None:
    daemon = play.daemon()
    worker = daemon.wait_running()[0]
    ids = play.submit(12, 0.15)
    play.started(3)
    time.sleep(0.3)                                     # so that whatever is to be committed is
    play.kill(worker["pid"])
    play.read(ids, 12)


def submitted_twice(play: Play) -> None:
    play.daemon().wait_running()
    ids = play.submit(3)
    play.read(ids, 20)
    play.submit(0, ids=ids)                             # as a client does whose first try had an unknown outcome
    time.sleep(5)                                       # the copies wait until the first ends are known durable
    play.read(ids, 20)


def dies_before_it_publishes(play: Play) -> None:
    play.daemon(fault="die_before_publish", max_crashes=1).wait_running()
    ids = play.submit(1, kind="poison", task="chaos.poison", args=["exit"])
    wait_for((play.folder / "mark").exists, 40, "the end of the worker that had recorded the crash")
    play.submit(1)
    play.read([*ids, *(id_ for id_ in play.history().tasks if id_ not in ids)], 30)
    consumer = open_consumer(play.settings)
    consumer.assign(play.settings.kafka_dead_letter_topic, {0: 0})
    until = time.monotonic() + 5
    while time.monotonic() < until:
        for record in consumer.poll(10, 0.5):
            letter = decode_dead_letter(record.value)
            play.journal.write(Letter(id=letter.id, code=letter.code, at=now()))
            until = 0
    consumer.close()


def killed_while_a_retry_waits(play: Play) -> None:
    worker = play.daemon().wait_running()[0]
    ids = [new_task_id()]
    called = now()
    play.client.submit_task("chaos.fail", args=[ids[0], 1], task_id=ids[0], max_retries=2, retry_backoff_s=6)
    play.journal.write(Submitted(id=ids[0], kind="retrying", called=called, at=now(), max_retries=2))
    wait_for(lambda: play.client.get_task_status(ids[0]) == "RETRYING", 40, "a task that waits for its retry")
    time.sleep(3)                                       # its offset is committed: nobody will see that message again
    play.kill(worker["pid"])
    play.read(ids, 20)


def read_again_later(play: Play) -> None:
    play.daemon().wait_running()
    ids = play.submit(5)
    play.read(ids, 20)
    time.sleep(1)
    play.read(ids, 1)


def nobody_stops_the_worker(play: Play) -> None:
    """Of one host everything hangs but the worker itself; the other host takes its partition over."""
    session = {"kafka_session_timeout_ms": 3000}
    first = play.daemon("host1", **session)
    worker = first.wait_running()[0]
    second = play.daemon("host2", **session)
    wait_for(lambda: "yadtqd is up" in second.tail(200), 40, "a second host")
    ids = play.submit(40, 0.5, key="k")                 # shorter than the lease ends before the session does
    play.started(2)
    begun = now()
    hang = [first.pid, *(pid for pid in first.family() if pid != worker["pid"])]
    for pid in hang:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: any(w["state"] == "RUNNING" for w in second.workers()), 40, "the partition taken over")
        time.sleep(2)
    finally:
        first.kill()
    play.journal.write(Fault(kind="host_hangs", target="host1", begun=begun, at=now()))
    play.read(ids, 60)


SCRIPTS: dict[str, tuple[Callable[[Play], None], set[str]]] = {
    "commit_before_result": (worker_killed, {"lost"}),
    "no_claim": (submitted_twice, {"not_after_its_end", "attempts"}),
    "no_settle": (dies_before_it_publishes, {"letters"}),
    "expire_at_the_finish": (read_again_later, {"one_result", "lost"}),
    "retry_in_memory": (killed_while_a_retry_waits, {"lost"}),
    "no_lease_check": (nobody_stops_the_worker, {"key_overlap"}),
}


@pytest.mark.parametrize("broken", [False, True], ids=["as it is", "broken"])
@pytest.mark.parametrize("mutation", SCRIPTS)
def test_a_rule_that_is_switched_off_is_missed(
        kafka: KafkaServer, redis_server: RedisServer, topic_prefix: str, tmp_path: Path, mutation: str,
        broken: bool) -> None:
    script, promises = SCRIPTS[mutation]
    expected = promises if broken else set()
    found: list[Violation] = []
    for attempt in range(TRIES if broken else 1):       # some harm needs two things within the same tenth of a second
        folder = tmp_path / str(attempt)
        folder.mkdir()
        empty(redis_server)
        with contextlib.ExitStack() as exits:
            play = Play(settings_for(kafka, redis_server, f"{topic_prefix}{attempt}", folder), folder,
                        mutation if broken else "", exits)
            script(play)
            found = unexcused(violations(play.history(), Rules(max_crashes=1)))
        if {violation.promise for violation in found} == expected:
            return
    raise AssertionError(f"expected {expected}, found {found}")


def test_without_epochs_a_zombie_goes_on(own_redis: RedisServer, tmp_path: Path) -> None:
    """Two workers of a partition, one of them taken for dead; on Redis alone: nothing else stops the first."""
    settings = Settings(redis_host=own_redis.host, redis_port=own_redis.port)
    assert zombie(settings, Journal(tmp_path / "good.events"), tmp_path) == set()
    (tmp_path / "good.events").unlink()
    own_redis.wipe()
    own_redis.start()
    with functions_without_epochs():
        assert zombie(settings, Journal(tmp_path / "broken.events"), tmp_path) == {"key_overlap"}


def zombie(settings: Settings, journal: Journal, folder: Path) -> set[str]:
    """The promises that are broken when a worker goes on after its successor has begun."""
    from yadtq.result_backend import ClaimEntry, FinishEntry, SubmitEntry

    first, second = new_task_id(), new_task_id()
    backend = ResultBackend(settings)

    def claim(epoch: int, id_: str) -> str:
        return backend.claim(0, epoch, [ClaimEntry(id_, 0, 0, "t", 1, None, 0, 0)], 1)[0].answer

    def finish(epoch: int, id_: str, run: str) -> None:
        backend.finish(0, epoch, [FinishEntry(id_, 0, 0, "t", 1, "OK", 0, 1, 2, run.encode(), b"", 0)], "w")
        journal.write(Ended(id=id_, run=run, at=now()))

    def begin(id_: str, run: str) -> None:
        journal.write(Started(id=id_, run=run, attempt=0, at=now()))

    for id_ in (first, second):
        backend.submit([SubmitEntry(id_, "t", 0, 1, 0)])
        journal.write(Submitted(id=id_, kind="quick", key="k", called=now(), at=now()))
    backend.fence(0, 5)
    assert claim(5, first) == "RUN"
    begin(first, "zombie")
    journal.write(Fault(kind="worker_freeze", target="zombie", begun=now(), at=now()))
    journal.write(Ended(id=first, run="zombie", how="raised", at=now()))    # frozen before its end is recorded
    backend.fence(0, 9)                                                     # its successor
    assert claim(9, first) == "RUN"
    begin(first, "heir")
    if claim(5, second) == "RUN":                                           # it thaws, and goes on
        begin(second, "zombie2")
        time.sleep(0.01)
        finish(5, second, "zombie2")
    time.sleep(0.01)
    finish(9, first, "heir")
    if claim(9, second) == "RUN":
        begin(second, "heir2")
        finish(9, second, "heir2")
    for id_ in (first, second):
        record = backend.read([id_])[0]
        assert record is not None
        assert record.result is not None
        journal.write(Read(id=id_, called=now(), at=now(), status="SUCCESS", value=bytes(record.result).decode()))
    backend.close()
    return {violation.promise for violation in unexcused(violations(History.read(folder)))} - {"key_order"}
