"""What heartbeats tell: who is expired, when it is an outage of Kafka instead, and what has changed."""
from __future__ import annotations

import time

from yadtq.config import Settings
from yadtq.health import MOST_RECORDS, Beat, HealthReader, WorkersHealth, judge
from yadtq.heartbeat import Heartbeat, encode_heartbeat
from yadtq.monitor import ChangeKind, changes
from yadtq.transport import Record

NOW_MS = 1_760_000_000_000


def beat(worker: str, age_s: float = 1.0, state: str = "RUNNING", **fields: object) -> tuple[str, Beat]:
    at_ms = NOW_MS - round(age_s * 1000)
    given = {"pid": 100, "epoch": 1, "interval_s": 5.0, "expires_after_s": 15.0} | fields
    return worker, Beat(Heartbeat(worker_id=worker, host="h", state=state, sent_ms=at_ms, **given), at_ms)


def look(*beats: tuple[str, Beat], **options: float) -> WorkersHealth:
    return judge(dict(beats), NOW_MS, **options)


def kinds(before: WorkersHealth, after: WorkersHealth) -> list[tuple[str, str | None]]:
    return [(change.kind.value, change.worker and change.worker.worker_id) for change in changes(before, after)]


def test_a_worker_is_expired_after_its_own_threshold_and_shown_so():
    young, old = look(beat("h/w0", 14.9), beat("h/w1", 15.1))
    assert (young.expired, young.alive, old.expired, old.alive) == (False, True, True, False)
    assert old.age_s == 15.1


def test_who_said_goodbye_is_not_missed():
    stopped, exited = look(beat("h/w0", 600, "STOPPED"), beat("h/w1", 600, "EXITED"))
    assert not stopped.expired
    assert not exited.expired
    assert not stopped.alive


def test_workers_beyond_the_window_are_not_shown_and_the_others_stand_in_natural_order():
    assert [one.worker_id for one in look(beat("h/w10"), beat("h/w2"), beat("g/w0"), beat("h/w1", 61), window_s=60)] \
        == ["g/w0", "h/w2", "h/w10"]


def test_when_nobody_of_several_is_heard_of_it_is_an_outage():
    assert look(beat("h/w0", 20), beat("h/w1", 30)).broker_outage
    assert not look(beat("h/w0", 20), beat("h/w1", 3)).broker_outage
    assert not look(beat("h/w0", 20)).broker_outage                         # one alone may simply have died
    assert not look(beat("h/w0", 20), beat("h/w1", 300, "STOPPED")).broker_outage
    assert not look().broker_outage


def test_silence_during_an_outage_is_held_against_nobody():
    late, = look(beat("h/w0", 60), heard_since_ms=NOW_MS - 10_000)
    assert not late.expired
    late, = look(beat("h/w0", 60), heard_since_ms=NOW_MS - 16_000)
    assert late.expired


def test_a_clock_ahead_of_ours_gives_no_negative_age():
    ahead, = look(beat("h/w0", -30))
    assert ahead.age_s == 0.0
    assert not ahead.expired


def test_changes_from_look_to_look():
    nobody = look()
    running, quiet = look(beat("h/w0"), beat("h/w1")), look(beat("h/w0"), beat("h/w1", 20))
    assert kinds(nobody, running) == [("STARTED", "h/w0"), ("STARTED", "h/w1")]
    assert kinds(running, running) == []
    assert kinds(running, quiet) == [("EXPIRED", "h/w1")]
    assert kinds(quiet, quiet) == []
    assert kinds(quiet, running) == [("RECOVERED", "h/w1")]
    assert kinds(quiet, look(beat("h/w0"), beat("h/w1", pid=200, epoch=2))) == [("RESTARTED", "h/w1")]
    stopped = look(beat("h/w0"), beat("h/w1", 2, "STOPPED"))
    assert kinds(running, stopped) == [("STOPPED", "h/w1")]
    assert kinds(stopped, running) == [("STARTED", "h/w1")]
    assert kinds(running, look(beat("h/w0", state="STOPPING"), beat("h/w1"))) == [("STATE", "h/w0")]


def test_an_outage_is_one_change_and_not_the_death_of_everybody():
    running, silent = look(beat("h/w0"), beat("h/w1")), look(beat("h/w0", 20), beat("h/w1", 20))
    assert kinds(running, silent) == [("OUTAGE", None)]
    assert kinds(silent, silent) == []
    assert kinds(silent, running) == [("OUTAGE_OVER", None)]
    assert kinds(silent, look(beat("h/w0"), beat("h/w1", 20))) == [("OUTAGE_OVER", None), ("EXPIRED", "h/w1")]
    assert changes(running, silent)[0].kind is ChangeKind.OUTAGE


class Topic:
    """A heartbeat topic with very many records, of which the last ones are real."""

    def __init__(self, end: int) -> None:
        self.end, self.assigned = end, -1

    def admin(self, *_: object) -> Topic:
        return self

    def consumer(self, *_: object) -> Topic:
        return self

    def end_offsets(self, _: str) -> dict[int, int]:
        return {0: self.end}

    def offsets_at(self, _: str, since_ms: int) -> dict[int, int]:
        return {0: 7}

    def assign(self, _: str, offsets: dict[int, int]) -> None:
        self.assigned = offsets[0]

    def poll(self, *_: object) -> list[Record]:
        name, one = beat("h/w0", 0.0)
        return [Record(0, self.end - 1, name.encode(), encode_heartbeat(one.heartbeat), int(time.time() * 1000))]


def test_the_first_look_reads_a_bounded_number_of_heartbeats():
    for end, begin in ((1000, 7), (5_000_000, 5_000_000 - MOST_RECORDS)):
        topic = Topic(end)
        workers = HealthReader(Settings(), topic, 5.0).read()       # type: ignore[arg-type]
        assert [worker.worker_id for worker in workers] == ["h/w0"]
        assert topic.assigned == begin
