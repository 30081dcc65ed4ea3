"""The records of a model's Redis, by number, and the operations on them: those of tests/model/operations.py.

The checker looks at millions of states, so a state holds small numbers instead of records, and what an operation made
of a record is remembered. Nothing is decided here: each answer comes from the specification of the Redis functions.
What no decision depends on (names, times of day) is left constant, which test_book.py shows to make no difference.

Number 0 is "no record".
"""
from __future__ import annotations

from typing import Any, NamedTuple

from tests.model import operations
from tests.model.operations import End, Message, Outcome, Record, Shard, Token
from tests.model.rules import ALL, Rules

NONE = 0
KIND = "model"                      # every task's type
NOBODY = Token(0, 0)                # calls the operations that need no token


class Copy(NamedTuple):
    """A message in a task log: attempt `n` of a task, stamped with clear number `g`, in its `life`-th life."""

    task: int
    n: int = 0
    g: int = 0
    life: int = 0


class Call(NamedTuple):
    """An operation on a record: what was there before, and what it was called with."""

    operation: str
    record: int
    gen: int
    fence: int
    token: Token
    arguments: tuple[Any, ...]


class Answer(NamedTuple):
    """What came of it: the record's number, the partition's fence, the word."""

    record: int
    fence: int
    word: str


class Book:
    """All records that were ever seen in one search, and all calls. `made`, when a list, gets what is called."""

    def __init__(self, rules: Rules = ALL) -> None:
        self.rules = rules
        self.records: list[Record | None] = [None]
        self.calls: dict[Call, Answer] = {}
        self.made: list[Call] | None = None
        self._numbers: dict[Record | None, int] = {None: NONE}

    def number(self, record: Record | None) -> int:
        """The number of a record, which is given to it now if it has none."""
        known = self._numbers.get(record)
        if known is None:
            known = self._numbers[record] = len(self.records)
            self.records.append(record)
        return known

    def live(self, number: int, gen: int) -> Record | None:
        """The record, if clear_all_tasks has not passed over it."""
        record = self.records[number]
        return record if record is None or record.g >= gen or not self.rules.clear_number else None

    # ---- operations -------------------------------------------------------------------------------------------------
    def submit(self, number: int, gen: int, g: int, *, late: bool = False, life: int = 0) -> Answer:
        return self._call("submit", number, gen, 0, NOBODY, g, late, life)

    def claim(self, number: int, gen: int, fence: int, token: Token, copy: Copy, offset: int, *,
              expired: bool = False) -> Answer:
        m = Message(copy.n, copy.g, KIND, 0, copy.life, expired, offset)
        return self._call("claim", number, gen, fence, token, m)

    def finish(self, number: int, gen: int, fence: int, token: Token, copy: Copy, offset: int, how: str) -> Answer:
        m = Message(copy.n, copy.g, KIND, 0, copy.life, False, offset)
        # the result names the epoch that found it, so that two results can be told apart
        end = End(how, 0, 0, r=b"%d" % token.e if how == "OK" else b"", w="")
        return self._call("finish", number, gen, fence, token, m, end)

    def lone(self, number: int, fence: int, token: Token, n: int, what: str) -> Answer:
        return self._call("lone", number, 0, fence, token, n, what)

    def cancel(self, number: int, gen: int) -> Answer:
        return self._call("cancel", number, gen, 0, NOBODY)

    def expire(self, number: int, gen: int, committed: tuple[int, ...]) -> Answer:
        return self._call("expire", number, gen, 0, NOBODY, committed)

    def _call(self, operation: str, number: int, gen: int, fence: int, token: Token, *arguments: Any) -> Answer:
        call = Call(operation, number, gen, fence, token, arguments)
        if self.made is not None:
            self.made.append(call)
        known = self.calls.get(call)
        if known is None:
            shard = Shard(gen, {token.p: fence})
            record, word = self.act(operation, shard, self.records[number], token, *arguments)
            known = self.calls[call] = Answer(self.number(record), shard.fences.get(token.p, 0), word)
        return known

    def act(self, operation: str, shard: Shard, old: Record | None, token: Token, *arguments: Any) -> Outcome:
        """The specification; tests/model/spoiled.py puts other things in its place."""
        if operation == "submit":
            g, late, life = arguments
            return operations.submit(shard, old, g, KIND, 0, 0, late=late, replay=life)
        if operation == "cancel":
            return operations.cancel(shard, old)
        if operation == "expire":
            return operations.expire(shard, old, 0, dict(enumerate(arguments[0])))
        act: Any = getattr(operations, operation)
        outcome: Outcome = act(shard, old, token, *arguments)
        return outcome
