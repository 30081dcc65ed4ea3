"""The operations with a rule missing: the specification is lied to, or its word is not heard.

Each switch of tests/model/rules.py that concerns an operation in Redis has its place here, so that the specification
itself stays free of switches. With all rules on nothing here does anything.
"""
from __future__ import annotations

from typing import Any

from tests.model.book import Book
from tests.model.operations import End, Message, Outcome, Record, Shard, Token
from tests.model.rules import ALL, Rules


class SpoiledBook(Book):
    """A book whose operations leave out the rules that are off."""

    def act(self, operation: str, shard: Shard, old: Record | None, token: Token, *arguments: Any) -> Outcome:
        seen = self._shard(shard)
        spoil: Any = getattr(self, f"_{operation}", None)
        if spoil is None:
            return super().act(operation, seen, old, token, *arguments)
        outcome: Outcome = spoil(seen, old, token, *arguments)
        return outcome

    def _submit(self, shard: Shard, old: Record | None, token: Token, g: int, late: bool, life: int) -> Outcome:
        return super().act("submit", shard, old, token, g, late and self.rules.submit_limit,
                           life if self.rules.by_life else 0)

    def _claim(self, shard: Shard, old: Record | None, token: Token, m: Message) -> Outcome:
        rules, seen = self.rules, old
        if seen is not None and not seen.ended:
            if not rules.home and seen.s == "P" and seen.p != token.p:
                seen = seen._replace(p=token.p, e=token.e)              # nobody asks where it was claimed
            if not rules.by_attempt and seen.s != "X":
                seen = seen._replace(s="Q", a=m.n)                      # nobody asks which attempt it was
        after, word = super().act("claim", shard, seen, token, self._life(seen, m))
        if word == "SETTLE" and after == seen and not rules.settle:
            return old, "SKIP"
        if word in ("RUN", "SUSPECT") and not rules.claim_writes:
            return old, word
        return (old if after == seen else after), word

    def _finish(self, shard: Shard, old: Record | None, token: Token, m: Message, ended: End) -> Outcome:
        rules, seen = self.rules, old
        if seen is not None and seen.ended and not rules.first_wins:
            seen = seen._replace(s="P", a=m.n, p=token.p, e=token.e)    # nobody asks whether it has ended
        if seen is not None and not seen.ended and not rules.by_attempt:
            seen = seen._replace(a=m.n)
        after, word = super().act("finish", shard, seen, token, self._life(seen, m), ended)
        return (old if after == seen else after), word

    def _cancel(self, shard: Shard, old: Record | None, token: Token) -> Outcome:
        if old is not None and old.s == "P" and not self.rules.ask_claimed:
            old = old._replace(s="Q")
        return super().act("cancel", shard, old, token)

    def _shard(self, shard: Shard) -> Shard:
        """The same, as it looks without fences or without clear numbers."""
        if self.rules.fence and self.rules.clear_number:
            return shard
        return Shard(shard.gen if self.rules.clear_number else 0, shard.fences if self.rules.fence else {})

    def _life(self, record: Record | None, m: Message) -> Message:
        return m if self.rules.by_life else m._replace(replay=record.replay if record is not None else 0)


def book(rules: Rules) -> Book:
    """The book that keeps these rules."""
    return Book(rules) if rules == ALL else SpoiledBook(rules)
