"""Puts tasks on a queue and looks at their records, by the wire formats alone: what a client does, step by step."""
from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tests.support.role_host import until
from yadtq import codec
from yadtq.config import Settings
from yadtq.result_backend import ResultBackend, SubmitEntry, TaskRecordRaw
from yadtq.task import TaskError, TaskMessage, decode_error, encode_message, new_task_id
from yadtq.transport import open_admin, open_producer


class QueueUser:
    """Close it; topics are made by the constructor."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        admin = open_admin(settings)
        self.partitions = admin.ensure_topics()
        admin.close()
        self.producer = open_producer(settings)
        self.backend = ResultBackend(settings)

    def __enter__(self) -> QueueUser:
        return self

    def __exit__(self, *_: object) -> None:
        self.producer.close(2)
        self.backend.close()

    def message(self, task: str, *args: Any, **fields: Any) -> TaskMessage:
        return TaskMessage(id=fields.pop("id", None) or new_task_id(), task=task,
                           args=codec.encode(list(args), limit=10**7), submitted_ms=time.time_ns() // 1_000_000,
                           **fields)

    def submit(self, task: str, *args: Any, partition: int = 0, note: bool = True, **fields: Any) -> str:
        """One task; returns its id once Kafka has it."""
        return self.send([self.message(task, *args, **fields)], partition=partition, note=note)[0]

    def send(self, messages: Sequence[TaskMessage], *, partition: int | None = None, note: bool = True) -> list[str]:
        """Many tasks, spread over all partitions unless one is named."""
        place = [n % self.partitions if partition is None else partition for n in range(len(messages))]
        if note:
            self.backend.submit([SubmitEntry(m.id, m.task, m.g, m.submitted_ms, p, group=m.group)
                                 for m, p in zip(messages, place, strict=True)])
        errors: list[object] = []
        self.producer.send_many(self.settings.kafka_task_topic,
                                [(p, encode_message(m), None) for m, p in zip(messages, place, strict=True)],
                                lambda index, offset, error: errors.append(error) if error else None)
        assert self.producer.flush(20) == 0
        assert not errors
        return [m.id for m in messages]

    def record(self, task_id: str) -> TaskRecordRaw | None:
        return self.backend.read([task_id])[0]

    def ended(self, task_id: str, timeout_s: float = 20) -> TaskRecordRaw:
        """Wait for a task's end."""
        def look() -> TaskRecordRaw | None:
            record = self.record(task_id)
            return record if record is not None and record.state in ("OK", "KO", "CX") else None

        return until(look, f"the end of {task_id}", timeout_s)

    def result(self, task_id: str, timeout_s: float = 20) -> Any:
        record = self.ended(task_id, timeout_s)
        assert record.state == "OK", (record.state, record.error and decode_error(record.error))
        assert record.result is not None
        return codec.decode(record.result)

    def error(self, task_id: str, timeout_s: float = 20) -> TaskError:
        record = self.ended(task_id, timeout_s)
        assert record.state == "KO", record
        assert record.error is not None
        return decode_error(record.error)

    def results(self, ids: Sequence[str], timeout_s: float = 40) -> list[Any]:
        """Wait until all have ended well."""
        def all_ended() -> bool:
            return all(r is not None and r.state in ("OK", "KO", "CX") for r in self.backend.read(ids, values=False))

        until(all_ended, f"the end of {len(ids)} tasks", timeout_s)
        found = self.backend.read(ids)
        return [codec.decode(r.result) if r is not None and r.state == "OK" and r.result else r for r in found]
