"""`./setup.sh doctor`: everything that a checkout needs, whether it is there, and how to mend it if it isn't.

Looks and changes nothing. Runs under any python3 and with the standard library alone, since what it looks for may be
missing. Exit status 0 when nothing is wrong, 1 when something is; a warning is not wrong.
"""
from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from local_servers import JAVA_MAJOR, KAFKA_PACKAGING, ServerError, java, kafka_answers, redis_answers, redis_program
from local_stack import ROOT, Stack

VENV = ROOT / ".venv"
INSTALL = "run ./setup.sh install"
MIN_FREE_MB = 1024  # Kafka writes, and stops for good when it can't
MIN_MEMORY_MB = 1024


class Finding(NamedTuple):
    """One thing looked at. `grade`: ok, warn or bad; `mend` says what to do."""

    grade: str
    what: str
    mend: str = ""


def python() -> Iterator[Finding]:
    """The interpreter and the environment."""
    interpreter = VENV / "bin" / "python"
    if not interpreter.exists():
        yield Finding("bad", "no Python environment: .venv is not there", INSTALL)
        return
    if not (VENV / ".made-by-setup").exists():
        yield Finding("warn", ".venv was not made by setup.sh: what is in it was not checked against the lock", INSTALL)
    code = ("import sys, yadtq, importlib.util as u;"
            "print('%d.%d.%d' % sys.version_info[:3], 'yadtqd' if u.find_spec('yadtqd') else 'client')")
    asked = _run([str(interpreter), "-W", "ignore", "-c", code])
    if asked.returncode:
        yield Finding("bad", f".venv does not work: {_last_line(asked.stderr)}", INSTALL)
        return
    version, what = asked.stdout.split()
    if what == "yadtqd":
        yield Finding("ok", f"Python {version} with yadtq and yadtqd in .venv")
    else:
        yield Finding("warn", f"Python {version}: only the client library is in .venv", f"{INSTALL} for the rest")
    checked = _run([str(interpreter), "-m", "pip", "check"])
    if checked.returncode and "No module named pip" not in checked.stderr:
        yield Finding("bad", f"packages in .venv do not fit together: {_last_line(checked.stdout)}",
                      "remove .venv, then " + INSTALL)


def programs() -> Iterator[Finding]:
    """Java, Redis and the broker's jars."""
    for what, find in ((f"Java {JAVA_MAJOR} or newer", java), ("Redis", redis_program)):
        try:
            yield Finding("ok", f"{what}: {find()}")
        except ServerError as error:
            yield Finding("bad", str(error).partition(": run ")[0], INSTALL)
    jars = _run([str(KAFKA_PACKAGING / "fetch.sh"), "path"]).stdout.strip()
    if not Path(jars).is_dir():
        yield Finding("bad", "Kafka's jars are not there", INSTALL)
    elif _run([str(KAFKA_PACKAGING / "fetch.sh"), "verify"]).returncode:
        yield Finding("bad", f"a jar in {jars} is not the one whose checksum is in packaging/kafka/SHA256SUMS", INSTALL)
    else:
        yield Finding("ok", f"Kafka's jars with their checksums: {jars}")


def machine() -> Iterator[Finding]:
    """Disk, memory, name."""
    free_mb = shutil.disk_usage(ROOT).free // 2**20
    if free_mb >= MIN_FREE_MB:
        yield Finding("ok", f"{free_mb // 1024} GB free on the disk of this checkout")
    else:
        yield Finding("bad", f"only {free_mb} MB free on the disk of this checkout",
                      "make room: Kafka and Redis stop without it")
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    if memory_mb < MIN_MEMORY_MB:
        yield Finding("warn", f"only {memory_mb} MB of memory: Kafka alone takes 400 MB", "add memory")
    try:
        socket.getaddrinfo("localhost", None)
    except OSError:
        yield Finding("bad", "the name localhost has no address", "put '127.0.0.1 localhost' into /etc/hosts")


def running(stack: Stack) -> Iterator[Finding]:
    """What `up` started: is it there, does it answer?"""
    stack.read()
    probes = {"redis": redis_answers, "kafka": kafka_answers}
    for name in ("redis", "kafka", "yadtqd"):
        known = stack.state.get(name, {})
        if "pid" not in known:
            yield Finding("ok", f"{name}: not started here")
        elif not stack.alive(name):
            yield Finding("bad", f"{name} was started and has died: see {stack.folder / name}", "run ./setup.sh up")
        elif name in probes and not probes[name](known["port"]):
            yield Finding("bad", f"{name} (pid {known['pid']}) does not answer on port {known['port']}",
                          "run ./setup.sh down, then ./setup.sh up")
        else:
            place = f" on port {known['port']}" if known["port"] else ""
            yield Finding("ok", f"{name} runs (pid {known['pid']}){place}")
    for port, default in ((9092, "Kafka"), (6379, "Redis")):
        with socket.socket() as probe:
            probe.settimeout(1)
            ours = any(stack.alive(name) and stack.state[name].get("port") == port for name in ("kafka", "redis"))
            if not ours and probe.connect_ex(("127.0.0.1", port)) == 0:
                yield Finding("ok", f"port {port}, {default}'s usual one, is taken: ./setup.sh up takes the next")


def configuration(stack: Stack) -> Iterator[Finding]:
    """The configuration in force has no mistakes, its servers can be reached, and the daemon is well."""
    interpreter = VENV / "bin" / "python"
    if not interpreter.exists() or _run([str(interpreter), "-W", "ignore", "-c", "import yadtq.config"]).returncode:
        return
    generated = str(stack.folder / "yadtq.toml") if stack.alive("yadtqd") else os.devnull
    config = os.environ.get("YADTQ_CONFIG") or generated
    code = ("import sys; from yadtq.config import Settings; s = Settings.load(sys.argv[1]);"
            "[print(x, s.origin('kafka_servers'), s.origin('kafka_host')) for x in s.bootstrap];"
            "[print('%s:%d' % place, s.origin('redis_sentinels'), s.origin('redis_host'))"
            " for place in s.sentinels or [(s.redis_host, s.redis_port)]]")
    asked = _run([str(interpreter), "-W", "ignore", "-c", code, config])
    if asked.returncode:
        told = [line.rpartition("CONFIGURATION_ERROR: ")[2] for line in asked.stderr.splitlines()
                if not line.startswith((" ", "Traceback"))]
        yield Finding("bad", "the configuration is wrong:\n          " + "\n          ".join(told),
                      "correct what is named there; yadtqd --check-config shows the whole configuration")
        return
    yield Finding("ok", "the configuration has no mistakes" + ("" if config == os.devnull else f" ({config})"))
    reached = 0
    for line in asked.stdout.splitlines():
        place, *origins = line.split(" ")
        if set(origins) == {"default"}:
            continue
        host, _, port = place.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), 3).close()
            reached += 1
        except OSError as error:
            yield Finding("bad", f"{place} can't be reached: {error}",
                          "start that server, or correct the configuration (a shell that sourced .yadtq/env of an "
                          "earlier ./setup.sh up names servers that are gone)")
    if reached:
        tried = _run([str(VENV / "bin" / "yadtqd"), "--config", config, "--check"])
        for said in tried.stdout.splitlines():
            if said.startswith("BAD "):
                yield Finding("bad", said.removeprefix("BAD ").strip(), "yadtqd --check tries it again; docs/errors.md")
    if stack.alive("yadtqd"):
        checked = _run([str(VENV / "bin" / "yadtqctl"), "--config", config, "status", "--check"])
        if checked.returncode:
            said = (checked.stderr.strip() or checked.stdout.strip() or "no message").splitlines()[0]
            yield Finding("bad", f"yadtqd is not well: {said}",
                          f"look at {stack.folder / 'yadtqd' / 'yadtqd.out'} and at yadtqctl status")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60,  # noqa: S603
                              cwd="/",  # not the checkout: it would be importable without being installed
                              stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def main() -> int:
    """Print the findings; the worst decides the exit status."""
    stack = Stack()
    findings = [*python(), *programs(), *machine(), *running(stack), *configuration(stack)]
    colours = {"ok": "32", "warn": "33", "bad": "31"} if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else {}
    for finding in findings:
        colour, plain = (f"\x1b[{colours[finding.grade]}m", "\x1b[0m") if colours else ("", "")
        print(f"{colour}{finding.grade:>6}{plain}  {finding.what}")
        if finding.mend:
            print(f"          -> {finding.mend}")
    bad = sum(finding.grade == "bad" for finding in findings)
    print(f"\n{bad} thing{'s are' if bad != 1 else ' is'} wrong." if bad else "\nNothing is wrong.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
