"""The order of one key as a model: its tasks run in the order of the log, one at a time, whatever happens.

Two tasks, A and B, of one key lie in one partition, A first; A may fail. Start and end of a body are steps of their
own, so that an overlap can be seen. Two workers, either of which may be a zombie; a worker's bodies end with it.

The retry of a keyed task stays at its place in the log: its attempt stands in the record, its offset stays uncommitted,
and a claim of its message is one of the attempt that the record says. So the claim here is that of operations.py, asked
for that attempt.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.model.book import NONE, Answer, Book, Copy
from tests.model.checker import Step
from tests.model.delivery import BODY, CLAIMED, DONE, FETCHED, PUBLISH, put
from tests.model.operations import Token

A, B = 0, 1
NAMES = "AB"


class Rules(NamedTuple):
    """Those about keys; all on is the protocol."""

    lane: bool = True               # 8: a keyed task starts only when all earlier ones of its key have ended
    in_place: bool = True           # 8: a retry stays at its place (off: it is published behind what came later)
    resumed: bool = True            # 8: a claim is one of the attempt that the record says (off: of the message's)
    hand_over_waits: bool = True    # a planned hand-over waits until the old worker's bodies have ended
    killed_first: bool = True       # 4: a partition moves only after the bodies of its old owner were killed


class Scenario(NamedTuple):
    """What may happen."""

    name: str
    rules: Rules = Rules()
    crash: int = 1
    freeze: int = 1
    hand_over: int = 1
    retries: int = 1
    letters: bool = False           # the last attempt may fail, and then owes a dead letter


class Hand(NamedTuple):
    """A task in a worker's hands."""

    offset: int
    copy: Copy
    at: str = FETCHED


class Worker(NamedTuple):
    """A process that is up, frozen, or (with epoch 0) not there."""

    epoch: int = 0
    frozen: bool = False
    position: int = 0
    hands: tuple[Hand, ...] = ()


class State(NamedTuple):
    """Between two steps."""

    records: tuple[int, ...]
    left: tuple[int, ...]                               # crashes, freezes, hand-overs
    log: tuple[Copy, ...] = (Copy(A), Copy(B))
    committed: int = 0
    owner: int = -1
    fence: int = 0
    epoch: int = 0
    workers: tuple[Worker, ...] = (Worker(), Worker())
    running: tuple[tuple[int, int], ...] = ()           # bodies: worker, task
    letter: bool = False
    latest: int = A                                     # the last task of the key that was started
    broken: str = ""


CRASH, FREEZE, HAND_OVER = range(3)


class Keyed:
    """The model of one scenario, for the checker."""

    def __init__(self, scenario: Scenario) -> None:
        self._sc, self._rules, self._book = scenario, scenario.rules, Book()

    def start(self) -> State:
        queued = self._book.submit(NONE, 0, 0).record
        return State((queued, queued), (self._sc.crash, self._sc.freeze, self._sc.hand_over))

    def steps(self, state: State) -> Iterator[Step[State]]:
        if state.broken:
            return
        for number, worker in enumerate(state.workers):
            if worker.frozen:
                yield f"worker{number}: thaws", False, _with(state, number, worker._replace(frozen=False))
                if self._rules.killed_first:
                    yield f"worker{number}: its supervisor kills it, before its lease ends", True, _stop(state, number)
            elif not worker.epoch:
                yield from self._acquire(state, number)
            else:
                yield from self._up(state, number, worker)

    def violation(self, state: State) -> str | None:
        return state.broken or None

    def owed(self, state: State) -> str | None:
        ends = [record.s if record is not None else "" for record in (self._book.records[n] for n in state.records)]
        frozen = any(worker.frozen for worker in state.workers)
        if state.broken or (frozen and (state.owner == -1 or state.workers[state.owner].frozen)):
            return None
        if not all(end in ("OK", "KO") for end in ends):
            return "LOST: a task never ends"
        return "FOLLOWS: the dead letter is never written" if "KO" in ends and not state.letter else None

    # ---- a partition's owner ----------------------------------------------------------------------------------------
    def _acquire(self, state: State, number: int) -> Iterator[Step[State]]:
        fair = True
        if state.owner >= 0:
            old = state.workers[state.owner]
            if old.frozen:
                if self._rules.killed_first:
                    return
            elif state.left[HAND_OVER]:
                if self._rules.hand_over_waits:
                    if any(hand.at in (BODY, PUBLISH) for hand in old.hands):
                        return
                    state = _stop(state, state.owner)
                state, fair = _spend(state, HAND_OVER), False
            else:
                return
        epoch = state.epoch + 1
        after = state._replace(owner=number, epoch=epoch, fence=epoch)
        yield (f"worker{number}: gets the partition in epoch {epoch}, reads from {state.committed}", fair,
               _with(after, number, Worker(epoch, position=state.committed)))

    # ---- a worker's work --------------------------------------------------------------------------------------------
    def _up(self, state: State, number: int, worker: Worker) -> Iterator[Step[State]]:
        if state.left[CRASH]:
            yield f"FAULT: worker{number} dies", False, _spend(_stop(state, number), CRASH)
        if state.left[FREEZE]:
            yield (f"FAULT: worker{number} freezes", False,
                   _spend(_with(state, number, worker._replace(frozen=True)), FREEZE))
        if state.owner != number:
            yield f"worker{number}: learns that it lost the partition, ends", True, _stop(state, number)
        if worker.position < len(state.log) and sum(hand.at != DONE for hand in worker.hands) < 2:
            copy = state.log[worker.position]
            hands = (*worker.hands, Hand(worker.position, copy))
            yield (f"worker{number}: fetches @{worker.position}, {NAMES[copy.task]}", True,
                   _with(state, number, worker._replace(position=worker.position + 1, hands=hands)))
        for at, hand in enumerate(worker.hands):
            yield from self._hand(state, number, at, hand)
        passed = 0
        while passed < len(worker.hands) and worker.hands[passed].at == DONE:
            passed += 1
        if passed and state.owner == number:
            position = worker.hands[passed - 1].offset + 1
            yield (f"worker{number}: is committed up to {position}", True,
                   _with(state._replace(committed=position), number, worker._replace(hands=worker.hands[passed:])))

    def _hand(self, state: State, number: int, at: int, hand: Hand) -> Iterator[Step[State]]:
        others = state.workers[number].hands
        waits = any(other.copy.task == hand.copy.task and other.at not in (FETCHED, DONE) for other in others)
        if hand.at == FETCHED and not waits:
            yield self._claim(state, number, at, hand)
        elif hand.at == CLAIMED and state.owner == number:
            if not (self._rules.lane and any(other.offset < hand.offset and other.at != DONE for other in others)):
                yield self._begin(state, number, at, hand)
        elif hand.at == BODY:
            for how in self._ends(hand):
                yield self._end(state, number, at, hand, how)
        elif hand.at == PUBLISH and state.owner == number:
            yield (f"worker{number}: publishes the dead letter of {NAMES[hand.copy.task]}", True,
                   _to(state._replace(letter=True), number, at, DONE))

    def _ends(self, hand: Hand) -> tuple[str, ...]:
        if hand.copy.task != A or (hand.copy.n >= self._sc.retries and not self._sc.letters):
            return ("OK",)
        return ("OK", "R") if hand.copy.n < self._sc.retries else ("OK", "KO")

    def _claim(self, state: State, number: int, at: int, hand: Hand) -> Step[State]:
        epoch, copy = state.workers[number].epoch, hand.copy
        record = self._book.records[state.records[copy.task]]
        if record is not None and self._rules.in_place and self._rules.resumed:
            copy = copy._replace(n=max(copy.n, record.a))
        answer = self._book.claim(state.records[copy.task], 0, state.fence, Token(0, epoch), copy, hand.offset)
        after, word = _keep(state, copy.task, answer), answer.word
        if word in ("RUN", "SUSPECT"):
            after = _to(after, number, at, CLAIMED, copy)
        elif word == "STALE":
            after = _stop(after, number)
        elif word == "SETTLE":
            after = self._settle(after, number, at, copy, answer)
        else:
            after = _to(after, number, at, DONE)
        return f"worker{number}: claims attempt {copy.n} of {NAMES[copy.task]} -> {word}", True, after

    def _settle(self, state: State, number: int, at: int, copy: Copy, answer: Answer) -> State:
        found = self._book.records[answer.record]
        if found is not None and found.s == "R":            # (only without `in_place`, or without `resumed`)
            return _to(state._replace(log=(*state.log, copy._replace(n=found.a))), number, at, DONE)
        owes = self._sc.letters and found is not None and found.s == "KO"
        return _to(state, number, at, PUBLISH if owes else DONE)

    def _begin(self, state: State, number: int, at: int, hand: Hand) -> Step[State]:
        task, broken = hand.copy.task, ""
        if state.running:
            broken = f"ORDER: {NAMES[task]} starts while {NAMES[state.running[0][1]]} runs"
        elif task < state.latest:
            broken = "ORDER: A starts after B did"
        after = state._replace(running=(*state.running, (number, task)), latest=max(state.latest, task), broken=broken)
        return f"worker{number}: {NAMES[task]} attempt {hand.copy.n} starts", True, _to(after, number, at, BODY)

    def _end(self, state: State, number: int, at: int, hand: Hand, how: str) -> Step[State]:
        epoch, copy = state.workers[number].epoch, hand.copy
        answer = self._book.finish(state.records[copy.task], 0, state.fence, Token(0, epoch), copy, hand.offset, how)
        label = f"worker{number}: {NAMES[copy.task]} attempt {copy.n} ends {how} -> {answer.word}"
        if answer.word == "STALE":
            return label, True, _stop(state, number)
        running = tuple(one for one in state.running if one != (number, copy.task))
        after = _keep(state, copy.task, answer)._replace(running=running)
        if answer.word == "LATE":
            return label, True, _to(after, number, at, FETCHED)
        if how == "R" and self._rules.in_place:
            return label, True, _to(after, number, at, FETCHED)     # it waits here until it is due, then is claimed
        if how == "R":
            after = after._replace(log=(*after.log, copy._replace(n=copy.n + 1)))
        return label, True, _to(after, number, at, PUBLISH if how == "KO" else DONE)


def _with(state: State, number: int, worker: Worker) -> State:
    return state._replace(workers=put(state.workers, number, worker))


def _to(state: State, number: int, at: int, what: str, copy: Copy | None = None) -> State:
    worker = state.workers[number]
    hand = worker.hands[at]
    return _with(state, number, worker._replace(hands=put(worker.hands, at, hand._replace(at=what,
                                                                                           copy=copy or hand.copy))))


def _keep(state: State, task: int, answer: Answer) -> State:
    return state._replace(records=put(state.records, task, answer.record), fence=answer.fence)


def _spend(state: State, what: int) -> State:
    return state._replace(left=put(state.left, what, state.left[what] - 1))


def _stop(state: State, number: int) -> State:
    """The process ends, and its bodies with it."""
    running = tuple(one for one in state.running if one[0] != number)
    return _with(state._replace(owner=-1 if state.owner == number else state.owner, running=running), number, Worker())


HOLDS = [
    Scenario("one key"),
    Scenario("one key, dead letter", crash=2, freeze=0, hand_over=0, letters=True),
]
FULL = [
    Scenario("one key, more faults", crash=2, freeze=2, hand_over=2, retries=2),
    Scenario("one key, dead letter, more faults", crash=2, freeze=1, hand_over=1, letters=True),
]
BREAKS = [
    Scenario("nothing waits for what came before", Rules(lane=False), crash=0, freeze=0, hand_over=0),
    Scenario("a retry is published behind what came later", Rules(in_place=False), crash=0, freeze=0, hand_over=0),
    Scenario("a claim asks for the attempt of the message", Rules(resumed=False), freeze=0, hand_over=0),
    Scenario("a hand-over does not wait for bodies", Rules(hand_over_waits=False), crash=0, freeze=0, retries=0),
    Scenario("a whole host is frozen, and nobody kills its bodies", Rules(killed_first=False), crash=0, hand_over=0,
             retries=0),
]
