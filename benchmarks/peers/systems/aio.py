"""Clients of systems whose interface is made of coroutines: one event loop for the whole life of the client process."""
from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from benchmarks.peers.systems.base import Client

CALLS = 200         # coroutines under way at a time: more is no faster, and costs memory


async def together(call: Callable[[int], Awaitable[Any]], count: int, calls: int = CALLS) -> list[Any]:
    """What `call(0)` to `call(count - 1)` return, so many at a time."""
    found: list[Any] = []
    for start in range(0, count, calls):
        found += await asyncio.gather(*(call(n) for n in range(start, min(count, start + calls))))
    return found


class AioClient(Client):
    """Implements `Client` by coroutines; eight "threads" are eight coroutines, as such a system is used."""

    calls = CALLS

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner(loop_factory=_loop_factory())
        self.run(self.open())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run it on the client's loop."""
        return self._runner.run(coroutine)

    async def open(self) -> None:
        """Connect."""

    async def shut(self) -> None:
        """Disconnect."""

    async def submit(self, n: int) -> Any:
        """Submit one addition."""
        raise NotImplementedError

    async def nap(self, n: int) -> Any:
        """Submit one task that waits."""
        raise NotImplementedError

    async def result(self, handle: Any) -> Any:
        """The result of a task that may still run."""
        raise NotImplementedError

    async def stored(self, handle: Any) -> Any:
        """The result of a task that has ended."""
        return await self.result(handle)

    def batch(self, first: int, count: int) -> list[Any]:
        return self.run(together(lambda n: self.submit(first + n), count, self.calls))

    def naps(self, count: int) -> list[Any]:
        return self.run(together(self.nap, count, self.calls))

    def read(self, handles: Sequence[Any]) -> list[Any]:
        return self.run(together(lambda n: self.stored(handles[n]), len(handles), self.calls))

    def singles(self, count: int, threads: int) -> tuple[list[tuple[int, Any]], float]:
        async def one(index: int) -> list[tuple[int, Any]]:
            return [(n, await self.submit(n)) for n in range(index, count, threads)]

        async def all_of_them() -> list[list[tuple[int, Any]]]:
            return await asyncio.gather(*(one(index) for index in range(threads)))

        begun = time.perf_counter()
        found = self.run(all_of_them())
        took_s = time.perf_counter() - begun
        return [pair for mine in found for pair in mine], took_s

    def latencies(self, count: int) -> list[float]:
        async def measure() -> list[float]:
            found = []
            for n in range(count):
                begun = time.perf_counter()
                result = await self.result(await self.submit(n))
                found.append(time.perf_counter() - begun)
                if result != n + 1:
                    raise RuntimeError(f"{n} + 1 = {result!r}")
            return found

        return self.run(measure())

    def close(self) -> None:
        self.run(self.shut())
        self._runner.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
