"""A real Kafka and a real Redis for the tests, which can be stopped, killed, frozen and started again on the same port.

In pytest use the fixtures of tests/conftest.py: `settings` (both servers and topic names of the test's own),
`kafka`, `redis_server` (the session's, shared: leave them running as they were) and `own_kafka`, `own_redis` (the
test's own, to break). The jars are those that `./setup.sh install` (or `packaging/kafka/fetch.sh`) fetched.

By hand, until Ctrl-C, without touching `./setup.sh up`:

    python -m tests.support.services up DIR            # prints the ports, then waits
    python -m tests.support.services up DIR --kafka    # only Kafka (or --redis)

Servers end with the process that made them, even if it is killed: a small reaper process holds a pidfd of each and
kills them when the pipe to its parent closes. Never shared between test runs, never on the usual ports.
"""
from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

ROOT = Path(__file__).resolve().parents[2]
if (_servers := str(ROOT / "packaging" / "setup")) not in sys.path:  # a folder of scripts: it can't be a package
    sys.path.append(_servers)

import local_servers  # noqa: E402
from local_servers import LOOPBACK, ServerError, end_process, random_free_port, start_time  # noqa: E402

_REAPER = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
held = []
for line in sys.stdin:
    try:
        held.append(os.pidfd_open(int(line)))
    except ProcessLookupError:
        pass
for pidfd in held:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
_reaper: tuple[int, subprocess.Popen[bytes]] | None = None


def reap_with_us(pid: int) -> None:
    """Have the child `pid` killed when this process ends, however it ends."""
    global _reaper  # noqa: PLW0603 - one reaper a process, by definition
    if _reaper is None or _reaper[0] != os.getpid():
        _reaper = os.getpid(), subprocess.Popen([sys.executable, "-S", "-c", _REAPER], stdin=subprocess.PIPE,
                                                start_new_session=True)
    pipe = _reaper[1].stdin
    assert pipe is not None
    pipe.write(b"%d\n" % pid)
    pipe.flush()


class Startable(Protocol):
    """A server of the tests, or several."""

    def start(self) -> None: ...

    def kill(self) -> None: ...


S = TypeVar("S", bound=Startable)


@contextlib.contextmanager
def running(server: S) -> Iterator[S]:
    """The server, started; killed in the end, and when it does not come up."""
    try:
        server.start()
        yield server
    finally:
        server.kill()


class Breakable(local_servers.Server):
    """What tests do to a server. All calls return when the thing is done, or raise ServerError at their deadline."""

    frozen = False

    def start(self, on_spawn: Callable[[int], None] = reap_with_us) -> None:
        super().start(on_spawn)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        if self.process is None:
            raise ServerError(f"{self.name} was never started")
        return self.process.pid

    def stop(self) -> None:
        """End it in an orderly way (SIGTERM; SIGKILL past its deadline); nothing if it isn't running."""
        if self.frozen:
            self.thaw()
        if self.process is not None and self.process.poll() is None:
            end_process(self.process.pid, start_time(self.process.pid), self.stop_s)
        if self.process is not None:
            self.process.wait(10)

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nobody is told."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        self.frozen = False
        if self.process is not None:
            self.process.wait(10)

    def freeze(self) -> None:
        """SIGSTOP, until every thread has stopped: its connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        self.frozen = True
        deadline = time.monotonic() + 5
        while any(_state(task) not in "tTZX" for task in Path(f"/proc/{self.pid}/task").iterdir()):
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} did not stop within 5 s of SIGSTOP")
            time.sleep(0.001)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)
        self.frozen = False

    def restart(self) -> None:
        """Stop it unless it is down already; start it on the same port with the same data."""
        self.stop()
        self.start()


def _state(task: Path) -> str:
    """The state letter of a thread; X when it is gone."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


class KafkaServer(Breakable, local_servers.Kafka):
    """One broker in `folder`, on `port` or on one of its own."""

    def __init__(self, folder: Path, port: int | None = None, *, heap_mb: int = 320) -> None:
        super().__init__(folder, port or random_free_port(), random_free_port(), heap_mb=heap_mb, small=True)
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def bootstrap(self) -> str:
        """What `kafka_servers` wants."""
        return f"{LOOPBACK}:{self.port}"


class RedisServer(Breakable, local_servers.Redis):
    """One Redis in `folder`, append-only file on, on `port` or on one of its own."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        super().__init__(folder, port or random_free_port())
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def host(self) -> str:
        return LOOPBACK

    def wipe(self) -> None:
        """Lose everything, as a replaced disk does: stop, forget the data; `start()` brings an empty one."""
        self.kill()
        for file in sorted((self.folder / "data").rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()


def main(argv: list[str]) -> int:
    """The command by hand."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.services", description="Servers by hand")
    parser.add_argument("action", choices=["up"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kafka", action="store_true", help="only Kafka")
    parser.add_argument("--redis", action="store_true", help="only Redis")
    options = parser.parse_args(argv)
    both = options.kafka == options.redis
    folder = options.folder.resolve()
    servers: list[Breakable] = []
    try:
        if both or options.kafka:
            servers.append(kafka := KafkaServer(folder / "kafka"))
            kafka.start()
            print(f"export YADTQ_KAFKA_SERVERS={kafka.bootstrap}", flush=True)
        if both or options.redis:
            servers.append(redis := RedisServer(folder / "redis"))
            redis.start()
            print(f"export YADTQ_REDIS_HOST={redis.host} YADTQ_REDIS_PORT={redis.port}", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.pause()
    except KeyboardInterrupt:
        pass
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        for server in reversed(servers):
            server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
