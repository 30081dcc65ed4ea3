"""A checker that never fails is worth nothing: histories that break each promise, and such that break none."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.guarantees import OF_A_KEY, OF_A_TASK, Rules, unexcused, violations
from tests.support.history import (
    Cancelled,
    Ended,
    Event,
    Fault,
    History,
    Journal,
    Letter,
    Read,
    Started,
    Submitted,
    now,
)


def submit(at: float = 0.0, id: str = "t1", **more: Any) -> Submitted:
    return Submitted(id=id, kind=more.pop("kind", "quick"), called=more.pop("called", at), at=at, **more)


def start(at: float, run: str = "r1", id: str = "t1", attempt: int = 0, **more: Any) -> Started:
    return Started(id=id, run=run, attempt=attempt, at=at, **more)


def end(at: float, run: str = "r1", id: str = "t1", how: str = "returned") -> Ended:
    return Ended(id=id, run=run, at=at, how=how)


def read(at: float, status: str = "SUCCESS", value: str | None = "r1", id: str = "t1", called: float = -1) -> Read:
    return Read(id=id, called=at if called < 0 else called, at=at, status=status, value=value)


def fault(begun: float, at: float, kind: str = "worker_kill") -> Fault:
    return Fault(kind=kind, target="w0", begun=begun, at=at)


def cancel(at: float, answer: str = "CONFIRMED") -> Cancelled:
    return Cancelled(id="t1", called=at, at=at, answer=answer)


GOOD: list[Event] = [submit(), start(1), end(2), read(3)]
CANCELLED = read(4, "CANCELLED", "TASK_CANCELLED")
CRASHED = read(9, "FAILED", "TASK_CRASHED")
LOSS = fault(3.5, 5, "redis_kill")
KEYED: list[Event] = [submit(1, "a", key="k"), submit(2, "b", key="k"), read(9, id="a", value="a1"),
                      read(9, id="b", value="b1")]


def found(events: list[Event], rules: Rules | None = None) -> list[str]:
    """The names of the promises that these events break, excused ones in brackets."""
    return [f"({v.promise})" if v.excused else v.promise for v in violations(History.of(events), rules)]


def test_a_good_run_breaks_nothing() -> None:
    assert found(GOOD) == []


BROKEN: dict[str, tuple[list[str], list[Event]]] = {
    "no end": (["lost"], [submit(), start(1)]),
    "never even read": (["lost"], [submit()]),
    "still queued at the end": (["lost"], [submit(), read(9, "QUEUED", None)]),
    "another result": (["one_result"], [*GOOD, start(1.5, "r2"), end(2.5, "r2"), read(4, value="r2"), fault(1, 2)]),
    "another end": (["one_result"], [*GOOD, read(4, "FAILED", "TASK_FAILED")]),
    "back from its end": (["one_result"], [*GOOD, read(4, "QUEUED", None), read(5)]),
    "gone after its end": (["one_result", "lost"], [*GOOD, read(4, "NOT_FOUND", None)]),
    "another result after another Redis": (["one_result"], [*GOOD, start(1.5, "r2"), end(2.5, "r2"),
                                                            read(21, value="r2"), fault(1, 2),
                                                            fault(10, 11, "redis_kill")]),
    "a result of no run": (["true_result"], [submit(), start(1), end(2), read(3, value="r9")]),
    "a result of a run that did not end": (["true_result"], [submit(), start(1), read(3)]),
    "a result of a run that raised": (["true_result"], [submit(), start(1), end(2, how="raised"), read(3)]),
    "a result before its run ended": (["true_result"], [submit(), start(1), end(4), read(3)]),
    "an innocent that failed": (["as_expected"], [submit(expect=("SUCCESS",)), start(1),
                                                  read(3, "FAILED", "TASK_TIMEOUT")]),
    "an innocent that was cancelled": (["as_expected"], [submit(expect=("SUCCESS",)),
                                                         read(3, "CANCELLED", "TASK_CANCELLED")]),
    "run again after its end was read": (["not_after_its_end"], [*GOOD, fault(1, 2), start(4, "r2")]),
    "run after its cancel": (["cancelled_stays"], [submit(), cancel(2), start(3), CANCELLED]),
    "another end than its cancel": (["cancelled_stays"], [submit(), cancel(1.5), start(1), end(2), read(3)]),
    "run twice for nothing": (["attempts"], [*GOOD, start(1.5, "r2")]),
    "run twice long after a fault": (["attempts"], [submit(), fault(1, 2), start(31), start(32, "r2"), end(33, "r2"),
                                                    read(34, value="r2")]),
    "more attempts than retries": (["attempts"], [submit(max_retries=1), start(1), end(2, how="raised"),
                                                  start(3, "r2", attempt=2), end(4, "r2"), read(5, value="r2")]),
    "an unnumbered attempt too many": (["attempts"], [submit(), start(1, attempt=-1), start(2, "r2", attempt=-1),
                                                      end(3, "r2"), read(4, value="r2")]),
    "poison in a loop": (["attempts"], [submit(kind="poison"), *(start(n, f"r{n}") for n in range(1, 7)), CRASHED,
                                        Letter(id="t1", code="TASK_CRASHED", at=8)]),
    "before its time": (["not_before_due"], [submit(due_ms=5000), start(1, wall_ms=4990), end(2), read(3)]),
    "after its expiry": (["not_after_expiry"], [submit(expires_ms=5000), start(1, wall_ms=7000), end(2), read(3)]),
    "nobody's": (["submitted"], [start(1), end(2), read(3)]),
    "refused, and run": (["submitted"], [submit(outcome="refused"), start(1), end(2), read(3)]),
    "a crash without a letter": (["letters"], [submit(kind="poison"), start(1), CRASHED]),
    "a letter of what succeeded": (["letters"], [*GOOD, Letter(id="t1", code="TASK_CRASHED", at=8)]),
    "out of order": (["key_order"], [*KEYED, start(3, "b1", "b"), end(4, "b1", "b"), start(5, "a1", "a"),
                                     end(6, "a1", "a")]),
    "passed by the next of its key": (["key_order", "lost"], [*KEYED[:2], KEYED[3], start(3, "b1", "b"),
                                                              end(4, "b1", "b")]),
    "the next before the last attempt": (["key_order"], [
        submit(1, "a", key="k", max_retries=1), *KEYED[1:], start(3, "a0", "a"), end(4, "a0", "a", "raised"),
        start(5, "b1", "b"), end(6, "b1", "b"), start(7, "a1", "a", 1), end(8, "a1", "a")]),
    "two of a key at a time": (["key_overlap", "key_order"], [*KEYED, start(3, "a1", "a"), start(4, "b1", "b"),
                                                              end(5, "a1", "a"), end(6, "b1", "b")]),
    "two runs of one task of a key at a time": (["key_overlap"], [
        *KEYED[::2], start(3, "a0", "a"), fault(3, 4), start(4, "a1", "a"), end(4.5, "a0", "a"), end(5, "a1", "a")]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_found(name: str) -> None:
    promises, events = BROKEN[name]
    assert sorted(found(events)) == sorted(promises)


def test_every_check_has_its_broken_history() -> None:
    checks = {check.__name__ for check in (*OF_A_TASK, *OF_A_KEY)}
    assert {promise for promises, _ in BROKEN.values() for promise in promises} == checks


HARMLESS: dict[str, list[Event]] = {
    "read the same again": [*GOOD, read(4), read(5, value=None)],
    "a read that began before the end was known": [*GOOD, read(4, "QUEUED", None, called=2.5)],
    "refused and not run": [submit(outcome="refused")],
    "unknown and not run": [submit(outcome="unknown")],
    "unknown and run": [submit(outcome="unknown"), *GOOD[1:]],
    "in the dead letters, though nobody read its end": [submit(kind="poison"), start(1),
                                                        Letter(id="t1", code="TASK_CRASHED", at=8)],
    "failed as it should": [submit(expect=("TASK_FAILED",)), start(1), end(2, how="raised"),
                            read(3, "FAILED", "TASK_FAILED")],
    "run again after a fault": [submit(), start(1), fault(2, 3), start(4, "r2"), end(5, "r2"), read(6, value="r2")],
    "run again in the aftermath": [submit(), fault(1, 2), start(11), start(12, "r2"), end(13, "r2"),
                                   read(14, value="r2")],
    "run again beside poison": [submit(id="p", kind="poison"), start(1.5, "p1", "p"), submit(), start(1),
                                start(2, "r2"), end(3, "r2"), read(4, value="r2"),
                                read(5, "FAILED", "TASK_CRASHED", "p"), Letter(id="p", code="TASK_CRASHED", at=4)],
    "a retry": [submit(max_retries=1), start(1), end(2, how="raised"), start(3, "r2", attempt=1), end(4, "r2"),
                read(5, value="r2")],
    "poison, given up": [submit(kind="poison"), *(start(n, f"r{n}") for n in range(1, 5)), CRASHED,
                         Letter(id="t1", code="TASK_CRASHED", at=8)],
    "cancelled while it ran": [submit(), start(1), cancel(2, "ASKED"), CANCELLED],
    "cancelled before": [submit(), cancel(2), CANCELLED],
    "cancelled too late": [*GOOD, cancel(4, "ENDED")],
    "at its time": [submit(due_ms=5000), start(1, wall_ms=5000), end(2), read(3)],
    "begun in time, begun again": [submit(expires_ms=5000), start(1, wall_ms=4000), fault(1, 2),
                                   start(9, "r2", wall_ms=9000), end(10, "r2"), read(11, value="r2")],
    "in order": [*KEYED, start(3, "a1", "a"), end(4, "a1", "a"), start(5, "b1", "b"), end(6, "b1", "b")],
    "in order, and both once more": [
        *KEYED, start(3, "a0", "a"), end(4, "a0", "a"), start(4.1, "b0", "b"), fault(4.2, 5), start(5, "a1", "a"),
        end(6, "a1", "a"), start(7, "b1", "b"), end(8, "b1", "b")],
    "submitted side by side": [submit(2, "a", key="k", called=1), submit(2, "b", key="k", called=1.5), *KEYED[2:],
                               start(3, "b1", "b"), end(4, "b1", "b"), start(5, "a1", "a"), end(6, "a1", "a")],
    "the earlier was cancelled": [*KEYED[:2], read(2.5, "CANCELLED", "TASK_CANCELLED", "a"), KEYED[3],
                                  start(3, "b1", "b"), end(4, "b1", "b")],
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_may_be_is_no_violation(name: str) -> None:
    assert found(HARMLESS[name]) == []


EXCUSED: dict[str, list[Event]] = {
    "(one_result)": [*GOOD, LOSS, fault(2, 2.5), start(2.5, "r2"), end(2.9, "r2"), read(6, value="r2")],
    "(not_after_its_end)": [*GOOD, LOSS, start(4, "r2"), end(5, "r2"), read(6)],
    "(cancelled_stays)": [submit(), cancel(3), LOSS, start(6), end(7), read(8)],
    "(key_overlap)": [*KEYED[::2], start(3, "a0", "a"), fault(3.5, 6, "host_freeze"), start(4, "a1", "a"),
                      end(5, "a1", "a"), end(6.5, "a0", "a")],
}


@pytest.mark.parametrize("promise", EXCUSED)
def test_what_can_not_be_promised_is_told_apart(promise: str) -> None:
    events = EXCUSED[promise]
    assert found(events) == [promise]
    assert unexcused(violations(History.of(events))) == []
    assert unexcused(violations(History.of(events), Rules(redis_losses=frozenset(), freezes=frozenset())))


def test_a_fault_that_is_declared_harmless_excuses_nothing() -> None:
    events = HARMLESS["run again after a fault"]
    assert found(events, Rules(harmless=frozenset({"worker_kill"}))) == ["attempts"]


def test_a_journal_is_read_as_it_was_written(tmp_path: Path) -> None:
    client, handlers = Journal(tmp_path / "client.events"), Journal(tmp_path / "handlers.events")
    client.write(*GOOD[::3])
    handlers.write(*GOOD[1:3])
    child = os.fork()
    if child == 0:
        handlers.write(start(5, "r2"))
        os._exit(0)
    os.waitpid(child, 0)
    client.write(cancel(6), Letter(id="t1", code="X", at=7), fault(1, 2))
    history = History.read(tmp_path)
    assert history.tasks["t1"].events() == [*GOOD, start(5, "r2"), cancel(6), Letter(id="t1", code="X", at=7)]
    assert history.faults == [fault(1, 2)]
    assert history.tasks["t1"].kind == "quick"
    assert 0 < now() <= now()
