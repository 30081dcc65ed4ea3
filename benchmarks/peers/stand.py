"""The stand that systems are measured on: one Kafka and one Redis of its own, and sessions of one system on them.

Owns every process: servers, workers, clients; all are watched by the guardian and ended with their session. Runs in the
measuring process. A session begins with an empty Redis and topics of its own; its workers are started when asked for.
"""
from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import redis

from benchmarks.peers import processes
from benchmarks.peers.environments import ROOT, python_of
from benchmarks.peers.guardian import Guardian
from benchmarks.peers.systems.catalogue import AT_ONCE, WORKERS, System
from tests.support.services import KafkaServer, RedisServer
from yadtq.transport.connection import import_kafka

ANSWER_S = 240.0        # beyond what a client itself waits for
STOP_S = 15.0


class Failed(RuntimeError):
    """A system did not do what was asked; the message says which, and the end of its log."""


class Stand:
    """Servers, alike for all systems: Kafka with acks as each producer asks, Redis with its append-only file on."""

    def __init__(self, folder: Path, guardian: Guardian) -> None:
        self.folder, self.guardian = folder, guardian
        self.kafka, self.redis = KafkaServer(folder / "kafka", heap_mb=512), RedisServer(folder / "redis")
        self.kafka.small = False                            # as a broker runs in production
        self._commands: dict[tuple[str, bool], list[list[str]]] = {}

    def __enter__(self) -> Stand:
        try:
            self.kafka.start(self.guardian.watch)
            self.redis.start(self.guardian.watch)
        except BaseException:
            self._stop()
            raise
        self._admin = import_kafka().KafkaAdminClient(bootstrap_servers=self.kafka.bootstrap)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._admin.close()
        self._stop()

    def _stop(self) -> None:
        for server in (self.kafka, self.redis):
            if server.process is not None:
                server.stop()

    def empty(self) -> None:
        """Forget what the last session left."""
        with redis.Redis(port=self.redis.port) as connection:
            connection.flushall()
        topics = [name for name in self._admin.list_topics() if not name.startswith("__")]
        if topics:
            self._admin.delete_topics(topics)

    def servers_cpu_s(self) -> dict[str, float]:
        return {"redis": processes.cpu_s([self.redis.pid]), "kafka": processes.cpu_s([self.kafka.pid])}

    def worker_commands(self, system: System, env: dict[str, str]) -> list[list[str]]:
        """How its workers are started; asked in its own environment, once for each set of workers."""
        key = system.name, env["PEERS_IO"] == "1"
        if key not in self._commands or not system.environment:     # ours are in a file that names the topic
            ask = [python_of(system.environment), "-m", "benchmarks.peers.worker_commands", system.module, str(WORKERS)]
            done = subprocess.run(ask, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60,
                                  check=False)
            if done.returncode:
                raise Failed(f"{system.title}: {done.stderr[-2000:]}")
            self._commands[key] = json.loads(done.stdout.strip().rsplit("\n", 1)[-1])
        return self._commands[key]

    @contextmanager
    def session(self, system: System, *, io: bool = False) -> Iterator[Session]:
        """One system on an empty stand."""
        self.empty()
        session = Session(self, system, io)
        try:
            yield session
        finally:
            session.end()


class Session:
    """One start of one system: its workers and its clients."""

    def __init__(self, stand: Stand, system: System, io: bool) -> None:
        self._stand, self.system = stand, system
        topic = f"peers_{uuid.uuid4().hex[:8]}"
        self.log = stand.folder / f"{system.name}-{topic}.log"
        self._env = {name: value for name, value in os.environ.items()
                     if not name.startswith("YADTQ_") and name != "PYTHONDONTWRITEBYTECODE"} | {
            "PEERS_REDIS_PORT": str(stand.redis.port), "PEERS_KAFKA": stand.kafka.bootstrap, "PEERS_TOPIC": topic,
            "PEERS_IO": "1" if io else "0", "PEERS_AT_ONCE": str(AT_ONCE), "PEERS_FOLDER": str(stand.folder),
            "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore",
        } | system.env
        self._workers: list[subprocess.Popen[bytes]] = []
        self._clients: list[ClientProcess] = []

    def start_workers(self) -> None:
        """Start them; that they run shows when tasks end."""
        for command in self._stand.worker_commands(self.system, self._env):
            with self.log.open("ab") as log:
                process = subprocess.Popen(command, env=self._env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log,
                                           stderr=log, start_new_session=True)
            self._stand.guardian.watch(process.pid)
            self._workers.append(process)

    def worker_pids(self) -> list[int]:
        """All processes of the workers: masters, helpers, children."""
        return processes.tree([process.pid for process in self._workers])

    @contextmanager
    def client(self, *, one_by_one: bool = False) -> Iterator[ClientProcess]:
        """A client process; ended with the block."""
        client = ClientProcess(self, self._env | {"PEERS_ONE_BY_ONE": "1" if one_by_one else "0"}, self._stand.guardian)
        self._clients.append(client)
        try:
            client.answer()
            yield client
        finally:
            client.end()

    def end(self) -> None:
        """Stop the workers as their docs say, with SIGTERM; what does not end in time is killed."""
        for client in self._clients:
            client.end()
        for process in self._workers:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        for process in self._workers:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
            self._stand.guardian.end_group(process.pid)

    def failed(self, what: str) -> Failed:
        """An error that shows the end of the log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return Failed(f"{self.system.title}: {what}\n{text[-3000:]}")


class ClientProcess:
    """A client in its own process, asked line by line."""

    def __init__(self, session: Session, env: dict[str, str], guardian: Guardian) -> None:
        self._session, self._guardian = session, guardian
        with session.log.open("ab") as log:
            self._process = subprocess.Popen(
                [python_of(session.system.environment), "-m", "benchmarks.peers.client_process", session.system.module],
                env=env, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
        guardian.watch(self._process.pid)
        self._ended = False
        self._rest = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, command: str, **arguments: Any) -> dict[str, float]:
        """Have it do something; its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": command, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._session.failed("the client has ended") from None
        return self.answer()

    def answer(self) -> dict[str, float]:
        """Its next answer; Failed when it says so, is silent or ends."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + ANSWER_S
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._process.stdout.fileno(), 65_536) if ready else b""
            if not data:
                raise self._session.failed("the client has ended" if ready else f"no answer within {ANSWER_S:g} s")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise self._session.failed(found["error"])
        return found

    def end(self) -> None:
        """End it: its input closes, and it has a moment."""
        if self._ended:
            return
        self._ended = True
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: PT018
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            print(f"{self._session.system.title}: its client did not end, and is killed", file=sys.stderr)
        self._process.stdout.close()
        self._guardian.end_group(self._process.pid)
        self._process.wait(10)
