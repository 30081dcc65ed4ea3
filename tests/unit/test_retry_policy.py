"""Which failures are repeated, how often and when: for every exception, limit, clock and random number."""
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtq import Retry
from yadtq.config import Settings
from yadtq.errors import (
    DivisionByZero,
    InvalidTask,
    KafkaConnectionError,
    PayloadTooLarge,
    ResultNotEncodable,
    TaskArgumentError,
    TaskCrashed,
    TaskFailed,
    TaskHardTimeout,
    TaskNotRegistered,
    TaskTimeout,
    by_code,
)
from yadtq.retry_policy import (
    ASKED_RETRIES,
    MAX_DELAY_S,
    GiveUp,
    Limits,
    RetryAt,
    Wish,
    decide,
    limits_of,
    wait_s,
    wish_of,
    wish_of_code,
)
from yadtq.task import TaskMessage
from yadtq.tasks import TaskType

NOW_MS = 1_760_000_000_000


class OutOfStock(TaskFailed):
    code = "OUT_OF_STOCK_FOR_THE_RETRY_POLICY"


def kind(**options: Any) -> TaskType:
    return TaskType(**({"name": "t", "handler": print, "kind": "sync", "module": "m"} | options))


def message(**fields: Any) -> TaskMessage:
    return TaskMessage(**({"id": "i", "task": "t", "args": b"", "submitted_ms": 0} | fields))


limits = st.builds(Limits, max_retries=st.integers(0, 50), backoff_s=st.floats(0, 1e7), backoff_max_s=st.floats(0, 1e7),
                   jitter=st.floats(0, 1), max_asked=st.integers(0, 50),
                   keyed_max_s=st.none() | st.floats(0, 3600))
wishes = st.builds(Wish, worth=st.booleans(), asked=st.booleans(),
                   delay_s=st.none() | st.floats(0, 1e300))
below_1 = st.floats(0, 1, exclude_max=True)


# ---- which failures -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("error", "worth"), [
    (ValueError("x"), True), (OSError(), True), (SystemExit(1), True), (MemoryError(), True),
    (TaskFailed("x"), True), (OutOfStock(), True), (TaskTimeout(), True), (TaskHardTimeout(), True),
    (KafkaConnectionError(), True),
    (TaskArgumentError(), False), (DivisionByZero(), False), (TaskNotRegistered(), False), (TaskCrashed(), False),
    (ResultNotEncodable(), False), (PayloadTooLarge(), False), (InvalidTask(), False),
])
def test_what_is_worth_a_retry_by_itself(error: BaseException, worth: bool) -> None:
    assert wish_of(error, kind()) == Wish(worth)
    if by_code(getattr(error, "code", "")) is type(error):
        assert wish_of_code(error.code, kind()) == Wish(worth)       # type: ignore[attr-defined]
        assert wish_of_code(error.code, None) == Wish(worth)         # type: ignore[attr-defined]


def test_retry_on_replaces_the_rule_and_give_up_on_wins() -> None:
    only = kind(max_retries=1, retry_on=(OSError, DivisionByZero), give_up_on=(PermissionError,))
    assert wish_of(ConnectionError(), only).worth
    assert wish_of(DivisionByZero(), only).worth
    assert not wish_of(PermissionError(), only).worth
    assert not wish_of(ValueError(), only).worth
    assert not wish_of_code("TASK_TIMEOUT", only).worth
    assert wish_of_code("TASK_TIMEOUT", kind(retry_on=(TaskTimeout,))).worth
    assert not wish_of(ValueError(), kind(give_up_on=(ValueError,))).worth
    assert wish_of(OSError(), kind(give_up_on=(ValueError,))).worth
    assert not wish_of(TaskCrashed(), kind(retry_on=(TaskFailed,))).worth, "it has been repeated already"
    assert wish_of_code("A_CODE_THAT_NOBODY_KNOWS", kind()).worth


def test_a_handler_that_asks_is_always_heard() -> None:
    for task_type in kind(), kind(retry_on=(OSError,)), kind(give_up_on=(TaskFailed,)):
        assert wish_of(Retry("soon", delay_s=5), task_type) == Wish(True, asked=True, delay_s=5)
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="delay_s"):
            Retry(delay_s=wrong)


# ---- how often ------------------------------------------------------------------------------------------------------
def test_the_submission_wins_over_the_type_wins_over_the_settings() -> None:
    settings = Settings(task_max_retries=1, retry_backoff_s=2, retry_backoff_max_s=3, retry_jitter=0.25)
    assert limits_of(message(), None, settings) == Limits(1, 2, 3, 0.25, ASKED_RETRIES, None)
    declared = kind(max_retries=4, retry_backoff_s=5.0, retry_backoff_max_s=6.0, retry_jitter=0.0)
    assert limits_of(message(), declared, settings) == Limits(4, 5, 6, 0, 4, None)
    sent = message(max_retries=0, retry_backoff_s=9.0, key="k")
    assert limits_of(sent, declared, settings) == Limits(0, 9, 9, 0, 0, 30), "a cap below what was asked for is raised"


@given(wishes, st.integers(0, 100), limits, below_1)
def test_never_more_than_allowed(wish: Wish, n: int, limit: Limits, random: float) -> None:
    most = limit.max_asked if wish.asked else limit.max_retries
    decision = decide(wish, n, limit, NOW_MS, random)
    assert isinstance(decision, RetryAt) == (wish.worth and n < most)
    if isinstance(decision, GiveUp):
        assert decision.retries_allowed == (most > 0)
        assert decision.reason


@given(wishes, limits, below_1)
def test_a_task_always_comes_to_its_end(wish: Wish, limit: Limits, random: float) -> None:
    n = 0
    while isinstance(decide(wish, n, limit, NOW_MS, random), RetryAt):
        n += 1
    assert n <= max(limit.max_asked, limit.max_retries)


# ---- when -----------------------------------------------------------------------------------------------------------
@given(wishes, st.integers(0, 10**9), limits, below_1)
def test_bounds_of_the_wait(wish: Wish, n: int, limit: Limits, random: float) -> None:
    wait = wait_s(wish, n, limit, random)
    assert 0 <= wait <= MAX_DELAY_S
    if limit.keyed_max_s is not None:
        assert wait <= limit.keyed_max_s
    if wish.delay_s is None:
        full = min(limit.backoff_s * 2.0 ** min(n, 64), limit.backoff_max_s, limit.keyed_max_s or float("inf"))
        assert wait <= full
        assert wait >= min(full * (1 - limit.jitter), full) * (1 - 1e-9) or limit.keyed_max_s == 0
    elif limit.keyed_max_s is None:
        assert wait == min(wish.delay_s, MAX_DELAY_S)


@given(limits, below_1)
def test_the_wait_never_shrinks_from_attempt_to_attempt(limit: Limits, random: float) -> None:
    waits = [wait_s(Wish(True), n, limit, random) for n in range(70)]
    assert waits == sorted(waits)


def test_the_back_off_of_a_usual_task() -> None:
    limit = Limits(10, 1, 60, 0.5, 10, None)
    assert [wait_s(Wish(True), n, limit, 0.0) for n in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert [wait_s(Wish(True), n, limit, 0.5) for n in range(3)] == [0.75, 1.5, 3]


@given(wishes.filter(lambda wish: wish.worth), limits, below_1, st.integers(NOW_MS - 10**6, NOW_MS + 10**9))
def test_nothing_is_repeated_after_it_expires(wish: Wish, limit: Limits, random: float, expires_ms: int) -> None:
    free, bound = (decide(wish, 0, limit, NOW_MS, random, expires) for expires in (None, expires_ms))
    if isinstance(free, RetryAt):
        assert free.due_ms >= NOW_MS
        assert bound == (free if free.due_ms < expires_ms else GiveUp("it expires before the next attempt", True))
    else:
        assert bound == free
