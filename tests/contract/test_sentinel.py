"""The result backend with a primary, a replica and three Sentinels, over TLS, as users with the documented rights.

What is looked at: that the primary is found and followed, in time and without a restart, however it goes; that nothing
is called safe which the next primary does not have; and that whoever is refused is told why at once.
"""
from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.certificates import Authority
from tests.support.daemon import wait_for
from tests.support.redis_group import DOWN_AFTER_MS, NAME, RedisGroup, password
from tests.support.services import running
from yadtq.config import Settings
from yadtq.durability import Durability
from yadtq.errors import ConfigurationError, RedisConnectionError, RedisRefused
from yadtq.names import META_KEYS
from yadtq.result_backend import ClaimEntry, FinishEntry, Push, ResultBackend, SubmitEntry
from yadtq.task import new_task_id

pytestmark = [pytest.mark.integration, pytest.mark.fault]

NOW = int(time.time() * 1000)
FOLLOWED_S = DOWN_AFTER_MS / 1000 + 6       # noticed, agreed upon, promoted, found; about 3.5 s where nothing else runs


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory, ca: Authority) -> Iterator[RedisGroup]:
    """Of the module: each test leaves it whole, whoever is the primary then."""
    with running(RedisGroup(tmp_path_factory.mktemp("group"), ca=ca)) as group:
        yield group


@pytest.fixture
def whole(group: RedisGroup) -> RedisGroup:
    group.mend()
    return group


@pytest.fixture
def backend(whole: RedisGroup) -> Iterator[ResultBackend]:
    backend = ResultBackend(Settings(redis_timeout_s=5.0, **whole.options()))
    yield backend
    backend.close()


def entries(count: int) -> list[SubmitEntry]:
    return [SubmitEntry(new_task_id(), "addition", 0, NOW, 0) for _ in range(count)]


def sure(backend: ResultBackend, whole: RedisGroup, *, limit_s: float = 15) -> float:
    """Write, and wait until that is known to be safe; how long it took."""
    durability = backend.durability()
    durability.durable_before(time.monotonic())
    backend.submit(entries(5))
    written = time.monotonic()
    durability.note(written)
    wait_for(lambda: durability.durable_before(time.monotonic()) >= written, limit_s, "the write to be safe")
    return time.monotonic() - written


# ---- following the primary -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_calls_that_are_under_way_go_on_at_the_new_primary(whole: RedisGroup, backend: ResultBackend,
                                                           how: str) -> None:
    """A call with time enough rides a failover out; what was written before and replicated is there."""
    tasks = entries(300)
    backend.submit(tasks)
    wait_for(lambda: whole.in_step(1), 5, "the replica to have it")
    old = whole.primary()
    old.kill() if how == "kill" else old.freeze()
    began = time.monotonic()
    ids = [task.id for task in tasks]
    claims = backend.claim(0, 7, [ClaimEntry(i, 0, 0, "addition", NOW) for i in ids], NOW, timeout_s=20)
    took = time.monotonic() - began
    print(f"{how}: claimed at the new primary after {took:.1f} s")
    assert {claim.answer for claim in claims} == {"RUN"}
    assert took < FOLLOWED_S
    wait_for(lambda: whole.primary() is not old, 10, "every Sentinel to know")
    assert backend.counts()["Q"] == 300, "claimed and not shown as running yet"
    backend.expire(NOW, 1, {0: 9})


def test_a_call_has_its_deadline_whatever_the_primary_does(whole: RedisGroup, backend: ResultBackend) -> None:
    backend.submit(entries(1))
    old = whole.primary()
    old.freeze()
    for timeout_s in (0.0, 0.4):
        began = time.monotonic()
        with pytest.raises(RedisConnectionError) as caught:
            backend.submit(entries(500), timeout_s=timeout_s)
        assert time.monotonic() - began < timeout_s + 1.5
        assert caught.value.retryable


def test_a_subscription_follows_though_nothing_else_is_called(whole: RedisGroup, backend: ResultBackend) -> None:
    """Who only waits for results learns of the failover as well, from a primary that is frozen and closes nothing."""
    task = entries(1)[0]
    backend.submit([task])
    reader = backend.subscribe("me")
    assert reader.get(0.05) == []
    whole.primary().freeze()
    began = time.monotonic()

    def back() -> bool:
        try:
            return reader.get(1.0) is None
        except RedisConnectionError:
            return False
    wait_for(back, FOLLOWED_S, "the reader to come back")
    print(f"the subscription was back after {time.monotonic() - began:.1f} s")
    backend.submit([task], timeout_s=10)
    backend.watch([task.id], "me")
    backend.finish(0, 1, [FinishEntry(task.id, 0, 0, "addition", NOW, "OK", 1, NOW, NOW, b"\x01")], "w")
    got: list[Push] = []
    wait_for(lambda: got.extend(reader.get(0.2) or []) or got, 5, "the push")
    assert [push.id for push in got] == [task.id]
    reader.close()


def test_a_primary_that_was_made_a_replica_is_left(whole: RedisGroup, backend: ResultBackend) -> None:
    """A failover by hand: the old primary lives on, and answers READONLY."""
    backend.submit(entries(10))
    old = whole.primary()
    with whole.sentinels[0].connect() as sentinel:
        sentinel.sentinel_failover(NAME)
    deadline = time.monotonic() + FOLLOWED_S
    sentinels = backend.redis.sentinels
    assert sentinels is not None
    while sentinels.last_primary is None or sentinels.last_primary.port == old.port:
        assert backend.submit(entries(10)) == ["DONE"] * 10     # none fails: 5 s are enough for a failover by hand
        assert time.monotonic() < deadline
    assert sentinels.last_primary.port == whole.primary().port


def test_functions_are_there_after_a_failover_and_are_loaded_where_they_are_not(whole: RedisGroup,
                                                                               backend: ResultBackend) -> None:
    backend.store_id()
    other = next(node for node in whole.nodes if node is not whole.primary())
    with other.connect() as replica:
        assert replica.fcall_ro("yadtq1_build", 1, META_KEYS[0]), "replicated"
    with whole.primary().connect() as primary:
        primary.function_flush()
    assert backend.submit(entries(3)) == ["DONE"] * 3


# ---- what is safe ----------------------------------------------------------------------------------------------------
def test_a_write_is_safe_when_disk_and_replica_have_it(whole: RedisGroup, backend: ResultBackend) -> None:
    assert sure(backend, whole) >= 2.0


def test_nothing_is_safe_that_a_frozen_replica_has_not_got(whole: RedisGroup, backend: ResultBackend) -> None:
    """Until most Sentinels say that it is down: then the disk alone counts, and work goes on."""
    other = next(node for node in whole.nodes if node is not whole.primary())
    durability = backend.durability()
    durability.durable_before(time.monotonic())
    other.freeze()
    backend.submit(entries(5))
    written = time.monotonic()
    durability.note(written)
    with pytest.raises(AssertionError):
        wait_for(lambda: durability.durable_before(time.monotonic()) >= written, DOWN_AFTER_MS / 1000 - 0.3, "safety")
    other.kill()                                        # else the primary counts it as online for a minute
    wait_for(lambda: durability.durable_before(time.monotonic()) >= written, 15, "the disk alone to count")
    print(f"committed without a replica after {time.monotonic() - written:.1f} s")


def test_a_primary_that_was_replaced_proves_nothing(whole: RedisGroup, backend: ResultBackend) -> None:
    """It takes writes and keeps them on its disk, while another has been made the primary: a split brain."""
    old = whole.primary()
    port = old.port
    plain = ResultBackend(Settings(redis_timeout_s=2.0, redis_port=port, redis_host="127.0.0.1", **{
        name: value for name, value in whole.options().items() if "sentinel" not in name}))
    backend.store_id()
    old.freeze()
    whole.wait_for_failover(old)
    for sentinel in whole.sentinels:                    # nobody tells the old one that it is none any more
        sentinel.freeze()
    old.thaw()
    answers = backend.redis.sentinels
    assert answers is not None

    def info(sections: str) -> dict[str, str]:
        said = plain.info(sections)
        alone_at = answers.alone_at(said["run_id"])
        return said | {"sentinels_replicas": str(answers.replicas())} | (
            {} if alone_at is None else {"sentinels_alone_at": repr(alone_at)})

    durability, disk = Durability("auto", info), Durability("aof", info)
    for one in (durability, disk):
        one.durable_before(time.monotonic())
    plain.submit(entries(5))
    written = time.monotonic()
    durability.note(written)
    disk.note(written)
    wait_for(lambda: disk.durable_before(time.monotonic()) >= written, 10, "its disk to have it")
    assert durability.durable_before(time.monotonic()) < written
    assert plain.info("replication")["role"] == "master", "it still thought that it was"
    plain.close()


# ---- Sentinels that are away (once frozen they decide nothing for half a minute) ------------------------------------
@pytest.mark.parametrize("down", [1, 2])
def test_sentinels_that_are_down_or_frozen_delay_nobody(whole: RedisGroup, down: int) -> None:
    whole.sentinels[0].freeze()
    if down == 2:
        whole.sentinels[1].kill()
    backend = ResultBackend(Settings(**whole.options()))
    began = time.monotonic()
    backend.store_id()
    assert time.monotonic() - began < (0.7 if down == 1 else 1.7)      # two that agree are enough; else a second
    backend.close()


def test_no_sentinel_at_all_is_a_typed_error_in_time(whole: RedisGroup) -> None:
    for sentinel in whole.sentinels:
        sentinel.freeze()
    backend = ResultBackend(Settings(**whole.options()))
    began = time.monotonic()
    with pytest.raises(RedisConnectionError, match="no Sentinel tells where Redis is") as caught:
        backend.store_id(timeout_s=1.5)
    assert time.monotonic() - began < 3
    assert caught.value.retryable
    before = threading.active_count()
    for _ in range(5):
        with pytest.raises(RedisConnectionError):
            backend.store_id(timeout_s=0.3)
    assert threading.active_count() <= before + len(whole.sentinels)
    backend.close()


# ---- being refused ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("wrong", "says"), [
    ({"redis_password": "wrong"}, "refuses this user or password"),
    ({"redis_sentinel_password": "wrong"}, "refuses redis_sentinel_username or redis_sentinel_password"),
    ({"redis_sentinel_username": "", "redis_sentinel_password": ""}, "refuses redis_sentinel_username"),
    ({"redis_ssl_ca_file": ""}, r"not signed by an authority that we trust \(redis_ssl_ca_file\)"),
    ({"redis_sentinel_master": "other"}, "watches no primary called 'other'"),
    ({"redis_ssl": False, "redis_ssl_ca_file": ""}, "REDIS_CONNECTION_ERROR"),
])
def test_who_is_refused_is_told_why_at_once(whole: RedisGroup, wrong: dict[str, object], says: str) -> None:
    backend = ResultBackend(Settings(**(whole.options() | wrong)))
    began = time.monotonic()
    with pytest.raises(RedisConnectionError, match=says) as caught:
        backend.store_id(timeout_s=1.0 if "redis_ssl" in wrong else 30)
    assert time.monotonic() - began < 2.5
    assert isinstance(caught.value, RedisRefused) == ("redis_ssl" not in wrong)
    assert "of-" not in str(caught.value)
    backend.close()


def test_the_name_in_the_certificate_is_looked_at(ca: Authority, tmp_path: Path) -> None:
    elsewhere = RedisGroup(tmp_path, replicas=0, ca=ca)
    server = elsewhere.nodes[0]
    server._tls = ca, ca.sign("elsewhere", "DNS:elsewhere.example")
    server.spawn()
    try:
        secure = {name: value for name, value in elsewhere.options().items() if "sentinel" not in name}
        backend = ResultBackend(Settings(redis_host="127.0.0.1", redis_port=server.port, **secure))
        with pytest.raises(RedisConnectionError, match="its certificate is for another name"):
            wait_for(lambda: tried(backend), 10, "the server to listen")
    finally:
        server.kill()


def tried(backend: ResultBackend) -> bool:
    try:
        backend.store_id(timeout_s=0.1)
    except RedisRefused:
        raise
    except RedisConnectionError:
        return False
    return True


def test_a_restart_reads_everything_back_with_the_documented_users(ca: Authority, tmp_path: Path) -> None:
    """Redis drops from its file what the user `default` may not do, where it is part of a transaction."""
    group = RedisGroup(tmp_path, replicas=0, ca=ca)
    server = group.nodes[0]
    server.start()
    options = {name: value for name, value in group.options().items() if "sentinel" not in name}
    backend = ResultBackend(Settings(**options | {"redis_host": "127.0.0.1", "redis_port": server.port}))
    try:
        tasks = entries(50)
        backend.submit(tasks)
        backend.claim(0, 1, [ClaimEntry(task.id, 0, 0, "addition", NOW) for task in tasks], NOW)
        backend.finish(0, 1, [FinishEntry(task.id, 0, 0, "addition", NOW, "OK", n, NOW, NOW, b"\x01")
                              for n, task in enumerate(tasks)], "w")
        server.kill()
        server.start()
        assert backend.counts()["OK"] == 50
        assert {record.state for record in backend.read([task.id for task in tasks]) if record} == {"OK"}
        with redis.Redis(port=server.port, ssl=True, ssl_ca_certs=str(ca.cert)) as stranger, \
                pytest.raises(redis.AuthenticationError):
            stranger.ping()
    finally:
        backend.close()
        server.kill()


def test_mutual_tls(ca: Authority, tmp_path: Path) -> None:
    own = RedisGroup(tmp_path, replicas=0, ca=ca)
    server = own.nodes[0]
    server.start()
    try:
        with server.connect() as admin:
            admin.config_set("tls-auth-clients", "yes")
        secure = {name: value for name, value in own.options().items() if "sentinel" not in name}
        secure |= {"redis_host": "127.0.0.1", "redis_port": server.port}
        without = ResultBackend(Settings(**secure))
        began = time.monotonic()
        with pytest.raises(RedisRefused, match="refuses our certificate, or wants one that was not given"):
            without.store_id(timeout_s=20)
        assert time.monotonic() - began < 10, "it does not try until the time is over"
        mine = ca.sign("client")
        with_one = ResultBackend(Settings(redis_ssl_cert_file=str(mine.cert), redis_ssl_key_file=str(mine.key),
                                          **secure))
        assert with_one.submit(entries(3)) == ["DONE"] * 3
        with_one.close()
    finally:
        server.kill()


@pytest.mark.parametrize(("option", "content", "says"), [
    ("redis_ssl_ca_file", None, "No such file"), ("redis_ssl_ca_file", "nothing", "holds not certificates in PEM form"),
    ("redis_ssl_cert_file", "nothing", "holds not a certificate and the key")])
def test_a_file_that_is_no_good_is_named(tmp_path: Path, option: str, content: str | None, says: str) -> None:
    file = tmp_path / "file.pem"
    if content is not None:
        file.write_text(content)
    files = {option: str(file)} | ({"redis_ssl_key_file": str(file)} if option == "redis_ssl_cert_file" else {})
    for sentinels in ("", "127.0.0.1:1"):
        backend = ResultBackend(Settings(redis_ssl=True, redis_sentinels=sentinels, **files))
        with pytest.raises(ConfigurationError, match=f"{option}: .*{says}"):
            backend.store_id(timeout_s=5)


def test_the_rights_of_the_documentation_are_those_that_were_used(whole: RedisGroup) -> None:
    """The users of all tests here; and they can't do more: no other keys, no CONFIG, no FLUSHALL."""
    for member, refused in ((whole.primary(), (("GET", "other"), ("CONFIG", "GET", "dir"), ("FLUSHALL",),
                                               ("PUBLISH", "other", "x"), ("KEYS", "*"))),
                            (whole.sentinels[0], (("SENTINEL", "REMOVE", NAME), ("SENTINEL", "RESET", NAME),
                                                  ("SHUTDOWN",)))):
        with redis.Redis(host="127.0.0.1", port=member.port, username="yadtq", password=password("yadtq"), ssl=True,
                         ssl_ca_certs=str(whole.ca.cert) if whole.ca else "") as connection:
            for command in refused:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    connection.execute_command(*command)
