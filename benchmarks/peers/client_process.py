"""The client of one system, in a process and an environment of its own: does what the measuring process asks.

One JSON object a line on standard input, one answer each on standard output; whatever the system prints goes to
standard error. Keeps the handles of all it submitted until `verify` has compared every result with what it must be.

    .yadtq/peers/venv-peers/bin/python -m benchmarks.peers.client_process celery_app
"""
from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from benchmarks.peers.systems import base

THREADS = 8


class Commands:
    """What can be asked, by the method's name; each returns what is answered."""

    def __init__(self, client: base.Client) -> None:
        self._client = client
        self._expected: list[tuple[Any, int]] = []      # (handle, result)

    def additions(self, count: int) -> dict[str, float]:
        """A batch of additions from the first submission until the last result is stored."""
        return self._to_end(count, lambda: self._client.batch(0, count), 1)

    def io(self, count: int) -> dict[str, float]:
        """The same with tasks that wait for 10 ms."""
        return self._to_end(count, lambda: self._client.naps(count), 0)

    def _to_end(self, count: int, submit: Callable[[], list[Any]], plus: int) -> dict[str, float]:
        handles, submit_s, whole_s = self._client.batch_to_end(submit, count)
        self._expected += [(handle, n + plus) for n, handle in enumerate(handles)]
        return {"tasks": count, "per_s": count / whole_s, "submitted_per_s": count / submit_s, "seconds": whole_s}

    def queue(self, count: int) -> dict[str, float]:
        """Submit a batch that nobody runs yet."""
        begun = time.perf_counter()
        handles = self._client.batch(0, count)
        took_s = time.perf_counter() - begun
        self._expected += [(handle, n + 1) for n, handle in enumerate(handles)]
        return {"tasks": count, "per_s": count / took_s, "seconds": took_s}

    def singles(self, count: int) -> dict[str, float]:
        """Submit one by one from eight threads."""
        pairs, took_s = self._client.singles(count, THREADS)
        self._expected += [(handle, n + 1) for n, handle in pairs]
        return {"tasks": count, "per_s": count / took_s, "seconds": took_s}

    def drain(self, count: int) -> dict[str, float]:
        """Wait until all that is queued has ended; the rate from the first result seen to the last."""
        started = time.perf_counter()
        there, first = self._client.until_ended(1), time.perf_counter()
        self._client.until_ended(count)
        took_s = time.perf_counter() - first
        return {"tasks": count, "per_s": (count - there) / took_s, "seconds": took_s, "first_after_s": first - started}

    def latency(self, count: int) -> dict[str, float]:
        """One task after the other, from its submission to its result in hand."""
        found = sorted(self._client.latencies(count))
        p50_s, p99_s = found[count // 2], found[min(count - 1, count * 99 // 100)]
        return {"tasks": count, "p50_ms": p50_s * 1e3, "p99_ms": p99_s * 1e3, "seconds": sum(found)}

    def warm(self, count: int) -> dict[str, float]:
        """Additions that tell that the workers run; not measured."""
        return self.additions(count)

    def verify(self) -> dict[str, int]:
        """Read every result that was not looked at yet; how many, and how many are wrong."""
        handles = [handle for handle, _ in self._expected]
        found = self._client.read(handles)
        wrong = sum(result != wanted for result, (_, wanted) in zip(found, self._expected, strict=True))
        self._expected = []
        return {"checked": len(found), "wrong": wrong}


def main(module: str) -> int:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)                       # whatever else prints
    try:
        client = importlib.import_module(f"benchmarks.peers.systems.{module}").Client()
        commands = Commands(client)
        answers.write(json.dumps({"ready": os.getpid()}) + "\n")
        for line in sys.stdin:
            asked = json.loads(line)
            name = asked.pop("do")
            answers.write(json.dumps(getattr(commands, name)(**asked)) + "\n")
        client.close()
    except BaseException as error:      # told to who asked
        traceback.print_exc()
        answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
        answers.flush()
        os._exit(1)
    sys.stderr.flush()
    answers.flush()
    os._exit(0)                         # some leave threads and event loops that can't be ended
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
