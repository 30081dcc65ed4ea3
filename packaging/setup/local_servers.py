"""A real Kafka broker and a real Redis on the loopback interface, for a checkout (`./setup.sh up`) and for the tests.

Owns how both are configured, started, probed and stopped; local_stack.py and tests/support/services.py keep them. Runs
in whatever process asks; needs only the standard library, since setup.sh calls it before anything else is certain.
Never installs anything, never listens beyond the loopback interface, never signals a process it did not start.
"""
from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
KAFKA_PACKAGING = HERE.parent / "kafka"
LOOPBACK = "127.0.0.1"
FORMAT_DEADLINE_S = 90.0  # two JVM starts on a machine that is busy with others
PROBE_TIMEOUT_S = 1.0
LONGEST_LOG = 10 * 2**20  # bytes of what a server printed that are kept on, at its next start
JAVA_MAJOR = 17  # Kafka 4
REDIS_MAJOR = 7  # functions (FCALL), which survive a restart


class ServerError(RuntimeError):
    """A server did not start or stop; the message says why and what to do."""


# ---- ports ----------------------------------------------------------------------------------------------------------
def port_is_free(port: int) -> bool:
    """Nothing listens on `port` of the loopback interface, and nothing but closed connections stands in the way."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def first_free_port(preferred: int, taken: set[int] | None = None) -> int:
    """`preferred`, or the next free port above it."""
    for port in range(preferred, preferred + 200):
        if port not in (taken or set()) and port_is_free(port):
            return port
    raise ServerError(f"no free port from {preferred} to {preferred + 199}: end what listens there")


def random_free_port() -> int:
    """A free port below those that outgoing connections get.

    A port out of that range could be lost to any client while its server is down, or a client that keeps trying to
    reconnect could even connect to itself.
    """
    try:
        limit = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        limit = 32768
    for _ in range(1000):
        port = random.randrange(min(10_000, limit - 1000), limit)  # noqa: S311 - not a secret
        if port_is_free(port):
            return port
    raise ServerError("no free port found on the loopback interface")


# ---- probes ---------------------------------------------------------------------------------------------------------
def kafka_answers(port: int, host: str = LOOPBACK, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """The broker answers a Metadata request and counts at least one live broker (itself): topics can be made."""
    client_id = b"yadtq-probe"
    body = struct.pack(">hhih", 3, 1, 1, len(client_id)) + client_id + struct.pack(">i", 0)  # Metadata v1, no topics
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(struct.pack(">i", len(body)) + body)
            answer = b""
            while len(answer) < 12:  # size, correlation id, number of brokers
                chunk = connection.recv(4096)
                if not chunk:
                    return False
                answer += chunk
    except OSError:
        return False
    return bool(struct.unpack_from(">i", answer, 8)[0] >= 1)


def redis_answers(port: int, host: str = LOOPBACK, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Redis answers PING, which it does not while it is still loading its file.

    A Redis that wants a password is there too: whether ours is right is for the client to say.
    """
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(b"PING\r\n")
            answer = connection.recv(64)
    except OSError:
        return False
    return answer.startswith((b"+PONG", b"-NOAUTH"))


# ---- processes ------------------------------------------------------------------------------------------------------
def start_time(pid: int) -> str | None:
    """What tells this process from a later one with the same pid: boot and start in ticks; None if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"


def end_process(pid: int, started: str | None, deadline_s: float, *, sig: signal.Signals = signal.SIGTERM) -> bool:
    """End the process `pid` that started at `started`: `sig`, then SIGKILL after `deadline_s`. True if `sig` sufficed.

    Signals go through a pidfd whose start time was compared, so that they can't reach another process.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if started is None or start_time(pid) != started:
            return True
        for attempt, limit_s in ((sig, deadline_s), (signal.SIGKILL, 10.0)):
            signal.pidfd_send_signal(pidfd, attempt)
            end = time.monotonic() + limit_s
            while time.monotonic() < end:
                if start_time(pid) != started:
                    return attempt is sig
                time.sleep(0.02)
    except ProcessLookupError:
        return True
    finally:
        os.close(pidfd)
    raise ServerError(f"process {pid} is still there 10 s after SIGKILL: it hangs in the kernel (a disk or mount?)")


class Server:
    """One server process in a folder of its own: configuration, data and logs are all in there."""

    name = "server"
    ready_s = 60.0
    stop_s = 30.0

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.log = folder / f"{self.name}.out"
        self.env: dict[str, str] | None = None  # None: ours
        self.process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Write the configuration and whatever must be there before the first start."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """The program and its arguments."""
        raise NotImplementedError

    def answers(self) -> bool:
        """The server does its work, not only listens."""
        raise NotImplementedError

    def where(self) -> str:
        """Where it answers, for people."""
        return f"{LOOPBACK}:{self.port}"

    def start(self, on_spawn: Callable[[int], None] = lambda pid: None) -> None:
        """Prepare, start and return when the server answers; else ServerError with the end of its log.

        `on_spawn` is told the pid at once, so that a caller who is interrupted while waiting knows what to end.
        """
        self.spawn()
        assert self.process is not None
        try:
            on_spawn(self.process.pid)
            self.wait_ready()
        except BaseException:
            self.process.kill()
            self.process.wait(10)
            raise

    def spawn(self) -> None:
        """Prepare and start, without waiting for anything."""
        self.prepare()
        if self.log.exists() and self.log.stat().st_size > LONGEST_LOG:
            self.log.replace(self.log.with_suffix(".out.1"))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - a command of ours
                self.command(), cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True)  # Ctrl-C in the terminal is not for servers

    def wait_ready(self, deadline_s: float | None = None) -> None:
        """Return when the server answers; ServerError when its process has ended or the deadline is over."""
        limit_s = self.ready_s if deadline_s is None else deadline_s
        end = time.monotonic() + limit_s
        while not self.answers():
            if self.process is not None and self.process.poll() is not None:
                status = self.process.returncode
                raise ServerError(f"{self.name} ended with status {status} while starting\n{self.tail()}")
            if time.monotonic() > end:
                said = f"{self.name} does not answer on {self.where()} after {limit_s:.0f} s"
                raise ServerError(f"{said}\n{self.tail()}")
            time.sleep(0.02)

    def tail(self, lines: int = 15) -> str:
        """The end of what the server said, for an error message."""
        said = ""
        for log in (self.log, *sorted((self.folder / "logs").glob("*.log"))):
            if log.is_file() and (text := log.read_text("utf-8", "replace").splitlines()[-lines:]):
                said += f"--- end of {log}\n" + "\n".join(text) + "\n"
        return said


class Kafka(Server):
    """One KRaft node, broker and controller in one process."""

    name = "kafka"
    stop_s = 30.0

    def __init__(self, folder: Path, port: int, controller_port: int, *,
                 heap_mb: int = 512, small: bool = False) -> None:
        super().__init__(folder, port)
        self.controller_port = controller_port
        self.heap_mb = heap_mb
        self.small = small  # starts with the first-stage compiler only: slower at full load, much smaller
        self.config = folder / "server.properties"
        self.data = folder / "data"

    def _java(self, *arguments: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={KAFKA_PACKAGING / 'log4j2.xml'}"
        return [java(), logging, f"-Dkafka.logs.dir={self.folder / 'logs'}", "-Djava.awt.headless=true", "-Xshare:auto",
                "-cp", f"{kafka_libs()}/*", *arguments]

    def prepare(self) -> None:
        """Write server.properties and format the data folder once."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        self.config.write_text(self.properties(), "utf-8")
        if (self.data / "meta.properties").exists():
            return
        shutil.rmtree(self.data, ignore_errors=True)  # a format that was interrupted
        self.format("yadtq-" + "".join(random.choices("abcdefghijkmnpqrstuvwxyz23456789", k=16)),  # noqa: S311
                    "--standalone")

    def properties(self) -> str:
        """The text of server.properties."""
        text = (KAFKA_PACKAGING / "server.properties.in").read_text("utf-8")
        words = {"PORT": self.port, "CONTROLLER_PORT": self.controller_port, "DATA_DIR": self.data}
        for word, value in words.items():
            text = text.replace(f"@{word}@", str(value))
        return text

    def format(self, cluster_id: str, *options: str) -> None:
        """Make the data folder that of a node of a new cluster."""
        command = self._java("-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "kafka.tools.StorageTool",
                             "format", "-t", cluster_id, "-c", str(self.config), *options)
        done = subprocess.run(command, check=False, cwd=self.folder, timeout=FORMAT_DEADLINE_S,  # noqa: S603
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            said = done.stdout.decode("utf-8", "replace")[-2000:]
            raise ServerError(f"formatting Kafka's data folder failed:\n{said}")

    def command(self) -> list[str]:
        """The broker's JVM."""
        flags = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"] if self.small else ["-XX:+UseG1GC"]
        return self._java(f"-Xms{min(self.heap_mb, 96)}m", f"-Xmx{self.heap_mb}m", *flags,
                          "-XX:+ExitOnOutOfMemoryError", "kafka.Kafka", str(self.config))

    def answers(self) -> bool:
        """The broker knows itself as alive."""
        return kafka_answers(self.port)


class Redis(Server):
    """One Redis that keeps what it has acknowledged, up to the last second."""

    name = "redis"
    ready_s = 60.0
    stop_s = 20.0

    def prepare(self) -> None:
        """Write redis.conf."""
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        (self.folder / "redis.conf").write_text(
            f"bind {LOOPBACK}\nport {self.port}\nprotected-mode yes\ndaemonize no\ndir {self.folder / 'data'}\n"
            "# Task records are not a cache: on disk within a second, never evicted to make room.\n"
            "appendonly yes\nappendfsync everysec\nmaxmemory-policy noeviction\n"
            'save ""\nloglevel notice\nlogfile ""\n', "utf-8")

    def command(self) -> list[str]:
        """The server itself, in the foreground."""
        return [redis_program(), str(self.folder / "redis.conf")]

    def answers(self) -> bool:
        """PING is answered with PONG."""
        return redis_answers(self.port)


# ---- what setup.sh installed ----------------------------------------------------------------------------------------
def java() -> str:
    """A Java launcher of at least JAVA_MAJOR: $JAVA_HOME's, the one on the PATH, or one that is installed beside it."""
    home = os.environ.get("JAVA_HOME")
    on_path = shutil.which("java")
    candidates = [Path(home) / "bin" / "java"] if home else []
    candidates += [Path(on_path)] if on_path else []
    candidates += sorted(Path("/usr/lib/jvm").glob("*/bin/java"), reverse=True)
    found = ""
    for candidate in candidates:
        version = _java_version(candidate)
        if version and int(version.split(".")[0]) >= JAVA_MAJOR:
            return str(candidate)
        found = found or version
    raise ServerError(f"Kafka needs Java {JAVA_MAJOR} or newer, found {found or 'none'}: run ./setup.sh install")


def _java_version(launcher: Path) -> str:
    """The version that the runtime's own `release` file states: starting a JVM to ask would take half a second."""
    try:
        release = (launcher.resolve().parents[1] / "release").read_text("utf-8", "replace")
    except OSError:
        return ""
    stated = re.search(r'^JAVA_VERSION="(\d[\d.]*)', release, re.MULTILINE)
    return stated[1] if stated else ""


def redis_program() -> str:
    """A redis-server that knows functions (REDIS_MAJOR)."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/bin", "/usr/sbin", "/usr/local/bin"])
    program = shutil.which("redis-server", path=path)
    if program is None:
        raise ServerError("redis-server is not installed: run ./setup.sh install")
    answer = subprocess.run([program, "--version"], check=False, timeout=10, capture_output=True)  # noqa: S603
    version = re.search(rb"v=(\d+)([\d.]*)", answer.stdout)
    if version is None or int(version[1]) < REDIS_MAJOR:
        said = b"".join(version.groups()).decode() if version else "an unknown version"
        raise ServerError(f"Redis {REDIS_MAJOR} or newer is needed, {program} is {said}")
    return program


def kafka_libs() -> Path:
    """The folder of the broker's jars, verified when they were fetched."""
    ask = [str(KAFKA_PACKAGING / "fetch.sh"), "path"]
    answer = subprocess.run(ask, check=True, timeout=30, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)  # noqa: S603
    folder = Path(os.fsdecode(answer.stdout).strip())
    if not folder.is_dir():
        raise ServerError(f"Kafka's jars are not there ({folder}): run ./setup.sh install")
    return folder


def main(argv: list[str]) -> int:
    """`local_servers.py java|redis`: print which program is used, or why there is none (exit status 1)."""
    find = {"java": java, "redis": redis_program}
    if len(argv) != 1 or argv[0] not in find:
        print("usage: local_servers.py java|redis", file=sys.stderr)
        return 2
    try:
        print(find[argv[0]]())
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
