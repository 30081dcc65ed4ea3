"""What goes wrong in the core model, and what time does: crashes, freezes, a forgetful Redis, deadlines, the janitor.

Faults are not fair; that Redis writes to its disk and that a supervisor kills what is frozen is.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.model.book import NONE
from tests.model.checker import Step
from tests.model.delivery import (
    CLAIMED,
    DONE,
    FETCHED,
    FROZEN,
    LOST,
    PUBLISH,
    STARTING,
    SURE,
    UNSURE,
    UP,
    Hand,
    Setting,
    State,
    Store,
    Story,
    Worker,
)

Steps = Iterator[Step[State]]


class World:
    """The steps that nobody takes."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._sc, self._rules, self._book = setting.scenario, setting.rules, setting.book

    def steps(self, state: State) -> Steps:
        for number, worker in enumerate(state.workers):
            yield from self._processes(state, number, worker)
        if state.disk is not None:
            yield from self._redis(state, state.disk)
        if self._sc.deadline and not state.too_late:
            yield "time: task0 has waited too long", False, state._replace(too_late=True)
        if state.left.expire:
            yield from self._janitor(state)

    def _processes(self, state: State, number: int, worker: Worker) -> Steps:
        setting, left = self._setting, state.left
        if worker.mode in (STARTING, UP):
            if left.crash:
                yield f"FAULT: worker{number} dies", False, setting.spend(setting.stop(state, number), "crash")
            if left.freeze:
                frozen = worker._replace(mode=FROZEN, was=worker.mode)
                yield (f"FAULT: worker{number} freezes", False,
                       setting.spend(setting.with_worker(state, number, frozen), "freeze"))
        elif worker.mode == FROZEN:
            if self._sc.partitions > 1:     # else the other worker takes over, and the zombie may stay one for ever
                yield f"worker{number}: its supervisor kills it", True, setting.stop(state, number)
            alone = state.workers[1 - number].mode == FROZEN
            yield (f"worker{number}: thaws", alone,
                   setting.with_worker(state, number, worker._replace(mode=worker.was, was="")))

    # ---- Redis ------------------------------------------------------------------------------------------------------
    def _redis(self, state: State, disk: Store) -> Steps:
        unsure = any(hand.disk == UNSURE for worker in state.workers for hand in worker.hands)
        if disk != state.redis or unsure:
            yield "redis: fsync", True, _mark(state._replace(disk=state.redis), UNSURE, SURE)
        if state.left.redis and disk != state.redis:
            yield "FAULT: redis crashes, back to its last fsync", False, self._restarted(state, disk, "redis")
        if state.left.wipe:
            empty = self._setting.empty_redis()
            yield "FAULT: redis is wiped", False, self._restarted(state._replace(disk=empty), empty, "wipe")

    def _restarted(self, state: State, now: Store, fault: str) -> State:
        stories = tuple(self._after_loss(story, state.redis.records[task], now.records[task], fault)
                        for task, story in enumerate(state.stories))
        after = _mark(state._replace(redis=now, stories=stories), UNSURE, LOST)
        if fault == "wipe":
            after = _mark(after, SURE, LOST)
        if self._rules.claim_again:
            after = _each_hand(after, lambda hand: hand._replace(at=FETCHED) if hand.at == CLAIMED else hand)
        return self._setting.spend(after, fault)

    def _after_loss(self, story: Story, before: int, now: int, fault: str) -> Story:
        """What may still be asked for once Redis has lost its last second (docs/protocol.md, at its end)."""
        record = self._book.records[now]
        if not self._sc.steadfast:
            cancelled = record is not None and record.s == "CX"
            first = story.first
            if record is not None and record.ended and record.replay >= story.life:
                first = record.s, record.r
            elif fault == "wipe" or before != NONE:
                first = None
            story = story._replace(confirmed=story.confirmed and cancelled,
                                   before_wipe=story.before_wipe or (fault == "wipe" and story.first is not None),
                                   first=first)
        return story

    # ---- the janitor ------------------------------------------------------------------------------------------------
    def _janitor(self, state: State) -> Steps:
        for task, number in enumerate(state.redis.records):
            record = self._book.records[number]
            if record is None or not record.ended:
                continue
            after = self._setting.spend(state, "expire")
            if not self._rules.ttl_after_commit or self._nothing_comes_again(state, task):
                yield (f"redis: the record of task{task} is dropped", False,
                       self._setting.tell(self._setting.write(after, task, NONE), task, dropped=True))
                continue
            answer = self._book.expire(number, state.redis.gen, state.committed)
            if answer.word == "BURIED":
                yield (f"redis: the value of task{task} expires, its record stays", False,
                       self._setting.write(after, task, answer.record))

    def _nothing_comes_again(self, state: State, task: int) -> bool:
        """The time after which a whole record goes is chosen so that this holds."""
        story = state.stories[task]
        if task < self._sc.tasks and story.sent != "yes":
            return False
        if task >= self._sc.tasks and any(state.redis.records[:self._sc.tasks]):
            return False                                # what follows a task outlives it
        if state.left.copies or (task == 0 and state.left.replay) or any(copy.task == task for _, copy in
                                                                         state.under_way):
            return False
        return all(offset < max(state.committed[p], state.begins[p]) for p, log in enumerate(state.logs)
                   for offset, copy in enumerate(log) if copy.task == task)


def _each_hand(state: State, change: Callable[[Hand], Hand]) -> State:
    workers = tuple(worker._replace(hands=tuple(change(hand) for hand in worker.hands)) for worker in state.workers)
    return state._replace(workers=workers)


def _mark(state: State, was: str, now: str) -> State:
    """What Redis said of tasks in hand is on its disk now, or lost."""
    def change(hand: Hand) -> Hand:
        return hand._replace(disk=now) if hand.disk == was and hand.at in (PUBLISH, DONE) else hand

    return _each_hand(state, change)
