"""What the local stack is to be: which servers are the user's own, and the two files that tell everybody else.

Pure but for reading the configuration and writing `.yadtq/yadtq.toml` and `.yadtq/env`; run by local_stack.py in the
checkout's environment, because the configuration is read by `yadtq.config` itself, with its checks and messages.
"""
from __future__ import annotations

import hashlib
import json
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from local_servers import LOOPBACK

MARK = "YADTQ_SETUP_SOURCED"
LONGEST_SOCKET = 100  # a unix socket's path has 107 bytes


@dataclass(frozen=True)
class Plan:
    """Servers that exist already (None: the stack runs its own) and where they are named."""

    base: Path | None
    kafka: list[tuple[str, int]] | None
    redis: tuple[str, int] | None
    control_socket: str
    preferred_kafka_port: int
    preferred_redis_port: int
    named: frozenset[str] = frozenset()  # options that the user sets: none of them is overwritten
    origin: dict[str, str] = field(default_factory=dict)


def plan(folder: Path, config: Path | None) -> Plan:
    """Read the user's configuration: `config`, else $YADTQ_CONFIG, and the environment. Never /etc: that is a host's.

    A shell that sourced `.yadtq/env` names servers that some `up` started; MARK tells them from the user's own.
    """
    from yadtq.config import Settings
    from yadtq.errors import ConfigurationError

    sourced = json.loads(os.environ.pop(MARK, "{}"))
    for name, value in sourced.get("own", {}).items():
        if os.environ.get(name) == value:
            del os.environ[name]
            if name == "YADTQ_CONFIG" and config is None and sourced["base"] and sourced["folder"] == str(folder):
                config = Path(sourced["base"])
    base = config or (Path(os.environ["YADTQ_CONFIG"]) if os.environ.get("YADTQ_CONFIG") else None)
    try:
        settings = Settings.load(base or os.devnull)
    except ConfigurationError as error:
        raise ValueError(f"the configuration is wrong:\n{error}") from error

    def first_origin(*names: str) -> str:
        return next((told for told in (settings.origin(name) for name in names) if told != "default"), "")

    kafka = first_origin("kafka_servers", "kafka_host")
    redis = first_origin("redis_host")
    own = {"kafka_servers", "kafka_host", "kafka_port", "redis_host", "redis_port", "control_socket", "pid_file"}
    named = frozenset(name for name in own if settings.origin(name) != "default")
    return Plan(
        base=base.resolve() if base else None,
        kafka=[_place(server) for server in settings.bootstrap] if kafka else None,
        redis=(settings.redis_host, settings.redis_port) if redis else None,
        control_socket=settings.control_socket if "control_socket" in named else control_socket(folder),
        preferred_kafka_port=settings.kafka_port,
        preferred_redis_port=settings.redis_port,
        named=named,
        origin={"Kafka": kafka, "Redis": redis},
    )


def _place(server: str) -> tuple[str, int]:
    host, _, port = server.rpartition(":")
    return host.strip("[]"), int(port)


def control_socket(folder: Path) -> str:
    """The socket's path in `folder`, or, where that would be too long for a socket, one in /tmp of this user's own."""
    path = folder / "yadtqd.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET:
        return str(path)
    short = Path("/tmp") / f"yadtq-{os.getuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"  # noqa: S108
    short.mkdir(mode=0o700, exist_ok=True)
    if short.lstat().st_uid != os.getuid() or short.is_symlink() or short.stat().st_mode & 0o077:
        raise ValueError(f"{short} belongs to somebody else or is open to others: remove it")
    return str(short / "yadtqd.sock")


def write_config(folder: Path, wanted: Plan, ports: dict[str, int]) -> None:
    """`.yadtq/yadtq.toml`: where this stack's servers are, then the user's own file as it stands."""
    lines = ["# Written anew by each ./setup.sh up. Own settings: ./setup.sh up --config FILE (they are added here)."]
    if wanted.kafka is None:
        lines.append(f'kafka_servers = "{LOOPBACK}:{ports["kafka"]}"')
    if wanted.redis is None:
        lines.append(f'redis_host = "{LOOPBACK}"')
        lines += [] if _in_base("redis_port", wanted) else [f"redis_port = {ports['redis']}"]
    if "control_socket" not in wanted.named:
        lines.append(f"control_socket = {_toml(wanted.control_socket)}")
    if "pid_file" not in wanted.named:
        lines.append(f"pid_file = {_toml(str(folder / 'yadtqd' / 'yadtqd.pid'))}")
    text = "\n".join(lines) + "\n"
    if wanted.base is not None:
        text += f"\n# ---- from {wanted.base}\n" + wanted.base.read_text("utf-8")
    _write(folder / "yadtq.toml", text)


def _in_base(name: str, wanted: Plan) -> bool:
    return wanted.base is not None and name in wanted.named


def write_env(root: Path, wanted: Plan, ports: dict[str, int]) -> dict[str, str]:
    """`.yadtq/env`, to be sourced by a shell; returns what it exports (without PATH)."""
    folder = root / ".yadtq"
    kafka = wanted.kafka or [(LOOPBACK, ports["kafka"])]
    redis = wanted.redis or (LOOPBACK, ports["redis"])
    exported = {
        "YADTQ_CONFIG": str(folder / "yadtq.toml"),
        "YADTQ_KAFKA_SERVERS": ",".join(f"[{h}]:{port}" if ":" in h else f"{h}:{port}" for h, port in kafka),
        "YADTQ_REDIS_HOST": redis[0],
        "YADTQ_REDIS_PORT": str(redis[1]),
        "YADTQ_CONTROL_SOCKET": wanted.control_socket,
    }
    own = {"YADTQ_CONFIG", "YADTQ_CONTROL_SOCKET"}
    own |= {"YADTQ_KAFKA_SERVERS"} if wanted.kafka is None else set()
    own |= {"YADTQ_REDIS_HOST", "YADTQ_REDIS_PORT"} if wanted.redis is None else set()
    exported[MARK] = json.dumps({"folder": str(folder), "base": str(wanted.base) if wanted.base else None,
                                 "own": {name: exported[name] for name in sorted(own)}})
    lines = ["# Written by ./setup.sh up; `source` it: python, yadtq and yadtqctl then find this checkout's servers."]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in exported.items()]
    programs = shlex.quote(str(root / ".venv" / "bin"))
    lines.append(f'case ":$PATH:" in *:{programs}:*) ;; *) export PATH={programs}:"$PATH" ;; esac')
    _write(folder / "env", "\n".join(lines) + "\n")
    return exported


def _toml(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _write(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)  # 0600: the user's file may hold a password
    draft.replace(path)
