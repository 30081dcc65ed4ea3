"""The ledger under a Redis that forgets: driven step by step against a small Redis with a disk.

The steps are those of a worker (fetch, claim, run, record, sweep) and of the world (fsync, crash back to the last
fsync, wipe). Whatever comes, no id is in two hands at a time, and nothing is passed that Redis would not still know
after a crash at that very moment.
"""
from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from yadtq.result_backend import FinishEntry
from yadtq.task import TaskMessage
from yadtqd.held import Held
from yadtqd.ledger import Ledger, Limits
from yadtqd.offset_tracker import NOT_SETTLED

PARTITIONS = (0, 1)
IDS = "abc"


def held(partition: int, offset: int, task_id: str, size: int = 10) -> Held:
    return Held(partition, offset, TaskMessage(id=task_id, task="t", args=b"", submitted_ms=0), size)


def end_of(one: Held) -> FinishEntry:
    return FinishEntry(one.message.id, 0, 0, "t", 0, "OK", one.offset, 0, 0, b"result")


class UnderAForgetfulRedis(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(dict.fromkeys(PARTITIONS, 0))
        self.redis: set[str] = set()            # ids that have ended
        self.disk: set[str] = set()
        self.to_claim: list[Held] = []
        self.copies: list[Held] = []            # released: claimed without entering
        self.claimed: list[Held] = []
        self.unrecorded: list[Held] = []
        self.log: dict[int, list[str]] = {p: [] for p in PARTITIONS}
        self.ran: list[str] = []
        self.clock, self.durable = 1.0, 0.0
        self.restarted = False                  # Redis was, and the worker has not mended it
        self.known = True                       # False: the worker has noticed, its gate is closed
        self.wiped = False

    # ---- the worker -------------------------------------------------------------------------------------------------
    @rule(partition=st.sampled_from(PARTITIONS), task_id=st.sampled_from(IDS))
    def fetch(self, partition: int, task_id: str) -> None:
        self.log[partition].append(task_id)
        self.to_claim += self.ledger.take([held(partition, len(self.log[partition]) - 1, task_id)])

    @rule()
    def claim(self) -> None:
        if not self.known:
            return                              # the gate is closed
        fresh, self.to_claim = self.to_claim, []
        copies, self.copies = self.copies, []
        done = []
        for one in fresh + copies:
            if one.message.id in self.redis:
                done.append(one)
            elif not one.is_copy or self.ledger.again([one]):
                one.claim_round = self.ledger.round
                self.claimed.append(one)
        self.clock += 1
        if done:
            assert self.ledger.settle(done, self.clock, self.ledger.round)

    @rule(data=st.data())
    def run(self, data: st.DataObject) -> None:
        if self.claimed:
            one = self.claimed.pop(data.draw(st.integers(0, len(self.claimed) - 1)))
            if one.claim_round != self.ledger.round:
                self.to_claim += self.ledger.again([one])
                return
            self.ran.append(one.message.id)
            one.end = end_of(one)
            self.unrecorded.append(one)

    @rule()
    def record(self) -> None:
        if self.known:
            self._record()

    def _record(self) -> None:
        batch, self.unrecorded = self.unrecorded, []
        late = [one for one in batch if one.message.id in self.redis]
        done = [one for one in batch if one not in late]
        self.redis |= {one.message.id for one in done}
        self.clock += 1
        if done:
            assert self.ledger.settle(done, self.clock, self.ledger.round)
        for one in late:
            one.end = None
        self.to_claim += self.ledger.again(late)

    @rule()
    def sweep(self) -> None:
        if self.known:
            moved, released = self.ledger.sweep(self.durable)
            self.copies += released
            for partition, position in moved.items():
                assert self.wiped or set(self.log[partition][:position]) <= self.disk

    @rule()
    def mend(self) -> None:
        if not self.known:
            rewrite, reclaim = self.ledger.reopen()
            self.unrecorded = rewrite + self.unrecorded
            self._record()
            self.to_claim += self.ledger.again(reclaim)
            self.known, self.restarted = True, False

    # ---- the world --------------------------------------------------------------------------------------------------
    @rule()
    def fsync(self) -> None:
        self.disk = set(self.redis)
        if self.restarted:
            self.known = False                  # it looks for what is durable, and sees another run id
        else:
            self.durable = self.clock + 0.5
            self.clock += 1

    @rule(wipe=st.booleans())
    def crash(self, wipe: bool) -> None:
        self.redis = set() if wipe else set(self.disk)
        self.disk = set(self.redis)
        self.wiped = self.wiped or wipe
        self.restarted = True

    @rule()
    def notice(self) -> None:
        if self.restarted:
            self.known = False

    # ---- what must hold ---------------------------------------------------------------------------------------------
    @invariant()
    def one_hand_per_id(self) -> None:
        running = [one.message.id for one in self.claimed if one.claim_round == self.ledger.round]
        running += [one.message.id for one in self.unrecorded]
        assert len(running) == len(set(running))

    @invariant()
    def an_end_in_memory_is_enough(self) -> None:
        if not self.wiped:                      # a wipe may bring a copy of what was committed long ago to life
            assert len(self.ran) == len(set(self.ran))

    def teardown(self) -> None:
        """In a healthy system all of it ends."""
        for _ in range(20):
            for step in (self.notice, self.mend, self.claim):
                step()
            while self.claimed:
                one = self.claimed.pop()
                if one.claim_round != self.ledger.round:
                    self.to_claim += self.ledger.again([one])
                    continue
                one.end = end_of(one)
                self.unrecorded.append(one)
            self._record()
            self.fsync()
            self.sweep()
        assert self.ledger.open == 0
        assert not self.ledger.unsure()
        assert {p: self.ledger.next_offset(p) for p in PARTITIONS} == {p: len(log) for p, log in self.log.items()}
        assert {p: self.ledger.waiting(p, len(log)) for p, log in self.log.items()} == dict.fromkeys(self.log, 0)
        assert self.ledger._bytes == 0
        assert not self.ledger._in_hand


TestUnderAForgetfulRedis = UnderAForgetfulRedis.TestCase
TestUnderAForgetfulRedis.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


def test_what_was_answered_before_a_restart_counts_for_nothing() -> None:
    ledger = Ledger({0: 0})
    one = held(0, 0, "a")
    ledger.take([one])
    before = ledger.round
    ledger.reopen()
    assert not ledger.settle([one], 1.0, before)
    assert one.settled_at == NOT_SETTLED
    assert ledger.open == 1


def test_of_released_copies_only_one_may_run() -> None:
    """Redis was wiped after the end was durable and passed: both copies are told to run."""
    ledger = Ledger({0: 0})
    first, *copies = (held(0, n, "a") for n in range(3))
    assert ledger.take([first, *copies]) == [first]
    first.end = end_of(first)
    assert ledger.settle([first], 1.0, ledger.round)
    assert ledger.sweep(1.0) == ({}, [])             # not yet durable: they wait
    assert ledger.sweep(2.0) == ({0: 1}, copies)
    assert [one.is_copy for one in copies] == [True, True]
    assert ledger.again([copies[0]]) == [copies[0]]
    assert ledger.again([copies[1]]) == []           # it waits for the other
    copies[0].end = end_of(copies[0])
    ledger.settle([copies[0]], 3.0, ledger.round)
    assert ledger.sweep(4.0) == ({0: 2}, [copies[1]])


def test_it_is_full_by_count_and_by_bytes() -> None:
    ledger = Ledger({0: 0}, Limits(uncommitted=2, uncommitted_bytes=1000))
    ledger.take([held(0, 0, "a"), held(0, 1, "b")])
    assert not ledger.full()
    ledger.take([held(0, 2, "c")])
    assert ledger.full()
    heavy = Ledger({0: 0}, Limits(uncommitted=100, uncommitted_bytes=1000))
    one = held(0, 0, "a", size=900)
    heavy.take([one])
    one.end = end_of(one)._replace(result=b"x" * 200)
    assert not heavy.full()
    heavy.settle([one], 1.0, heavy.round)
    assert heavy.full()
    heavy.sweep(2.0)
    assert not heavy.full()


def test_a_log_that_begins_later_is_followed() -> None:
    ledger = Ledger({0: 5})
    ledger.take([held(0, 5, "a")])
    ledger.skip(0, 100)
    assert ledger.next_offset(0) == 100
    ledger.take([held(0, 100, "b")])
    assert ledger.sweep(9.0) == ({}, [])
