"""What a task costs, in figures that repeat on a noisy machine: the guard against changes that make YADTQ dearer.

    .venv/bin/python -m benchmarks.cost             # figures beside the committed ones; exit status 1 if one is dearer
    .venv/bin/python -m benchmarks.cost --where     # byte-code instructions a task by function, where to look first
    .venv/bin/python -m benchmarks.cost --commit    # write them to benchmarks/cost.json, for a change that is worth it

tests/integration/test_cost.py runs the same in continuous integration. Counted on benchmarks.one_process, so that every
run does exactly the same:

- *instructions*: byte-code instructions of Python a task, by part. Exact; they differ between versions of Python.
- *Redis*: commands a task (those inside functions too), bytes sent and received, bytes of the append-only file, memory
  of the record of a finished task. *Kafka*: bytes of a record. Exact but for a byte here and there.
- *CPU*: what no count sees (C code, Lua): CPU time of our process and of Redis, as multiples of fixed work that is
  timed in the same process between the rounds; the least of many rounds of each. A slow machine is slow for both.

Wall-clock time is never looked at.
"""
from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import msgspec
import redis

from benchmarks.cpu_per_task import cpu_s
from benchmarks.one_process import BATCH, OneProcess
from tests.support.services import RedisServer
from yadtq.names import record_key

COMMITTED = Path(__file__).with_name("cost.json")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
EXACT_MARGIN, CPU_MARGIN = 0.03, 0.20       # how much dearer than committed is let pass
CPU_ROUNDS, CPU_TRIES = 30, 3
SMALL = 2.0                                 # of a count a task, below which the margin is `SMALL * EXACT_MARGIN`


# ---- counting -------------------------------------------------------------------------------------------------------
def instructions(call: Callable[[], Any]) -> int:
    """How many byte-code instructions of Python this thread executes in `call`."""
    count = 0

    def local(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if event == "opcode":
            count += 1
        return local

    def enter(frame: FrameType, event: str, argument: object) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return local

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True      # else Python 3.12 counts nothing the first time
    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def where(call: Callable[[], Any]) -> Counter[str]:
    """The byte-code instructions of `call` by function."""
    found: Counter[CodeType] = Counter()

    def local(frame: FrameType, event: str, argument: object) -> Any:
        if event == "opcode":
            found[frame.f_code] += 1
        return local

    def enter(frame: FrameType, event: str, argument: object) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return local

    sys._getframe().f_trace_opcodes = True
    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(None)
    return Counter({f"{Path(code.co_filename).stem}.{code.co_qualname}": count for code, count in found.items()})


def redis_counts(connection: redis.Redis) -> dict[str, float]:
    """What Redis counts since its start."""
    found: dict[str, Any] = connection.info("all")
    return {"commands": sum(one["calls"] for name, one in found.items() if name.startswith("cmdstat_")),
            "bytes in": found["total_net_input_bytes"], "bytes out": found["total_net_output_bytes"],
            "append-only file bytes": found["aof_current_size"]}


FIXED_SCRIPT = """
local found = {}
for i = 1, 3000 do
  local name = 'task-' .. (i % 512)
  found[name] = cmsgpack.pack({name, i, {i, 1}}) .. struct.pack('>I4', i)
end
for i = 1, 512 do
  redis.call('SET', 'fixed:' .. i, found['task-' .. (i % 512)])
  redis.call('ZADD', 'fixed', i, i)
end
"""


def fixed_work() -> float:
    """CPU time, in s, of a loop like what a task does: calls, small objects, encoding, a checksum."""
    pack, unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
    begun = time.thread_time()
    table: dict[str, tuple[int, bytes]] = {}
    for n in range(5_000):
        name = f"task-{n & 511}"
        data = pack([name, n, [n, 1], None])
        table[name] = (zlib.crc32(data) & 15, data)
        fields = unpack(data)
        if fields[1] != n or len(fields) != 4:
            raise AssertionError
    if len(sorted(table.items())) != 512:
        raise AssertionError
    return time.thread_time() - begun


# ---- measuring ------------------------------------------------------------------------------------------------------
def exact(one: OneProcess, connection: redis.Redis) -> dict[str, float]:
    """The counts a task, of one batch."""
    before = redis_counts(connection)
    ids: list[str] = []
    results: list[Any] = []
    figures: dict[str, float] = {
        "instructions: submit": instructions(lambda: ids.extend(one.submit())),
        "instructions: work": instructions(one.work),
        "instructions: results": instructions(lambda: results.extend(one.results(ids)))}
    after = redis_counts(connection)
    if results != [n + 1 for n in range(BATCH)]:
        raise AssertionError("wrong results")
    figures |= {f"Redis: {name}": value - before[name] for name, value in after.items()}
    figures["Redis: memory of a record"] = sum(connection.memory_usage(record_key(task_id)) for task_id in ids)
    figures["Kafka: bytes of a record"] = one.bytes_sent
    return {name: value / BATCH for name, value in figures.items()}


def cpu(one: OneProcess, connection: redis.Redis) -> dict[str, float]:
    """CPU time of a batch in our process, in multiples of `fixed_work`, and in Redis, in multiples of FIXED_SCRIPT."""
    pid = int(connection.info("server")["process_id"])
    ours, theirs, loops, scripts = [], [], [], []
    for _ in range(CPU_ROUNDS):
        loops.append(fixed_work())
        begun = cpu_s(pid)
        connection.eval(FIXED_SCRIPT, 0)
        scripts.append(cpu_s(pid) - begun)
        begun, ours_begun = cpu_s(pid), time.process_time()
        one.results(one.submit_and_work())
        ours.append(time.process_time() - ours_begun)
        theirs.append(cpu_s(pid) - begun)
    return {"CPU: client and worker": min(ours) / min(loops), "CPU: Redis": min(theirs) / min(scripts)}


@contextmanager
def stand(server: RedisServer) -> Iterator[tuple[OneProcess, redis.Redis]]:
    """What is measured, and a connection to its Redis; warm: scripts are loaded, caches filled, connections made."""
    with OneProcess(server.host, server.port, f"cost-{uuid.uuid4().hex}") as one, \
            redis.Redis(host=server.host, port=server.port) as connection:
        connection.config_set("auto-aof-rewrite-percentage", 0)     # it forks, in the middle of a round
        for _ in range(3):
            one.results(one.submit_and_work())
        yield one, connection


def measure(server: RedisServer, wanted: Mapping[str, float] | None = None) -> dict[str, float]:
    """All figures, the least of several times each; CPU times again while they are above what is committed."""
    with stand(server) as (one, connection):
        found = least(exact(one, connection) for _ in range(3)) | cpu(one, connection)
        for _ in range(CPU_TRIES - 1):
            if not dearer(found, {name: value for name, value in (wanted or {}).items() if name.startswith("CPU")}):
                break
            found = least([found, found | cpu(one, connection)])
        return found


def least(runs: Iterable[dict[str, float]]) -> dict[str, float]:
    """The least of each figure: whatever disturbs a run only adds to it."""
    each = list(runs)
    return {name: min(one[name] for one in each) for name in each[0]}


# ---- judging --------------------------------------------------------------------------------------------------------
def committed() -> dict[str, float]:
    """The figures that are the measure, for this version of Python; {} for a version that has none."""
    found: dict[str, dict[str, float]] = json.loads(COMMITTED.read_text()) if COMMITTED.exists() else {}
    return found.get(VERSION, {})


def limit(name: str, figure: float) -> float:
    """The most that a figure may be where `figure` is committed."""
    margin = CPU_MARGIN if name.startswith("CPU") else EXACT_MARGIN
    return figure + max(figure, SMALL) * margin


def dearer(found: Mapping[str, float], wanted: Mapping[str, float]) -> list[str]:
    """A sentence for each figure that is dearer than its limit, or is not there."""
    return [f"{name}: {found.get(name, float('inf')):,.2f}, committed {figure:,.2f}, at most {limit(name, figure):,.2f}"
            for name, figure in wanted.items() if not found.get(name, float("inf")) <= limit(name, figure)]


def print_where(server: RedisServer) -> None:
    """By part, the functions that make up nine tenths of it."""
    with stand(server) as (one, _):
        ids: list[str] = []
        parts = {"submit": where(lambda: ids.extend(one.submit())), "work": where(one.work)}
        parts["results"] = where(lambda: one.results(ids))
    for part, counts in parts.items():
        total = left = counts.total()
        print(f"{part}: {total / BATCH:,.0f} instructions a task")
        for name, count in counts.most_common():
            if left < total / 10:
                break
            left -= count
            print(f"  {count / BATCH:>8.1f}  {name}")


def main(argv: list[str]) -> int:
    """Measure, print, judge or commit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", action="store_true", help="take these figures as the measure from now on")
    parser.add_argument("--where", action="store_true", help="print the functions that execute most instructions")
    options = parser.parse_args(argv)
    wanted = committed()
    with tempfile.TemporaryDirectory(prefix="yadtq-cost-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        try:
            if options.where:
                print_where(server)
                return 0
            found = measure(server, wanted)
        finally:
            server.kill()
    print(f"a task on Python {VERSION} (CPU: a thousand tasks, in multiples of fixed work)")
    for name, value in found.items():
        beside = f"   committed {wanted[name]:>10,.2f}   {value / wanted[name] - 1:+.1%}" if wanted.get(name) else ""
        print(f"  {name:<32} {value:>10,.2f}{beside}")
    if options.commit:
        known: dict[str, dict[str, float]] = json.loads(COMMITTED.read_text()) if COMMITTED.exists() else {}
        known[VERSION] = {name: round(value, 2) for name, value in found.items()}
        COMMITTED.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n")
        return 0
    complaints = dearer(found, wanted)
    print("\n".join(complaints) or "nothing is dearer than committed")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
