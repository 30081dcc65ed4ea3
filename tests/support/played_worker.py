"""Plays the worker's side for tests of the client: fetches, claims, runs and finishes, without supervisor or deadlines.

One thread for all partitions. Not a worker to learn from: it commits nothing and settles nothing.
"""
from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from yadtq.codec import decode, encode
from yadtq.config import Settings
from yadtq.result_backend import ClaimEntry, FinishEntry, ResultBackend
from yadtq.task import decode_message, encode_error, from_exception
from yadtq.transport import open_admin, open_consumer

HANDLERS: dict[str, Callable[..., Any]] = {
    "addition": lambda *operands: sum(operands),
    "echo": lambda value: value,
    "fail": lambda text: (_ for _ in ()).throw(ValueError(text)),
    "sleep": time.sleep,
}


class PlayedWorker:
    """Runs the tasks of a topic until the block is left."""

    def __init__(self, settings: Settings, *, epoch: int = 1) -> None:
        self._settings, self._epoch = settings, epoch
        self._stopping = threading.Event()
        self.ran: list[str] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="played-worker")

    def __enter__(self) -> PlayedWorker:
        admin = open_admin(self._settings)
        try:
            admin.ensure_topics()
            self._begin = admin.begin_offsets(self._settings.kafka_task_topic)
        finally:
            admin.close()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(30)
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        backend, consumer = ResultBackend(self._settings), open_consumer(self._settings)
        try:
            consumer.assign(self._settings.kafka_task_topic, self._begin)
            while not self._stopping.is_set():
                by_partition: dict[int, list[Any]] = {}
                for record in consumer.poll(500, 0.2):
                    by_partition.setdefault(record.partition, []).append((record, decode_message(record.value)))
                for partition, found in by_partition.items():
                    left = found
                    while left:                             # one hand per id: another copy waits for the next round
                        first = {m.id: (record, m) for record, m in reversed(left)}.values()
                        self._work(backend, partition, [one for one in left if one in first])
                        left = [one for one in left if one not in first]
        except BaseException as error:
            self.error = error
        finally:
            consumer.close()
            backend.close()

    def _work(self, backend: ResultBackend, partition: int, found: list[Any]) -> None:
        now_ms = int(time.time() * 1000)
        claims = backend.claim(partition, self._epoch, [
            ClaimEntry(m.id, m.n, m.g, m.task, m.submitted_ms, m.expires_ms, m.replay, r.offset, m.group)
            for r, m in found], now_ms)
        ends = []
        for (record, m), claim in zip(found, claims, strict=True):
            if claim.answer != "RUN":
                continue
            end, result, error, started_ms = "OK", b"", b"", int(time.time() * 1000)
            if m.task == "sleep":
                backend.started(partition, self._epoch, [(m.id, m.n, started_ms)], "played/w0")
            try:
                kwargs = decode(m.kwargs) if m.kwargs else {}
                result = encode(HANDLERS[m.task](*decode(m.args), **kwargs), limit=self._settings.max_payload_bytes)
            except Exception as problem:
                end, error = "KO", encode_error(from_exception(problem))
            self.ran.append(m.id)
            ends.append(FinishEntry(m.id, m.n, m.g, m.task, m.submitted_ms, end, record.offset, started_ms,
                                    int(time.time() * 1000), result, error, m.replay))
        if ends:
            backend.finish(partition, self._epoch, ends, "played/w0")
