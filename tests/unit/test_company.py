"""What a batch of single submissions waits for, from what came lately."""
from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from yadtq.company import LONGEST_WAIT_S, MOST_SKIPPED, PAUSE_S, STREAK, Company

TOOK_S = 0.0005


def batch(company: Company, now_s: float, there: int, size: int | None = None, late: int = 0) -> int:
    """One batch that nobody else joins, unless `size` says so: for how many it waited."""
    wanted, limit_s = company.begins(now_s, there)
    assert limit_s <= LONGEST_WAIT_S
    size = size or there
    if wanted:
        company.waited(size >= there + wanted)
    company.turns.leaves()
    company.ends(now_s + TOOK_S, TOOK_S, size, late)
    return wanted


def test_who_is_alone_never_waits() -> None:
    company, now_s = Company(), 0.0
    for _ in range(100):
        assert batch(company, now_s, 1) == 0
        now_s += 2 * TOOK_S


def test_a_batch_waits_for_those_of_the_last_and_those_that_came_too_late_for_it() -> None:
    company = Company()
    assert batch(company, 0.0, 1, late=7) == 0
    assert batch(company, 0.0006, 7, size=8) == 1       # the first one, who is on the way back
    assert batch(company, 0.0012, 1, size=8) == 7


def test_after_a_pause_nobody_is_waited_for() -> None:
    company = Company()
    batch(company, 0.0, 1, late=7)
    assert batch(company, TOOK_S + PAUSE_S * 1.01, 1) == 0


def test_each_disappointment_doubles_the_batches_that_leave_at_once() -> None:
    company, now_s, waits = Company(), 0.0, []
    for number in range(300):
        # there is always somebody too late, who has gone away when the next batch leaves
        waits.append(batch(company, now_s, 1, late=1) > 0)
        now_s += 2 * TOOK_S
        if number == 0:
            assert waits == [False]
    at = [number for number, waited in enumerate(waits) if waited]
    assert [later - sooner for sooner, later in pairwise(at)] == [2, 4, 8, 16, 32, 64, 64, 64]
    batch(company, now_s, 1, size=2)
    for _ in range(MOST_SKIPPED):                       # one who comes mends it
        now_s += 2 * TOOK_S
        if batch(company, now_s, 1, size=2):
            break
    now_s += 2 * TOOK_S
    assert batch(company, now_s, 1, size=2) == 1


def test_batches_without_a_pause_share_turns_and_a_pause_ends_that() -> None:
    company, now_s = Company(), 0.0
    for number in range(STREAK):
        assert company.turns.now is None, number
        batch(company, now_s, 8)
        now_s += 2 * TOOK_S
    first = company.turns.now
    assert first is not None
    batch(company, now_s, 8)
    assert company.turns.now == first + 1
    company.begins(now_s + 1.0, 1)
    assert company.turns.now is None


@given(st.lists(st.tuples(st.floats(0, 0.01), st.integers(1, 40), st.integers(0, 40), st.floats(0, 0.2)), max_size=60))
def test_no_wait_is_longer_than_the_last_batch_took_or_for_more_than_there_were(
        steps: list[tuple[float, int, int, float]]) -> None:
    company, now_s, last = Company(), 0.0, (1, 0.0)
    for gap_s, there, late, took_s in steps:
        now_s += gap_s
        wanted, limit_s = company.begins(now_s, there)
        assert 0 <= wanted <= max(0, last[0] - there)
        assert 0 <= limit_s <= min(last[1], LONGEST_WAIT_S)
        company.waited(came=there % 2 == 0)
        company.turns.leaves()
        now_s += took_s
        company.ends(now_s, took_s, there, late)
        last = there + late, took_s
