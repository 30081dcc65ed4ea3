"""YADTQ broken on purpose, one promise at a time, so that the checker of the promises can be seen to find it.

Never part of the product: a worker of a test imports this module (`tasks = [..., "tests.support.mutations"]`), and
what the environment variable MUTATION names is then changed in that process, before the worker is put together. FAULT
names what goes wrong at a point that no signal from outside could hit; it is there with and without the mutation.
"""
from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yadtq.tasks import task

MUTATION, FAULT, MARK = "MUTATION", "MUTATION_FAULT", "MUTATION_MARK"


def commit_before_result() -> None:
    """What was fetched is committed, whether it was done or not."""
    from yadtqd.bookkeeper import Bookkeeper

    tick = Bookkeeper._tick

    def ticks(self: Any, now: float) -> None:
        tick(self, now)
        for partition in self._partitions:
            self._table[partition].watermark = self._ledger.next_offset(partition)
    Bookkeeper._tick = ticks                                    # type: ignore[method-assign]


def no_claim() -> None:
    """Whatever Redis knows of a task, it is run."""
    from yadtq.result_backend import ResultBackend

    claim = ResultBackend.claim

    def claims(self: Any, *args: Any, **named: Any) -> Any:
        return [one._replace(answer="RUN", suspect=False) for one in claim(self, *args, **named)]
    ResultBackend.claim = claims                                # type: ignore[method-assign]


def no_settle() -> None:
    """What had ended before is done: nobody asks whether something was still to be published."""
    from yadtqd.consumer import Consumer

    obey = Consumer._obey

    def obeys(self: Any, group: Any, claims: Any, round_: int) -> None:
        obey(self, group, [one._replace(answer="SKIP") if one.answer == "SETTLE" else one for one in claims], round_)
    Consumer._obey = obeys                                      # type: ignore[method-assign]


def expire_at_the_finish() -> None:
    """A record's time begins with its end, not with its commit."""
    from yadtq.names import record_key
    from yadtq.shard_calls import pack
    from yadtqd.result_writer import ResultWriter

    record = ResultWriter._record

    def records(self: Any, groups: Any) -> None:
        ids = [held.message.id for group in groups.values() for held in group]
        record(self, groups)
        self._backend.redis.run([pack("PEXPIRE", record_key(id_), 300) for id_ in ids])
    ResultWriter._record = records                              # type: ignore[method-assign]


def no_lease_check() -> None:
    """The host's place in the group is taken for certain."""
    from yadtqd import processor

    processor.boottime_ns = lambda: 0                           # type: ignore[assignment]


def retry_in_memory() -> None:
    """What is to be retried waits in the worker, and its message is done."""
    import threading

    from yadtqd.publisher import Publisher

    publish = Publisher.publish

    def publishes(self: Any, batch: Any) -> None:
        for held in batch:
            waits_s = held.follow.due_ms / 1000 - time.time()
            if waits_s > 0:
                self._published.append(held)                    # done, as far as Kafka is told
                threading.Timer(waits_s, publish, (self, [held])).start()
            else:
                publish(self, [held])
    Publisher.publish = publishes                               # type: ignore[method-assign]


MUTATIONS: dict[str, Callable[[], None]] = {function.__name__: function for function in (
    commit_before_result, no_claim, no_settle, expire_at_the_finish, no_lease_check,
    retry_in_memory)}


@contextmanager
def functions_without_epochs() -> Iterator[None]:
    """Redis refuses nobody: in here, this process loads functions that compare no epochs."""
    from yadtq import redis_client

    text, build = redis_client.library()
    broken = text.replace("if fence > e then return true, 0, fence end", "").replace("re > e", "false")
    assert broken.count("re > e") == 0 < text.count("re > e"), "the functions have changed: so must this mutation"
    library = redis_client.library
    redis_client.library = lambda: (broken, build)              # type: ignore[assignment]
    try:
        yield
    finally:
        redis_client.library = library


def die_before_publish() -> None:
    """Once, the worker dies between recording how an attempt ended and publishing what follows it."""
    from yadtqd.publisher import Publisher

    publish = Publisher.publish

    def publishes(self: Any, batch: Any) -> None:
        batch, mark = list(batch), Path(os.environ[MARK])
        if any(held.message.task for held in batch) and not mark.exists():
            mark.touch()
            os._exit(99)
        publish(self, batch)
    Publisher.publish = publishes                               # type: ignore[method-assign]


FAULTS: dict[str, Callable[[], None]] = {"die_before_publish": die_before_publish}



@task("mutations.nothing")
def nothing() -> None:
    """A module that a worker imports has a task type."""


if os.environ.get(FAULT):
    FAULTS[os.environ[FAULT]]()
if os.environ.get(MUTATION):
    MUTATIONS[os.environ[MUTATION]]()
