"""A TCP proxy on the loopback interface, in a process of its own: links to be cut as a network can be.

    with Proxy({"host1-redis": (0, 6379)}) as proxy:        # name -> (port to listen on, 0: any; port to connect to)
        port = proxy.ports["host1-redis"]
        proxy.set("host1-redis", "drop")                    # ... and "pass" heals it

Modes of a link: `pass`; `delay` (every chunk waits `delay_s`); `drop` (nothing is carried, in either direction, nobody
is told: what was sent arrives when it is healed, as TCP sends it again); `half_open` (accepts, takes everything in and
swallows it; what was swallowed can't arrive any more, so healing resets those connections); `reset` (connections are
reset, new ones as well). Ends with the process that made it: it reads commands from a pipe, and leaves at its end.
"""
from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from tests.support.services import ROOT, reap_with_us

HOST = "127.0.0.1"
MODES = ("pass", "delay", "drop", "half_open", "reset")
CHUNK = 1 << 16
_RST = struct.pack("ii", 1, 0)


class Proxy:
    """The proxy as its user sees it. All calls return when the thing is done."""

    def __init__(self, links: Mapping[str, tuple[int, int]]) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", "tests.support.proxy"], cwd=ROOT,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        reap_with_us(self._process.pid)
        self._lock = threading.Lock()
        self.ports: dict[str, int] = self._ask({"links": {name: list(ports) for name, ports in links.items()}})

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def set(self, link: str, mode: str, delay_s: float = 0.0) -> None:
        """Have a link work in this mode from now on."""
        assert mode in MODES, mode
        self._ask({"link": link, "mode": mode, "delay_s": delay_s})

    def target(self, link: str, port: int) -> None:
        """Have new connections of a link go to another port."""
        self._ask({"link": link, "port": port})

    def _ask(self, command: dict[str, Any]) -> Any:
        with self._lock:
            pipe, answers = self._process.stdin, self._process.stdout
            assert pipe is not None
            assert answers is not None
            pipe.write(json.dumps(command).encode() + b"\n")
            pipe.flush()
            line = answers.readline()
        assert line, f"the proxy has ended with {self._process.wait(5)}"
        return json.loads(line)

    def close(self) -> None:
        """End it, and every connection with it."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        if self._process.stdout is not None:
            self._process.stdout.close()


# ---- in its process -------------------------------------------------------------------------------------------------
class Link:
    """One port that leads to another, and its connections."""

    def __init__(self, name: str, target: int) -> None:
        self.name, self.target = name, target
        self.mode, self.delay_s = "pass", 0.0
        self.carries = asyncio.Event()
        self.carries.set()
        self.writers: set[asyncio.StreamWriter] = set()
        self.swallowed: set[asyncio.StreamWriter] = set()

    async def listen(self, port: int) -> int:
        """Begin; the port."""
        self.server = await asyncio.start_server(self._accept, HOST, port, limit=CHUNK)
        found: int = self.server.sockets[0].getsockname()[1]
        return found

    def set(self, mode: str, delay_s: float) -> None:
        """Change the mode, for what is connected as well."""
        self.mode, self.delay_s = mode, delay_s
        if mode == "drop":
            self.carries.clear()
        else:
            self.carries.set()
        if mode == "reset":
            self._reset(set(self.writers))
        elif mode != "half_open":
            self._reset(set(self.swallowed))

    def _reset(self, writers: set[asyncio.StreamWriter]) -> None:
        for writer in writers:
            _reset(writer)
        self.swallowed -= writers

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "reset":
            _reset(writer)
            return
        self.writers.add(writer)
        other: asyncio.StreamWriter | None = None
        try:
            if self.mode == "half_open":
                await self._swallow(reader, writer)
                return
            await self.carries.wait()
            back, other = await asyncio.open_connection(HOST, self.target, limit=CHUNK)
            self.writers.add(other)
            await asyncio.gather(self._carry(reader, other, writer), self._carry(back, writer, other))
        except OSError:
            _reset(writer)              # as the target would have: refused, or gone
        finally:
            for one in (writer, other):
                if one is not None:
                    self.writers.discard(one)
                    self.swallowed.discard(one)
                    one.close()

    async def _swallow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.swallowed.add(writer)
        while await reader.read(CHUNK):
            pass

    async def _carry(self, reader: asyncio.StreamReader, to: asyncio.StreamWriter,
                     source: asyncio.StreamWriter) -> None:
        while True:
            await self.carries.wait()
            data = await reader.read(CHUNK)
            if self.delay_s and data:
                await asyncio.sleep(self.delay_s)
            await self.carries.wait()
            if self.mode == "half_open":
                self.swallowed |= {to, source}
                if not data:
                    await asyncio.sleep(3600)       # nobody is told of the end either; healing resets it
                continue
            if not data:
                with contextlib.suppress(OSError, RuntimeError):
                    to.write_eof()
                return
            to.write(data)
            await to.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    writer.transport.abort()


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    links: dict[str, Link] = {}
    while line := await commands.readline():
        command = json.loads(line)
        answer: Any = True
        if "links" in command:
            answer = {}
            for name, (port, target) in command["links"].items():
                links[name] = Link(name, target)
                answer[name] = await links[name].listen(port)
        elif "port" in command:
            links[command["link"]].target = command["port"]
        else:
            links[command["link"]].set(command["mode"], command["delay_s"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve())
