"""When what was written to Redis counts as safe: the rule itself, look by look, with a clock of the test's own."""
from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtq.durability import LOOK_S, SETTLE_S, Durability, Look, look_from, safe_until

GOOD = {"run_id": "one", "aof_enabled": "1", "aof_pending_bio_fsync": "0", "aof_last_write_status": "ok"}


class Info:
    """Answers INFO, counts how often."""

    def __init__(self, **fields: str) -> None:
        self.fields, self.asked = GOOD | fields, 0

    def __call__(self, _sections: str) -> dict[str, str]:
        self.asked += 1
        return self.fields


def test_two_seconds_and_a_good_look_make_a_write_safe() -> None:
    info = Info()
    durability = Durability("auto", info)
    durability.durable_before(100.0)
    durability.note(100.0)
    assert durability.durable_before(101.9) < 100.0
    assert durability.durable_before(102.5) >= 100.0


@pytest.mark.parametrize("bad", [{"aof_pending_bio_fsync": "1"}, {"aof_last_write_status": "err"}])
def test_nothing_becomes_safe_while_the_disk_is_behind(bad: dict[str, str]) -> None:
    info = Info(**bad)
    durability = Durability("auto", info)
    durability.note(100.0)
    assert durability.durable_before(1000.0) < 100.0
    info.fields = GOOD
    assert durability.durable_before(1001.0) >= 100.0


def test_redis_is_asked_only_now_and_then_and_not_at_all_when_everything_is_safe() -> None:
    info = Info()
    durability = Durability("auto", info)
    durability.note(0.0)
    for step in range(1000):
        durability.durable_before(step * 0.001)
    assert info.asked == 1 + int(1.0 / LOOK_S) - 1
    durability.durable_before(10.0)
    asked = info.asked
    for step in range(100):
        durability.durable_before(20.0 + step)
    assert info.asked == asked


def test_after_a_restart_nothing_is_safe_until_it_was_written_again() -> None:
    info = Info()
    durability = Durability("auto", info)
    durability.durable_before(0.0)
    durability.note(10.0)
    info.fields = GOOD | {"run_id": "two"}
    assert durability.durable_before(13.0) < 10.0
    assert durability.restarted
    assert durability.durable_before(60.0) < 10.0, "time alone proves nothing about what was lost"
    durability.rewritten()
    durability.note(61.0)
    assert durability.durable_before(64.0) >= 61.0
    assert not durability.restarted


def test_what_was_safe_before_a_restart_stays_safe() -> None:
    info = Info()
    durability = Durability("auto", info)
    durability.note(10.0)
    safe = durability.durable_before(20.0)
    durability.note(21.0)
    info.fields = GOOD | {"run_id": "two"}
    assert durability.durable_before(22.0) == safe


def test_off_is_off() -> None:
    info = Info(aof_enabled="0")
    durability = Durability("off", info)
    durability.note(5.0)
    assert durability.durable_before(5.0) == 5.0
    assert durability.durable_before(50.0) == 50.0
    assert info.asked == 1, "once, to know the process: else its first restart would not be seen"
    info.fields = info.fields | {"run_id": "two"}
    durability.look(60.0)
    assert durability.restarted


def test_auto_without_a_file_warns_once_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    durability = Durability("auto", Info(aof_enabled="0"))
    with caplog.at_level(logging.WARNING):
        for second in range(5):
            durability.note(float(second))
            assert durability.durable_before(float(second)) == second
    assert len(caplog.records) == 1


def test_aof_without_a_file_never_commits() -> None:
    durability = Durability("aof", Info(aof_enabled="0"))
    durability.note(1.0)
    assert durability.durable_before(1000.0) < 1.0


def replicated(master: int, *replicas: tuple[str, int]) -> dict[str, str]:
    return GOOD | {"master_repl_offset": str(master)} | {
        f"slave{n}": f"ip=1.2.3.4,port=1,state={state},offset={offset},lag=0" for n, (state, offset) in
        enumerate(replicas)}


def test_a_write_is_on_a_replica_once_that_has_come_so_far() -> None:
    """A replica may say each second (lag=0) that it is far behind."""
    info = Info()
    durability = Durability("replica", info)
    for now, fields, safe in [
            (100.0, replicated(500, ("online", 400), ("wait_bgsave", 900)), float("-inf")),
            (101.0, replicated(600, ("online", 450)), float("-inf")),
            (102.0, replicated(700, ("online", 499)), float("-inf")),
            (103.0, replicated(800, ("online", 500)), 100.0),
            (104.0, replicated(900, ("online", 120), ("online", 700)), 102.0),
            (105.0, replicated(900), 102.0),
            (106.0, replicated(900, ("online", 900)), 106.0)]:
        info.fields = fields
        durability.note(now)
        assert durability.durable_before(now) == safe
    assert safe_until("replica", look_from(GOOD, 100.0)) is None


def watched(known: int, alone_at: float | None, *offsets: int, master: int = 1000) -> dict[str, str]:
    """INFO of a primary that Sentinels watch: so many replicas are known, these are online."""
    alone = {} if alone_at is None else {"sentinels_alone_at": repr(alone_at)}
    return replicated(master, *[("online", offset) for offset in offsets]) | {"sentinels_replicas": str(known)} | alone


def test_with_sentinels_a_write_must_be_on_disk_and_on_a_replica() -> None:
    info = Info()
    durability = Durability("auto", info)
    for now, fields, safe in [
            (100.0, watched(1, None, 400, master=500), float("-inf")),      # the replica is behind
            (101.0, watched(1, None, 500, master=600), 99.0),               # it has what there was at 100.0; the disk
            (103.0, watched(1, None, 600, master=700), 101.0),              # ... has what is 2 s old: the older counts
            (104.0, watched(1, None), 101.0),                               # no replica: nothing is proved
            (105.0, watched(1, None, 100), 101.0)]:                         # nor by one that begins anew
        info.fields = fields
        durability.note(now)
        assert durability.durable_before(now) == safe


@pytest.mark.parametrize(("known", "online", "safe"), [
    (0, (1000,), True), (1, (1000,), True), (2, (1000,), True), (2, (1000, 10), True), (3, (1000,), False),
    (3, (1000, 10), False), (3, (1000, 1000), True), (4, (1000, 1000, 5), True), (4, (1000, 999), False),
    (1, (), False)])
def test_primary_and_the_replicas_that_have_it_must_be_most_of_all(known: int, online: tuple[int, ...],
                                                                   safe: bool) -> None:
    """Any side of a partition that elects a primary then has a replica with the write."""
    look = look_from(watched(known, None, *online), 100.0)
    assert (safe_until("auto", look) is not None) == safe


def test_while_no_replica_could_take_over_the_disk_alone_counts(caplog: pytest.LogCaptureFixture) -> None:
    info = Info(**watched(1, 90.0))
    durability = Durability("auto", info)
    durability.note(100.0)
    with caplog.at_level(logging.INFO):
        assert durability.durable_before(100.0) == 90.0, "what is later than the Sentinels' word is not covered by it"
        info.fields = watched(1, 104.0)
        assert durability.durable_before(104.5) == 102.5
        info.fields = watched(1, 104.0, 1000)
        durability.note(110.0)
        assert durability.durable_before(112.0) == 110.0
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert safe_until("replica", look_from(watched(1, 104.0), 104.5)) is None, "who asks for a replica means it"
    assert safe_until("aof", look_from(watched(1, None), 104.5)) == 102.5, "and who asks for the disk gets that"


def test_a_failover_shows_though_the_process_is_one_that_we_knew() -> None:
    """A frozen primary that was replaced, made a replica, and is primary again is the same process with other data."""
    info = Info(master_replid="first")
    durability = Durability("auto", info)
    durability.durable_before(0.0)
    durability.note(1.0)
    info.fields = GOOD | {"master_replid": "second"}
    durability.durable_before(1.0)
    assert durability.restarted


LOOKS = st.tuples(st.floats(0, 2), st.booleans(), st.booleans(), st.sampled_from(["one", "two"]), st.booleans())


@given(st.lists(LOOKS))
def test_no_write_is_ever_called_safe_before_two_quiet_seconds_of_the_same_process(
        steps: list[tuple[float, bool, bool, str, bool]]) -> None:
    """Whatever Redis says, what it calls safe was written two seconds before a good look of an unbroken run."""
    durability, now, good_looks, run = Durability("auto", Info()), 0.0, [], None
    for passed, pending, ok, run_id, rewritten in steps:
        now += passed
        durability.judge(Look(now, run_id, True, pending, ok, 0))
        if run is not None and run_id != run:
            assert durability.restarted
        run = run_id
        if not durability.restarted and ok and not pending:
            good_looks.append(now)
        safe = durability._safe
        assert safe == float("-inf") or any(safe <= look - SETTLE_S for look in good_looks)
        if rewritten:
            durability.rewritten()
