"""The timing wheel against logs in memory: never early, to the millisecond when looked at in time, nothing lost."""
from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from yadtq.delayed import LEVELS, SHORT, WIDTHS_MS, DelayedTask, encode_delayed, level_of
from yadtqd import wheel as wheels
from yadtqd.wheel import NARROWEST_MS, Fire, Hop, Refuse, Wheel, where_to

DAY_MS = 86_400_000
START_MS = 1_700_000_000_000


def record(due_ms: int, name: bytes = b"", value: bytes = b"") -> bytes:
    return encode_delayed(DelayedTask(due_ms=due_ms, partition=0, key=name, value=value))


@dataclass
class World:
    """The delayed topic, and schedulers of which one works at a time."""

    logs: list[list[tuple[bytes, int]]] = field(default_factory=lambda: [[] for _ in range(LEVELS)])
    committed: list[int] = field(default_factory=lambda: [0] * LEVELS)
    fired: dict[bytes, list[int]] = field(default_factory=dict)
    refused: int = 0
    hops: int = 0
    wheel: Wheel = field(default_factory=Wheel)
    read: list[int] = field(default_factory=lambda: [0] * LEVELS)

    def __post_init__(self) -> None:
        self.restart()

    def put(self, due_ms: int, now_ms: int, name: bytes) -> None:
        self.logs[level_of(due_ms - now_ms)].append((record(due_ms, name), now_ms))

    def restart(self) -> None:
        """A successor: all that it knows is what was committed."""
        self.wheel, self.read = Wheel(), list(self.committed)
        for level in range(LEVELS):
            self.wheel.gain(level)

    def look(self, now_ms: int, fails: Callable[[], bool] | None = None) -> None:
        """One turn of a scheduler; `fails` is asked for each move whether its acknowledgement is lost."""
        for level, log in enumerate(self.logs):
            while self.read[level] < len(log) and self.wheel.levels[level].wants_more():
                value, entered_ms = log[self.read[level]]
                self.wheel.take(level, self.read[level], b"id", value, entered_ms, now_ms)
                self.read[level] += 1
        for move in self.wheel.turn(now_ms, 1000):
            if isinstance(move, Fire):
                assert move.delayed.key is not None
                self.fired.setdefault(move.delayed.key, []).append(now_ms)
            elif isinstance(move, Hop):
                self.hops += 1
                self.logs[move.level].append((move.entry.value, now_ms))
            else:
                self.refused += 1
            if fails is not None and fails():
                self.wheel.again(move.entry)
            else:
                self.wheel.done(move.entry)

    def commit(self) -> None:
        for level, position in self.wheel.positions().items():
            assert position >= self.committed[level]
            self.committed[level] = position

    def waiting(self) -> int:
        return sum(len(log) - at for log, at in zip(self.logs, self.committed, strict=True))


delays = st.one_of(st.integers(0, 3000), st.integers(0, 100_000), st.integers(0, 400 * DAY_MS))
tasks = st.lists(st.tuples(delays, st.integers(0, 20_000)), max_size=12)


@given(tasks)
@example([(1999, 0), (1000, 500)])
@example([(9 * WIDTHS_MS[-1], 0), (NARROWEST_MS, 1), (NARROWEST_MS - 1, 2)])
def test_in_time_every_task_is_fired_once_and_to_the_millisecond(given_tasks: list[tuple[int, int]]) -> None:
    world = World()
    coming = sorted((START_MS + after, delay, b"%d" % n) for n, (delay, after) in enumerate(given_tasks))
    due = {name: at + delay for at, delay, name in coming}
    now_ms = START_MS
    for _ in range(20_000):
        while coming and coming[0][0] <= now_ms:
            at, delay, name = coming.pop(0)
            world.put(at + delay, now_ms, name)
        world.look(now_ms)
        nothing = now_ms + 10 * WIDTHS_MS[-1]
        if world.logs != [[]] * LEVELS and any(r < len(log) for r, log in zip(world.read, world.logs, strict=True)):
            continue                                    # a hop is to be read at once
        now_ms = min([world.wheel.next_ms(nothing), *[one[0] for one in coming[:1]]])
        if now_ms == nothing:
            break
    assert {name: at[0] for name, at in world.fired.items()} == due
    assert all(len(at) == 1 for at in world.fired.values())
    world.commit()
    assert world.waiting() == 0
    assert world.hops <= len(due) * 8 * len(WIDTHS_MS)


@given(tasks, st.randoms(use_true_random=False))
def test_through_deaths_and_lost_answers_nothing_is_lost_or_early(given_tasks: list[tuple[int, int]],
                                                                  chance: random.Random) -> None:
    world = World()
    due = {}
    now_ms = START_MS
    for n, (delay, _) in enumerate(given_tasks):
        name = b"%d" % n
        due[name] = now_ms + delay
        world.put(due[name], now_ms, name)
    for _ in range(3000):
        if not world.waiting():
            break
        now_ms = max(now_ms + 1, min(world.wheel.next_ms(now_ms + 1000) + chance.randrange(3000),
                                     now_ms + 40 * DAY_MS))
        world.look(now_ms, fails=lambda: chance.random() < 0.2)
        if chance.random() < 0.5:
            world.commit()
        if chance.random() < 0.2:
            world.restart()
        if not any(len(log) > at for log, at in zip(world.logs, world.read, strict=True)):
            now_ms = max(now_ms, min(world.wheel.next_ms(now_ms + 1), now_ms + 40 * DAY_MS))
    for _ in range(2000):                               # now all goes well
        if not world.waiting():
            break
        world.look(now_ms)
        world.commit()
        now_ms = max(now_ms + 1, world.wheel.next_ms(now_ms + 1))
    assert world.waiting() == 0
    assert set(world.fired) == set(due)
    assert all(min(at) >= due[name] for name, at in world.fired.items())


def test_where_the_head_of_a_level_goes() -> None:
    now = START_MS
    assert where_to(0, now + NARROWEST_MS - 1, now, now) == SHORT        # the heap, however short it has lain
    assert where_to(0, now - 1, now, now) == SHORT
    assert where_to(1, now + 20_000, now - 7999, now) is None
    assert where_to(1, now + 20_000, now - 8000, now) == 1
    assert where_to(1, now + 7999, now - 8000, now) == 0
    assert where_to(0, now + 1_000_000, now - 8000, now) == level_of(1_000_000)     # only `due` decides
    assert where_to(SHORT, now + 20_000, now, now) == 1                  # a client whose clock is ahead


def test_a_clock_that_is_ahead_holds_up_a_level_for_its_width_at_most() -> None:
    world = World()
    world.logs[1].append((record(START_MS + 10_000, b"a"), START_MS + 3_600_000))
    world.logs[1].append((record(START_MS + 10_000, b"b"), START_MS))
    for now_ms in range(START_MS, START_MS + 10_001, 100):
        world.look(now_ms)
    assert world.fired == {b"a": [START_MS + 10_000], b"b": [START_MS + 10_000]}


def test_what_is_no_delayed_task_is_refused_and_the_rest_goes_on() -> None:
    world = World()
    world.logs[SHORT] += [(b"rubbish", START_MS), (b"", START_MS), (record(START_MS, b"good"), START_MS)]
    world.look(START_MS)
    world.commit()
    assert world.refused == 2
    assert world.fired == {b"good": [START_MS]}
    assert world.committed[SHORT] == 3


def test_a_newer_version_waits_and_its_level_with_it() -> None:
    world = World()
    newer = msgspec.msgpack.encode([99, START_MS, 0, None, b"", "?"])
    world.logs[SHORT] += [(newer, START_MS), (record(START_MS, b"behind it"), START_MS)]
    world.logs[0].append((record(START_MS, b"elsewhere"), START_MS))
    world.look(START_MS)
    world.commit()
    assert "upgrade" in world.wheel.levels[SHORT].newer
    assert world.fired == {b"elsewhere": [START_MS]}
    assert world.committed[SHORT] == 0


def test_memory_is_bounded_and_what_does_not_fit_is_fired_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "HEAP_RECORDS", 50)
    monkeypatch.setattr(wheels, "LEVEL_RECORDS", 100)
    monkeypatch.setattr(wheels, "OPEN_RECORDS", 400)
    world = World()
    world.logs[SHORT] = [(record(START_MS + 900 - n, b"%d" % n), START_MS) for n in range(900)]
    ahead = in_hand = passed = 0
    for now_ms in range(START_MS, START_MS + 3000):
        world.look(now_ms)
        level = world.wheel.levels[SHORT]
        ahead = max(ahead, len(level.ahead))
        in_hand = max(in_hand, sum(not entry.done for entry in level.open))
        passed = max(passed, len(level.open))
        world.commit()
    assert len(world.fired) == 900
    assert ahead <= 100
    assert in_hand <= 50
    assert passed <= 400


def test_a_record_behind_is_a_log_made_anew_and_what_is_in_hand_of_the_old_one_is_forgotten() -> None:
    wheel = Wheel()
    wheel.gain(SHORT)
    for offset in (1000, 1001):
        wheel.take(SHORT, offset, b"id", record(START_MS, b"%d" % offset), START_MS, START_MS)
    old = wheel.turn(START_MS, 1)[0].entry
    wheel.take(SHORT, 0, b"id", record(START_MS, b"new"), START_MS, START_MS)
    moves = wheel.turn(START_MS, 10)
    assert [move.delayed.key for move in moves if isinstance(move, Fire)] == [b"new"]
    wheel.done(old)
    wheel.again(old)
    assert wheel.positions() == {SHORT: 0}
    wheel.done(moves[0].entry)
    assert wheel.positions() == {SHORT: 1}


def test_a_lost_level_is_forgotten() -> None:
    wheel = Wheel()
    wheel.gain(0)
    wheel.gain(SHORT)
    wheel.take(0, 0, b"id", record(START_MS + 10, b"a"), START_MS, START_MS)
    wheel.take(SHORT, 0, b"id", record(START_MS + 10, b"b"), START_MS, START_MS)
    assert wheel.turn(START_MS, 10) == []
    wheel.lose(0)
    assert [move.delayed.key for move in wheel.turn(START_MS + 10, 10) if isinstance(move, Fire)] == [b"b"]
    assert set(wheel.positions()) == {SHORT}
    wheel.take(0, 1, b"id", record(START_MS + 10, b"c"), START_MS, START_MS)      # read just before
    assert wheel.turn(START_MS + 10, 10) == []


def test_what_kafka_never_takes_is_refused_at_its_next_turn() -> None:
    from yadtq.errors import PayloadTooLarge

    wheel = Wheel()
    wheel.gain(SHORT)
    wheel.take(SHORT, 0, b"id", record(START_MS, b"a"), START_MS, START_MS)
    move = wheel.turn(START_MS, 10)[0]
    move.entry.error = PayloadTooLarge("no", 1, 1)
    wheel.again(move.entry)
    assert wheel.late(START_MS) == 1
    assert isinstance(wheel.turn(START_MS, 10)[0], Refuse)


def test_many_hops_do_not_hold_up_what_is_due_in_a_moment() -> None:
    wheel = Wheel()
    wheel.gain(1)
    wheel.gain(SHORT)
    for offset in range(100):
        wheel.take(1, offset, b"id", record(START_MS + 20_000, b"later"), START_MS - 8000, START_MS)
    wheel.take(SHORT, 0, b"id", record(START_MS + 1, b"soon"), START_MS, START_MS)
    assert all(isinstance(move, Hop) for move in wheel.turn(START_MS, 10))
    first = wheel.turn(START_MS + 1, 10)[0]
    assert isinstance(first, Fire)
    assert first.delayed.key == b"soon"
