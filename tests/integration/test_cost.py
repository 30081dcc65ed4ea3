"""What a task costs must not rise unnoticed: counts and relative CPU time against benchmarks/cost.json.

A change that makes YADTQ dearer for a good reason commits new figures: `python -m benchmarks.cost --commit`. That the
guard would see a change is shown by making each part dearer by about a third and looking.
"""
from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cost
from tests.support.services import RedisServer, running
from yadtq import redis_client, result_backend, submission
from yadtq.names import record_key
from yadtq.shard_calls import pack
from yadtqd import processor

pytestmark = [pytest.mark.integration, pytest.mark.skipif(not cost.committed(), reason="no figures for this Python")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that nobody else uses: its counters are read."""
    with running(RedisServer(tmp_path_factory.mktemp("redis"))) as server:
        yield server


def test_a_task_is_no_dearer_than_committed(server: RedisServer) -> None:
    assert not cost.dearer(cost.measure(server, cost.committed()), cost.committed())


def test_a_figure_that_is_missing_or_above_its_limit_is_told() -> None:
    wanted = {"a": 100.0, "CPU: b": 10.0, "c": 0.0}
    assert not cost.dearer({"a": 102.9, "CPU: b": 11.9, "c": 0.05}, wanted)
    assert [line.split(":")[0] for line in cost.dearer({"a": 103.1, "c": 0.07}, wanted)] == ["a", "CPU", "c"]


# ---- would it be seen? ----------------------------------------------------------------------------------------------
def counted(server: RedisServer) -> dict[str, float]:
    with cost.stand(server) as (one, connection):
        return cost.exact(one, connection)


def seen(found: dict[str, float]) -> set[str]:
    """Of which figures the guard complains."""
    wanted = {name: value for name, value in cost.committed().items() if name in found}
    return {line.split(": ")[0] + ": " + line.split(": ")[1] for line in cost.dearer(found, wanted)}


def before(target: Any, name: str, extra: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `extra` run before each call of a function."""
    real = getattr(target, name)

    def dearer(*args: Any, **kwargs: Any) -> Any:
        extra()
        return real(*args, **kwargs)

    monkeypatch.setattr(target, name, dearer)


@pytest.mark.parametrize(("target", "name", "figure", "share"), [
    (submission, "encode_message", "instructions: submit", 0.3),
    (processor, "run_body", "instructions: work", 0.3),
])
def test_python_code_that_became_dearer_is_seen(server: RedisServer, monkeypatch: pytest.MonkeyPatch, target: Any,
                                                name: str, figure: str, share: float) -> None:
    turns = round(cost.committed()[figure] * share / 4)         # of a loop with four instructions, about

    def extra() -> None:
        for _ in range(turns):
            pass

    before(target, name, extra, monkeypatch)
    assert figure in seen(counted(server))


def test_one_command_more_a_task_is_seen(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    real = result_backend.ResultBackend.finish

    def finish(self: Any, partition: int, epoch: int, entries: Any, worker: str, **rest: Any) -> Any:
        self.redis.run([pack("EXISTS", record_key(entry.id)) for entry in entries], None)
        return real(self, partition, epoch, entries, worker, **rest)

    monkeypatch.setattr(result_backend.ResultBackend, "finish", finish)
    assert {"Redis: commands", "Redis: bytes in"} <= seen(counted(server))


def test_a_script_that_became_dearer_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, digest = redis_client.library()
    begin = "local function finish(keys, argv)"
    assert text.count(begin) == 1
    dearer = text.replace(begin, f"{begin}\n  local n = 0; for i = 1, 24000 do n = n + i % 7 end")   # 0.1 ms a call
    monkeypatch.setattr(redis_client, "library", lambda: (dearer, digest))
    server = RedisServer(tmp_path)          # the session's keeps the library that it has
    server.start()
    try:
        with cost.stand(server) as (one, connection):
            assert "CPU: Redis" in seen(cost.cpu(one, connection))
    finally:
        server.kill()


def test_c_code_that_became_dearer_is_seen(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(60_000)            # about 10 us of a checksum, where a task takes some 40
    before(processor, "run_body", lambda: zlib.adler32(data), monkeypatch)
    with cost.stand(server) as (one, connection):
        assert "CPU: client and worker" in seen(cost.cpu(one, connection))
