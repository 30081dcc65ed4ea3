"""What the model leaves out of records makes no difference, and with all rules on nothing is spoiled.

Every call that a search made is made again on the specification (tests/model/operations.py), with names, times and
waiting clients in the record and in the message: the same must come out, but for those.
"""
from __future__ import annotations

import pytest

from tests.model import operations
from tests.model.book import NOBODY, Book, Call
from tests.model.checker import check
from tests.model.delivery import Delivery, Scenario
from tests.model.operations import End, Message, Record, Shard
from tests.model.rules import ALL
from tests.model.scenarios import SHORT
from tests.model.spoiled import SpoiledBook

LARGE = ("basic", "retry", "wipe", "redis crash, two tasks", "hand-over", "chain", "cancel, window")
SCENARIOS = [scenario for scenario in SHORT if scenario.name not in LARGE]


def searched(scenario: Scenario) -> Book:
    model = Delivery(scenario)
    assert check(model).held
    return model.setting.book


def dressed(record: Record | None) -> Record | None:
    """A record as it really looks."""
    if record is None:
        return None
    named = record._replace(k="addition", t0=500, t1=510, w="host/w3", f=b"why")
    if record.ended:
        return named._replace(t2=520)
    return named._replace(u=("c1", "c2"), shown="P" if record.s == "P" else record.shown)


def bare(record: Record | None) -> Record | None:
    """What of it the model keeps."""
    if record is None:
        return None
    return record._replace(k="", t0=0, t1=0, t2=0, w="", f=b"", u=(), shown="Q" if record.s == "P" else record.shown)


def again(book: Book, call: Call) -> tuple[Record | None, int, str]:
    """What the specification makes of a call, with all that the model leaves out."""
    shard, old = Shard(call.gen, {call.token.p: call.fence}), dressed(book.records[call.record])
    if call.operation == "submit":
        g, late, life = call.arguments
        record, word = operations.submit(shard, old, g, "addition", 1000, 0, late=late, replay=life)
    elif call.operation == "cancel":
        record, word = operations.cancel(shard, old, 2000)
    elif call.operation == "expire":
        record, word = operations.expire(shard, old, 10_000, dict(enumerate(call.arguments[0])))
    else:
        arguments = [_dressed(one) for one in call.arguments]
        record, word = getattr(operations, call.operation)(shard, old, call.token, *arguments)
    return bare(record), shard.fences.get(call.token.p, 0), word


def _dressed(argument: object) -> object:
    if isinstance(argument, Message):
        return argument._replace(k="addition", t0=1000)
    if isinstance(argument, End):
        return argument._replace(t1=1100, t2=1200, f=b"error", w="host/w1", due=4000)
    return argument


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_names_and_times_make_no_difference(scenario: Scenario) -> None:
    book = searched(scenario)
    assert len(book.calls) > 10
    for call, answer in book.calls.items():
        record, fence, word = again(book, call)
        wanted = bare(book.records[answer.record])
        assert (word, fence) == (answer.word, answer.fence), call
        if record is not None and wanted is not None:
            record = record._replace(due=wanted.due)
        assert record == wanted, (call, book.records[call.record])


def test_nothing_is_spoiled_with_all_rules_on() -> None:
    for scenario in SCENARIOS[:6]:
        book = searched(scenario)
        spoiled = SpoiledBook(ALL)
        for call, answer in book.calls.items():
            shard = Shard(call.gen, {call.token.p: call.fence})
            record, word = spoiled.act(call.operation, shard, book.records[call.record], call.token, *call.arguments)
            assert (record, word, shard.fences.get(call.token.p, 0)) == (book.records[answer.record], answer.word,
                                                                         answer.fence)


def test_a_call_is_noted_whether_it_is_new_or_not() -> None:
    book = Book()
    book.cancel(0, 0)
    book.made = []
    assert book.cancel(0, 0).word == "ASKED"
    assert book.made == [Call("cancel", 0, 0, 0, NOBODY, ())]
