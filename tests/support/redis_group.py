"""A primary, replicas and three Sentinels on the loopback interface, as an installation has them: to be broken.

    group = RedisGroup(folder, replicas=1)          # with `ca`: TLS, users and their documented rights
    group.start()
    settings.replace(**group.options())
    group.primary().kill(); group.wait_for_failover(old)

The rights of the users are those of docs/redis.md, word for word. All end with the process that made them.
"""
from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import redis

from tests.support.certificates import Authority, Certificate
from tests.support.daemon import wait_for
from tests.support.services import LOOPBACK, ROOT, Breakable, local_servers, random_free_port

NAME = "yadtq"
DOWN_AFTER_MS = 2000
PASSWORDS = {"yadtq": "of ours", "replica": "of-replicas", "sentinel": "of-sentinels", "admin": "of-admins"}
ADMIN = "user admin on >of-admins ~* &* +@all"


def documented(user: str, nth: int = 0) -> str:
    """The line `user NAME ...` of docs/redis.md, with the password of the tests."""
    lines = [line.strip() for line in (ROOT / "docs" / "redis.md").read_text().splitlines()]
    line = [line for line in lines if line.startswith(f"user {user} ")][nth]
    return line.replace(">PASSWORD", f">{password(user)}") if user in PASSWORDS else line


def password(user: str) -> str:
    return PASSWORDS[user].replace(" ", "")


class Member(Breakable, local_servers.Redis):
    """A Redis or a Sentinel of a group."""

    def __init__(self, folder: Path, name: str, lines: list[str], tls: tuple[Authority, Certificate] | None,
                 *, sentinel: bool = False) -> None:
        super().__init__(folder / name, random_free_port())
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name, self._lines, self._tls, self.sentinel = name, lines, tls, sentinel
        self.config = self.folder / "redis.conf"

    def prepare(self) -> None:
        """Written once: a Sentinel and a Redis that was reconfigured keep their state in it."""
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        if self.config.exists():
            return
        lines = [f"bind {LOOPBACK}", f"dir {self.folder / 'data'}", "protected-mode no", *self._lines]
        if self._tls:
            ca, own = self._tls
            lines += [f"tls-port {self.port}", "port 0", f"tls-cert-file {own.cert}", f"tls-key-file {own.key}",
                      f"tls-ca-cert-file {ca.cert}", "tls-auth-clients optional", "tls-replication yes"]
        else:
            lines.append(f"port {self.port}")
        self.config.write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [local_servers.redis_program(), str(self.config), *(["--sentinel"] if self.sentinel else [])]

    def connect(self, **options: Any) -> redis.Redis:
        """As its administrator."""
        if self._tls:
            options |= {"ssl": True, "ssl_ca_certs": str(self._tls[0].cert), "username": "admin",
                        "password": password("admin")}
        return redis.Redis(host=LOOPBACK, port=self.port, decode_responses=True, socket_timeout=2,
                           socket_connect_timeout=2, **options)

    def answers(self) -> bool:
        try:
            with self.connect() as connection:
                return bool(connection.ping())
        except redis.RedisError:
            return False

    def info(self) -> dict[str, Any]:
        """INFO replication."""
        with self.connect() as connection:
            found: dict[str, Any] = connection.info("replication")
            return found


class RedisGroup:
    """One primary, some replicas, three Sentinels with a quorum of 2; plain, or secure when `ca` is given."""

    def __init__(self, folder: Path, *, replicas: int = 1, ca: Authority | None = None, min_replicas: int = 0) -> None:
        self.ca = ca
        tls = (ca, ca.sign("redis")) if ca else None
        lines = ["appendonly yes", "appendfsync everysec", 'save ""', "maxmemory-policy noeviction",
                 "repl-diskless-sync yes", "repl-diskless-sync-delay 0", "repl-ping-replica-period 1",
                 f"min-replicas-to-write {min_replicas}", "min-replicas-max-lag 10"]
        users = [documented("yadtq"), documented("replica"), documented("sentinel"), documented("default"), ADMIN]
        if ca:
            lines += [*users, "masteruser replica", f"masterauth {password('replica')}"]
        first = Member(folder, "redis0", lines, tls)
        others = [Member(folder, f"redis{n}", [*lines, f"replicaof {LOOPBACK} {first.port}"], tls)
                  for n in range(1, 1 + replicas)]
        self.nodes = [first, *others]
        watch = [f"sentinel monitor {NAME} {LOOPBACK} {first.port} 2",
                 f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}",
                 f"sentinel failover-timeout {NAME} 2500", f"sentinel parallel-syncs {NAME} 1"]
        if ca:
            watch += [f"sentinel auth-user {NAME} sentinel", f"sentinel auth-pass {NAME} {password('sentinel')}",
                      documented("yadtq", 1), documented("sentinel", 1), ADMIN, "user default off",
                      "sentinel sentinel-user sentinel", f"sentinel sentinel-pass {password('sentinel')}"]
        self.sentinels = [Member(folder, f"sentinel{n}", watch, tls, sentinel=True) for n in range(3)]

    def start(self) -> None:
        """Returns when the replicas are in step and the Sentinels know each other and them."""
        for member in (*self.nodes, *self.sentinels):
            member.start()
        wait_for(lambda: self.in_step(len(self.nodes) - 1), 20, "replicas in step")
        wait_for(self.settled, 20, "the Sentinels to know everything")

    def mend(self, *, empty: bool = True) -> None:
        """Whole again, whoever is the primary: what is down or frozen comes back as its replica; and `empty`.

        Sentinels would make a replica of an old primary by themselves, but only after eight seconds.
        """
        for member in (*self.sentinels, *self.nodes):
            if member.frozen:
                member.thaw()
            if not member.running:
                member.start()
        primary = self.primary()
        for node in self.nodes:
            if node is not primary:
                with node.connect() as connection:
                    connection.replicaof(LOOPBACK, primary.port)
        behind = 1000 if empty else 10_000_000              # under load
        wait_for(lambda: self.settled() and self.in_step(len(self.nodes) - 1, behind), 30, "the group to be whole")
        if empty:
            with primary.connect() as connection:
                connection.flushall()

    def kill(self) -> None:
        for member in (*self.sentinels, *self.nodes):
            member.kill()

    def options(self) -> dict[str, Any]:
        """The settings that reach this group."""
        found: dict[str, Any] = {
            "redis_sentinels": ",".join(f"{LOOPBACK}:{sentinel.port}" for sentinel in self.sentinels),
            "redis_sentinel_master": NAME}
        if self.ca:
            found |= {"redis_ssl": True, "redis_ssl_ca_file": str(self.ca.cert), "redis_username": "yadtq",
                      "redis_password": password("yadtq"), "redis_sentinel_username": "yadtq",
                      "redis_sentinel_password": password("yadtq")}
        return found

    def about(self, sentinel: Member) -> dict[str, Any]:
        """What a Sentinel says of the primary."""
        with sentinel.connect() as connection:
            found: dict[str, Any] = connection.sentinel_master(NAME)
            return found

    def primary(self) -> Member:
        """By what the first Sentinel that answers says."""
        for sentinel in self.sentinels:
            try:
                port = self.about(sentinel)["port"]
            except redis.RedisError:
                continue
            return next(node for node in self.nodes if node.port == port)
        raise AssertionError("no Sentinel answers")

    def settled(self) -> bool:
        """All Sentinels know each other and all replicas, and agree."""
        try:
            told = [self.about(sentinel) for sentinel in self.sentinels if sentinel.running]
        except redis.RedisError:
            return False
        return (len({one["port"] for one in told}) == 1 and all(
            int(one["num-other-sentinels"]) == len(self.sentinels) - 1
            and int(one["num-slaves"]) == len(self.nodes) - 1 for one in told))

    def in_step(self, replicas: int, behind: int = 1000) -> bool:
        """Whether the primary has so many replicas that are at most so many bytes behind (they tell once a second)."""
        try:
            about = self.primary().info()
        except (redis.RedisError, AssertionError):
            return False
        online = [about[f"slave{n}"] for n in range(about["connected_slaves"])]
        there = [one for one in online if one["state"] == "online"
                 and about["master_repl_offset"] - one["offset"] < behind]
        return about["role"] == "master" and len(there) >= replicas

    def wait_for_failover(self, old: Member, limit_s: float = 30) -> float:
        """Until another than `old` is the primary; how long that took (s)."""
        began = time.monotonic()
        wait_for(lambda: self.primary() is not old, limit_s, "a failover")
        return time.monotonic() - began
