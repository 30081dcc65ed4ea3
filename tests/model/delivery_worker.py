"""What workers do in the core model: take a partition, fetch, claim, run, record, publish, commit.

All of it is fair. Each step is a call or a message of the real worker: docs/protocol.md says where its code is. The
commit is membership's, of the position that the worker wrote into its slot; between the two nothing can happen that a
later commit of the same position would not show as well, so here it is one step.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.model.book import Answer, Copy
from tests.model.checker import Step
from tests.model.delivery import (
    BODY,
    CLAIMED,
    DONE,
    ENDED,
    FETCHED,
    FROZEN,
    IDLE,
    LOST,
    PUBLISH,
    STARTING,
    SURE,
    UNSURE,
    UP,
    Hand,
    Setting,
    State,
    Worker,
    put,
)
from tests.model.delivery_promises import Promises
from tests.model.operations import Token

Steps = Iterator[Step[State]]


class Workers:
    """The steps of both workers."""

    def __init__(self, setting: Setting, promises: Promises) -> None:
        self._setting, self._promises = setting, promises
        self._sc, self._rules, self._book = setting.scenario, setting.rules, setting.book
        self._fresh = UNSURE if setting.lossy else SURE         # what Redis has just said is not on its disk yet

    def steps(self, state: State) -> Steps:
        for number, worker in enumerate(state.workers):
            if worker.mode == IDLE:
                if number == 0 or state.workers[0].mode != IDLE:    # two idle ones are alike
                    yield from self._acquire(state, number)
            elif worker.mode == STARTING:
                yield self._begin(state, number, worker)
            elif worker.mode == UP:
                yield from self._work(state, number, worker)

    # ---- a partition's owner ----------------------------------------------------------------------------------------
    def _acquire(self, state: State, number: int) -> Steps:
        """The group gives a partition that nobody serves to this worker, or moves one that somebody serves."""
        for p, owner in enumerate(state.owner):
            if owner == -1 or state.workers[owner].mode == FROZEN:
                yield self._take(state, number, p, fair=True)
            elif state.left.hand_over:
                before = self._setting.spend(state, "hand_over")
                if self._rules.hand_over_waits:
                    if any(hand.at in (BODY, ENDED, PUBLISH) for hand in state.workers[owner].hands):
                        continue
                    before = self._setting.stop(before, owner)
                yield self._take(before, number, p, fair=False)

    def _take(self, state: State, number: int, p: int, *, fair: bool) -> Step[State]:
        if self._rules.kafka_epochs:
            epoch = state.epoch + 1
            state = state._replace(epoch=epoch)
        else:
            epoch = state.redis.counter + 1
            state = state._replace(redis=state.redis._replace(counter=epoch))
        after = self._setting.with_worker(state._replace(owner=put(state.owner, p, number)), number,
                                          Worker(STARTING, p, epoch))
        return f"worker{number}: gets p{p}, takes epoch {epoch}", fair, after

    def _begin(self, state: State, number: int, worker: Worker) -> Step[State]:
        p = worker.partition
        if not self._rules.fence:
            fences = state.redis.fences
        elif state.redis.fences[p] > worker.epoch:
            return (f"worker{number}: a later epoch than {worker.epoch} has fenced p{p}, it ends", True,
                    self._setting.stop(state, number))
        else:
            fences = put(state.redis.fences, p, worker.epoch)
        position = max(state.committed[p], state.begins[p])
        after = state._replace(redis=state.redis._replace(fences=fences))
        return (f"worker{number}: fences p{p} with epoch {worker.epoch}, reads from {position}", True,
                self._setting.with_worker(after, number, worker._replace(mode=UP, position=position)))

    # ---- its work ---------------------------------------------------------------------------------------------------
    def _work(self, state: State, number: int, worker: Worker) -> Steps:
        p = worker.partition
        if state.owner[p] != number:
            yield f"worker{number}: learns that it lost p{p}, it ends", True, self._setting.stop(state, number)
        yield from self._fetch(state, number, worker)
        for at, hand in enumerate(worker.hands):
            task = _InHand(self, state, number, at, hand)
            if hand.at == FETCHED:
                yield from task.claim()
            elif hand.at == CLAIMED:
                yield from task.begin()
            elif hand.at in (BODY, ENDED):
                yield from task.record()
            elif hand.at == PUBLISH:
                yield from task.publish()
            elif hand.disk == LOST and self._rules.known_durable:
                yield task.redo()
        yield from self._commit(state, number, worker)

    def _fetch(self, state: State, number: int, worker: Worker) -> Steps:
        p, position = worker.partition, max(worker.position, state.begins[worker.partition])
        if position >= len(state.logs[p]) or sum(hand.at != DONE for hand in worker.hands) >= self._sc.window:
            return
        copy = state.logs[p][position]
        # a copy of what is in hand waits until that is known durable (yadtqd.ledger)
        if any(hand.copy.task == copy.task and not self._let_go(hand) for hand in worker.hands):
            return
        hands = (*worker.hands, Hand(position, copy))
        yield (f"worker{number}: fetches p{p}@{position}, {_named(copy)}", True,
               self._setting.with_worker(state, number, worker._replace(position=position + 1, hands=hands)))

    def _commit(self, state: State, number: int, worker: Worker) -> Steps:
        p, position, hands = worker.partition, -1, list(worker.hands)
        if self._rules.fenced_commit and state.owner[p] != number:
            return
        while hands and self._may_pass(hands[0]):
            position = hands.pop(0).offset + 1
        if position >= 0:
            yield (f"worker{number}: p{p} is committed up to {position}", True,
                   self._setting.with_worker(state._replace(committed=put(state.committed, p, position)), number,
                                             worker._replace(hands=tuple(hands))))

    def _may_pass(self, hand: Hand) -> bool:
        if not self._rules.commit_last:
            return hand.at != FETCHED
        return hand.at == DONE and (hand.disk == SURE or not self._rules.known_durable)

    def _let_go(self, hand: Hand) -> bool:
        return hand.at == DONE and (hand.disk == SURE or not self._rules.copies_wait)


def _named(copy: Copy) -> str:
    life = f" of life {copy.life}" if copy.life else ""
    return f"task{copy.task} attempt {copy.n}{life}"


class _InHand:
    """The steps of one task in hand."""

    def __init__(self, of: Workers, state: State, number: int, at: int, hand: Hand) -> None:
        self._of, self._state, self._number, self._at, self._hand = of, state, number, at, hand
        self._setting, self._rules, self._book, self._sc = of._setting, of._rules, of._book, of._sc
        self._worker = state.workers[number]
        self._token = Token(self._worker.partition, self._worker.epoch)
        self._who = f"worker{number}: {_named(hand.copy)}"

    def _to(self, state: State, **changes: Any) -> State:
        hands = put(self._worker.hands, self._at, self._hand._replace(**changes))
        return self._setting.with_worker(state, self._number, self._worker._replace(hands=hands))

    def _owns(self) -> bool:
        """The look at the lease."""
        return not self._rules.lease or self._state.owner[self._worker.partition] == self._number

    # ---- claim ------------------------------------------------------------------------------------------------------
    def claim(self) -> Steps:
        if self._rules.rewrite_first and any(_to_write_again(hand) for hand in self._worker.hands):
            return                                          # all ends go back into a restarted Redis first
        yield self._obey(self._state, "claims")
        if self._state.left.repeat:
            answer = self._ask(self._state)
            once = self._keep(self._setting.spend(self._state, "repeat"), answer)
            yield self._obey(once, "claims, gets no answer, claims once more", fair=False)

    def _ask(self, state: State) -> Answer:
        p, copy = self._token.p, self._hand.copy
        return self._book.claim(state.redis.records[copy.task], state.redis.gen, state.redis.fences[p], self._token,
                                copy, self._hand.offset, expired=state.too_late and copy.task == 0)

    def _keep(self, state: State, answer: Answer) -> State:
        """Redis is now as the operation left it."""
        redis = state.redis
        return state._replace(redis=redis._replace(records=put(redis.records, self._hand.copy.task, answer.record),
                                                   fences=put(redis.fences, self._token.p, answer.fence)))

    def _obey(self, state: State, what: str, *, fair: bool = True) -> Step[State]:
        answer = self._ask(state)
        after, word = self._keep(state, answer), answer.word
        if word in ("RUN", "SUSPECT"):
            story, copy = state.stories[self._hand.copy.task], self._hand.copy
            if story.cleared and copy.g == story.g:
                after = after._replace(broken=f"CLEARED: task{copy.task} is claimed after it was cleared")
            # what ended here and was forgotten by Redis is not run again, it is written again
            after = self._to(after, at=ENDED if self._hand.end else CLAIMED)
        elif word == "STALE":
            after = self._stale(after)
        elif word == "SETTLE":
            record = self._book.records[answer.record]
            assert record is not None
            after = self._promises.witness(self._ended(after, record.s))
        else:
            after = self._to(after, at=DONE, disk=self._of._fresh)
        return f"{self._who}: {what} in epoch {self._token.e} -> {word}", fair, after

    @property
    def _promises(self) -> Promises:
        return self._of._promises

    def _stale(self, state: State) -> State:
        if self._rules.stale_stops:
            return self._setting.stop(state, self._number)
        return self._to(state, at=DONE, disk=self._of._fresh)

    # ---- run --------------------------------------------------------------------------------------------------------
    def begin(self) -> Steps:
        if not self._owns():
            return
        copy, record = self._hand.copy, self._book.records[self._state.redis.records[self._hand.copy.task]]
        if record is not None and record.x and self._rules.ask_claimed:     # the worker may look, and decide
            yield self._recorded(self._state, "CX", "is what was asked for, so that")
        started = self._promises.started(self._state, copy)
        if self._rules.record_first or self._hand.at != CLAIMED:
            yield f"{self._who}: its body starts", True, self._to(started, at=BODY)
            return
        for how in self._ends():                            # publish, then record
            yield (f"{self._who}: its body starts and ends {how}, which is published at once", True,
                   self._to(self._follow(started, how), at=ENDED, end=how))

    def _ends(self) -> tuple[str, ...]:
        copy, sc = self._hand.copy, self._sc
        if copy.task == 0 and sc.retries:
            return ("OK", "R") if copy.n < sc.retries else ("OK", "KO")
        return ("OK", "KO") if sc.may_fail else ("OK",)

    # ---- record -----------------------------------------------------------------------------------------------------
    def record(self) -> Steps:
        for how in (self._hand.end,) if self._hand.at == ENDED else self._ends():
            yield self._recorded(self._state, how, "is recorded")
            if self._state.left.repeat:
                once = self._keep(self._setting.spend(self._state, "repeat"), self._finish(self._state, how))
                yield self._recorded(self._promises.witness(once), how, "is recorded, no answer, once more", fair=False)

    def _finish(self, state: State, how: str) -> Answer:
        redis, copy, p = state.redis, self._hand.copy, self._token.p
        return self._book.finish(redis.records[copy.task], redis.gen, redis.fences[p], self._token, copy,
                                 self._hand.offset, how)

    def _recorded(self, state: State, how: str, what: str, *, fair: bool = True) -> Step[State]:
        answer = self._finish(state, how)
        after, word = self._keep(state, answer), answer.word
        if word in ("DONE", "CANCELLED"):
            record = self._book.records[answer.record]
            assert record is not None
            after = self._promises.witness(self._ended(after, record.s, end=how))
        elif word == "STALE":
            after = self._stale(after)
        elif word == "CLEARED":
            after = self._to(after, at=DONE, disk=self._of._fresh, end=how)
        else:                                               # LATE: claim again and obey
            after = self._to(after, at=FETCHED, end=how)
        return f"{self._who}: {how} {what} in epoch {self._token.e} -> {word}", fair, after

    # ---- publish ----------------------------------------------------------------------------------------------------
    def _ended(self, state: State, found: str, **changes: Any) -> State:
        """Redis has its end, `found`; what has to follow?"""
        follows = self._rules.record_first and self._owes(found)
        return self._to(state, at=PUBLISH if follows else DONE, found=found, disk=self._of._fresh, **changes)

    def _owes(self, found: str) -> bool:
        return found == "R" or (found == "KO" and self._sc.letters) or (
            found == "OK" and self._sc.chain and self._hand.copy.task == 0)

    def _follow(self, state: State, found: str) -> State:
        """What follows an end is published: the retry, the chain's next link, the dead letter."""
        copy, sc = self._hand.copy, self._sc
        if not self._owes(found):
            return state
        if found == "R":
            return self._setting.append(state, self._token.p, copy._replace(n=copy.n + 1))
        if found == "OK":
            return self._setting.append(state, 0, Copy(sc.tasks, 0, copy.g))
        return state._replace(letters=state.letters | {copy._replace(n=0)})

    def publish(self) -> Steps:
        if not self._owns():
            return
        published = self._follow(self._state, self._hand.found)
        yield f"{self._who}: what follows {self._hand.found} is published", True, self._to(published, at=DONE)
        if self._state.left.unknown:
            yield (f"{self._who}: what follows {self._hand.found} is published, no acknowledgement", False,
                   self._setting.spend(published, "unknown"))

    # ---- Redis was restarted ----------------------------------------------------------------------------------------
    def redo(self) -> Step[State]:
        """What Redis may have lost: an end from here is written again, the others are claimed again."""
        return (f"{self._who}: Redis may have lost it, it is looked at again", True,
                self._to(self._state, at=ENDED if self._hand.end else FETCHED, found="", disk=SURE))



def _to_write_again(hand: Hand) -> bool:
    return hand.at == ENDED or (hand.disk == LOST and bool(hand.end))
