"""The local Kafka, Redis and yadtqd of a checkout: `local_stack.py up|down|status`, called by setup.sh.

Owns `.yadtq/` of the checkout: data, logs, the generated configuration, `env` for shells, and `state.json`, which names
every process that `up` started with its start time, so that `down` ends exactly those. One `up` or `down` at a time.
Servers that the configuration or the environment names are used and never touched.
"""
from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from local_daemon import Daemon
from local_servers import LOOPBACK, Kafka, Redis, Server, ServerError, end_process, first_free_port, start_time
from stack_config import Plan, plan, write_config, write_env

ROOT = Path(__file__).resolve().parents[2]
ORDER = ("redis", "kafka", "yadtqd")  # of starting; they end the other way round: nobody loses what he still needs
STOP_S = {"yadtqd": 45.0, "kafka": Kafka.stop_s, "redis": Redis.stop_s}  # yadtqd: its drain limit and a margin
LOCK_S = 300.0


class Stack:
    """What is known of the checkout's processes, kept in state.json."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.folder = root / ".yadtq"
        self.file = self.folder / "state.json"
        self.state: dict[str, Any] = {}
        self.started: list[str] = []  # by this call, to be ended again if it fails

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder's lock and have the state read."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            end = time.monotonic() + LOCK_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise ServerError(f"another setup.sh has worked on {self.folder} for {LOCK_S:.0f} s") from None
                    time.sleep(0.1)
            self.read()
            yield

    def read(self) -> None:
        """Read state.json; one that can't be read is as good as none."""
        try:
            self.state = json.loads(self.file.read_text("utf-8"))
        except (OSError, ValueError):
            self.state = {}

    def write(self) -> None:
        """Write state.json, whole or not at all."""
        draft = self.file.with_suffix(".new")
        draft.write_text(json.dumps(self.state, indent=1), "utf-8")
        draft.replace(self.file)

    def alive(self, name: str) -> bool:
        """The process that `up` started is still that process."""
        known = self.state.get(name, {})
        return "pid" in known and start_time(known["pid"]) == known["started"]

    def run(self, server: Server, **more: Any) -> None:
        """Start a server, noting its process at once: whatever happens next, `down` can end it."""
        begin = time.monotonic()
        print(f"   ...  starting {server.name}", end="\r" if sys.stdout.isatty() else "\n", flush=True)

        def note(pid: int) -> None:
            self.started.append(server.name)
            self.state[server.name] = {"pid": pid, "started": start_time(pid), "port": server.port, **more}
            self.write()

        server.start(note)
        print(f"    ok  {server.name} answers on {server.where()} ({time.monotonic() - begin:.1f} s)", flush=True)

    def end(self, name: str) -> bool:
        """End a process that `up` started; False if there is none."""
        was_alive = self.alive(name)
        if was_alive:
            begin, known = time.monotonic(), self.state[name]
            orderly = end_process(known["pid"], known["started"], STOP_S[name])
            how = "ended" if orderly else f"did not end within {STOP_S[name]:.0f} s and was killed"
            print(f"    ok  {name} {how} ({time.monotonic() - begin:.1f} s)", flush=True)
        if name in self.state:
            self.state[name] = {key: value for key, value in self.state[name].items() if "port" in key}
            self.write()
        return was_alive


def up(stack: Stack, options: argparse.Namespace) -> None:
    """Start what is not there yet, in order, and return when all of it answers."""
    wanted = plan(stack.folder, options.config)
    if wanted.redis is None:
        _server(stack, Redis, wanted.preferred_redis_port)
    else:
        _reachable("Redis", [wanted.redis], wanted)
    if wanted.kafka is None:
        _server(stack, Kafka, wanted.preferred_kafka_port)
    else:
        _reachable("Kafka", wanted.kafka, wanted)
    ports = {name: stack.state.get(name, {}).get("port", 0) for name in ("kafka", "redis")}
    write_config(stack.folder, wanted, ports)
    exported = write_env(stack.root, wanted, ports)
    changed = exported != stack.state.get("exported")
    stack.state["exported"] = exported
    stack.write()
    if options.no_daemon:
        return
    daemon = Daemon(stack.folder, wanted.control_socket, exported)
    if stack.alive("yadtqd") and changed:
        print("   ...  yadtqd runs with another configuration: it is started anew", flush=True)
        stack.end("yadtqd")
    if stack.alive("yadtqd"):
        daemon.wait_ready()
        print("    ok  yadtqd was running already", flush=True)
    else:
        stack.run(daemon)


def _server(stack: Stack, kind: type[Kafka] | type[Redis], preferred: int) -> None:
    known = stack.state.get(kind.name, {})
    folder = stack.folder / kind.name
    running = stack.alive(kind.name)
    port = known["port"] if running else first_free_port(known.get("port") or preferred)
    more = {}
    if kind is Kafka:
        beside = known.get("controller_port", port + 1)
        more["controller_port"] = beside if running else first_free_port(beside, {port})
    server: Server = Kafka(folder, port, more["controller_port"]) if kind is Kafka else Redis(folder, port)
    if running:
        server.wait_ready()
        print(f"    ok  {kind.name} was running already, on {server.where()}", flush=True)
    else:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        stack.run(server, **more)


def _reachable(what: str, places: list[tuple[str, int]], wanted: Plan) -> None:
    """At least one of the servers that the configuration names can be connected to."""
    trouble = ""
    for host, port in places:
        try:
            with socket.create_connection((host, port), 5):
                print(f"    ok  {what} at {host}:{port} is used, as {wanted.origin[what]} says", flush=True)
                return
        except OSError as error:
            trouble += f"; {host}:{port}: {error}"
    raise ServerError(f"{what} can't be reached{trouble}. It is named by {wanted.origin[what]}: start it, or take it "
                      "out there, so that this checkout runs its own")


def down(stack: Stack) -> bool:
    """End what `up` started, and nothing else. True if there was anything."""
    return any([stack.end(name) for name in reversed(ORDER)])  # noqa: C419 - all of them, not up to the first


def status(stack: Stack) -> int:
    """Say what runs; 0 if all that `up` started does."""
    stack.read()
    rows = []
    for name in ORDER:
        known = stack.state.get(name, {})
        if stack.alive(name):
            place = f"{LOOPBACK}:{known['port']}" if known.get("port") else ""
            rows.append(f"    {name:<7} running   pid {known['pid']:<8} {place}")
        elif "pid" in known:
            rows.append(f"    {name:<7} DIED      see {stack.folder / name}, then ./setup.sh up")
        else:
            rows.append(f"    {name:<7} not running here")
    print("\n".join(rows))
    running = [name for name in ORDER if stack.alive(name)]
    if running:
        print(f"    every shell:  source {shlex.quote(str(stack.folder / 'env'))}")
    return 0 if running and not any("DIED" in row for row in rows) else 1


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="setup.sh")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout")
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("up")
    start.add_argument("--no-daemon", action="store_true", help="only Kafka and Redis")
    start.add_argument("--config", type=Path, metavar="FILE", help="a yadtq.toml to build on")
    commands.add_parser("down")
    commands.add_parser("status")
    options = parser.parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    stack = Stack(options.root.resolve())
    if options.command == "status":
        return status(stack)
    if options.command == "down" and not stack.folder.exists():
        print("    ok  nothing that ./setup.sh up started is running")
        return 0
    try:
        with stack.alone():
            if options.command == "down":
                if not down(stack):
                    print("    ok  nothing that ./setup.sh up started is running")
                return 0
            try:
                up(stack, options)
            except BaseException:
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)  # what follows has its own deadlines
                for name in reversed(stack.started):
                    stack.end(name)
                raise
    except (ServerError, ValueError, OSError, subprocess.TimeoutExpired) as error:
        print(f"FAILED  setup.sh {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("        interrupted: what this call had started is ended again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
