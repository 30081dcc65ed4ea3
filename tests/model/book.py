"""The records of a model's Redis, by number, and the operations on them: those of tests/model/operations.py.

The checker looks at millions of states, so a state holds small numbers instead of records, and what an operation made
of a record is remembered. Nothing is decided here: each answer comes from the specification of the Redis functions.
What no decision depends on (names, times of day) is left constant, which test_book.py shows to make no difference.

Number 0 is "no record".
"""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.model import operations
from tests.model.operations import End, Message, Outcome, Record, Shard, Token
from tests.model.rules import ALL, Rules

NONE = 0
KIND = "model"                      # every task's type


class Copy(NamedTuple):
    """A message in a task log: attempt `n` of a task, stamped with clear number `g`, in its `life`-th life."""

    task: int
    n: int = 0
    g: int = 0
    life: int = 0


class Answer(NamedTuple):
    """What came of an operation: the record's number, the partition's fence, the word."""

    record: int
    fence: int
    word: str


class Book:
    """All records that were ever seen in one search."""

    def __init__(self, rules: Rules = ALL) -> None:
        self.rules = rules
        self.records: list[Record | None] = [None]
        self._numbers: dict[Record | None, int] = {None: NONE}
        self._known: dict[tuple[object, ...], Answer] = {}

    def number(self, record: Record | None) -> int:
        """The number of a record, which is given to it now if it has none."""
        known = self._numbers.get(record)
        if known is None:
            known = self._numbers[record] = len(self.records)
            self.records.append(record)
        return known

    # ---- operations: the numbers of before, the answer --------------------------------------------------------------
    def submit(self, number: int, gen: int, g: int, *, late: bool = False, life: int = 0) -> Answer:
        def act(shard: Shard, old: Record | None) -> Outcome:
            return self.on_submit(shard, old, g, late=late, life=life)

        return self._remember(("submit", number, gen, g, late, life), number, gen, None, 0, act)

    def claim(self, number: int, gen: int, fence: int, token: Token, copy: Copy, offset: int, *,
              expired: bool = False) -> Answer:
        def act(shard: Shard, old: Record | None) -> Outcome:
            return self.on_claim(shard, old, token, message(copy, offset, expired=expired))

        return self._remember(("claim", number, gen, fence, token, copy, offset, expired), number, gen, token, fence,
                              act)

    def finish(self, number: int, gen: int, fence: int, token: Token, copy: Copy, offset: int, how: str) -> Answer:
        def act(shard: Shard, old: Record | None) -> Outcome:
            return self.on_finish(shard, old, token, message(copy, offset), end(how, token))

        return self._remember(("finish", number, gen, fence, token, copy, offset, how), number, gen, token, fence, act)

    def lone(self, number: int, fence: int, token: Token, n: int, what: str) -> Answer:
        def act(shard: Shard, old: Record | None) -> Outcome:
            return operations.lone(shard, old, token, n, what)

        return self._remember(("lone", number, fence, token, n, what), number, 0, token, fence, act)

    def cancel(self, number: int, gen: int) -> Answer:
        return self._remember(("cancel", number, gen), number, gen, None, 0, self.on_cancel)

    def expire(self, number: int, gen: int, committed: tuple[int, ...]) -> Answer:
        def act(shard: Shard, old: Record | None) -> Outcome:
            return operations.expire(shard, old, 0, dict(enumerate(committed)))

        return self._remember(("expire", number, gen, committed), number, gen, None, 0, act)

    def live(self, number: int, gen: int) -> Record | None:
        """The record, if clear_all_tasks has not passed over it."""
        record = self.records[number]
        return record if record is None or record.g >= gen or not self.rules.clear_number else None

    def _remember(self, key: tuple[object, ...], number: int, gen: int, token: Token | None, fence: int,
                  act: Callable[[Shard, Record | None], Outcome]) -> Answer:
        known = self._known.get(key)
        if known is None:
            shard = Shard(gen, {token.p: fence} if token is not None else {})
            record, word = act(shard, self.records[number])
            after = shard.fences.get(token.p, fence) if token is not None else fence
            known = self._known[key] = Answer(self.number(record), after, word)
        return known

    # ---- the specification; tests/model/spoiled.py puts other things in its place ------------------------------------
    def on_submit(self, shard: Shard, old: Record | None, g: int, *, late: bool, life: int) -> Outcome:
        return operations.submit(shard, old, g, KIND, 0, 0, late=late, replay=life)

    def on_claim(self, shard: Shard, old: Record | None, token: Token, m: Message) -> Outcome:
        return operations.claim(shard, old, token, m)

    def on_finish(self, shard: Shard, old: Record | None, token: Token, m: Message, ended: End) -> Outcome:
        return operations.finish(shard, old, token, m, ended)

    def on_cancel(self, shard: Shard, old: Record | None) -> Outcome:
        return operations.cancel(shard, old)


def message(copy: Copy, offset: int, *, expired: bool = False) -> Message:
    """What the worker that fetched this copy asks with."""
    return Message(copy.n, copy.g, KIND, 0, copy.life, expired, offset)


def end(how: str, token: Token) -> End:
    """How an attempt ended; the result names the epoch that found it, so that two results can be told apart."""
    return End(how, 0, 0, r=b"%d" % token.e if how == "OK" else b"", w="")
