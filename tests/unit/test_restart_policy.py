"""When a child starts again: the promises of the restart policy for any history."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtqd.exits import Exit
from yadtqd.restart_policy import BACKOFF_CAP_S, COOL_DOWN_JITTER, RECYCLE_CAP_S, Fate, History, RestartPolicy, fate_of

POLICY = RestartPolicy(max_retries=3, window_s=60, cool_down_s=45)
gaps = st.lists(st.tuples(st.floats(0, 100), st.sampled_from([Fate.FAILED, Fate.RECYCLED]), st.floats(0, 0.999)),
                max_size=60)


def replay(policy, events):
    """Each end's time, fate and decision; a child ends `gap` after the start that the last decision allowed."""
    now, history, out = 1000.0, History(), []
    for gap, fate, jitter in events:
        now += gap
        decision = policy.after(history, fate, now, jitter)
        out.append((now, fate, decision))
        history, now = decision.history, now + decision.delay_s
    return out


def test_the_first_failure_is_replaced_at_once_then_it_backs_off_then_it_is_fatal():
    delays = [d.delay_s for _, _, d in replay(POLICY, [(0, Fate.FAILED, 0.999)] * 3)]
    assert delays[0] == 0
    assert 0.4 < delays[1] <= 0.5
    assert 0.9 < delays[2] <= 1.0
    last = replay(POLICY, [(0, Fate.FAILED, 0)] * 4)[-1][2]
    assert last.fatal
    assert last.delay_s == 45


def test_one_more_failure_after_a_short_cool_down_is_fatal_again_and_a_quiet_window_forgives():
    *_, (_, _, again) = replay(POLICY, [(0, Fate.FAILED, 0)] * 4 + [(1, Fate.FAILED, 0)])
    assert again.fatal
    *_, (_, _, later) = replay(POLICY, [(0, Fate.FAILED, 0)] * 4 + [(61, Fate.FAILED, 0)])
    assert not later.fatal
    assert later.delay_s == 0


def test_a_configuration_that_can_not_work_is_fatal_at_once():
    assert POLICY.after(History(), Fate.HOPELESS, 1.0, 0.5).fatal


@pytest.mark.parametrize("max_retries", [0, 1, 5])
def test_exactly_max_retries_restarts_in_a_window(max_retries):
    policy = RestartPolicy(max_retries, 1e6, 60)
    decisions = [d for _, _, d in replay(policy, [(0, Fate.FAILED, 0.5)] * (max_retries + 1))]
    assert [d.fatal for d in decisions] == [False] * max_retries + [True]


@given(gaps)
def test_never_more_than_max_retries_unpunished_failures_in_any_window(events):
    out = replay(POLICY, events)
    failures = [(now, d) for now, fate, d in out if fate is Fate.FAILED]
    for now, decision in failures:
        in_window = sum(now - POLICY.window_s < other <= now for other, _ in failures)
        assert decision.fatal == (in_window > POLICY.max_retries)


@given(gaps)
def test_delays_are_bounded_and_histories_stay_small(events):
    for _, fate, decision in replay(POLICY, events):
        cap = BACKOFF_CAP_S if fate is Fate.FAILED else RECYCLE_CAP_S
        if decision.fatal:
            cap = POLICY.cool_down_s * (1 + COOL_DOWN_JITTER)
        assert 0 <= decision.delay_s <= cap
        assert len(decision.history.failures) <= POLICY.max_retries + 1
        assert len(decision.history.recycles) <= 64


@given(st.lists(st.floats(0, 0.999), min_size=200, max_size=200))
def test_a_recycling_loop_is_never_fatal_but_slow(jitters):
    out = replay(POLICY, [(0, Fate.RECYCLED, jitter) for jitter in jitters])
    assert not any(d.fatal for _, _, d in out)
    assert [d.delay_s for _, _, d in out[:5]] == [0] * 5
    assert out[-1][0] - out[0][0] > 60       # 200 restarts take more than a minute


@pytest.mark.parametrize(("status", "at_deadline", "fate"), [
    (None, False, Fate.FAILED), (None, True, Fate.RECYCLED), (1, False, Fate.FAILED), (99, False, Fate.FAILED),
    (Exit.OK, False, Fate.RECYCLED), (Exit.STALE, False, Fate.RECYCLED), (Exit.SOFT_RECYCLE, False, Fate.RECYCLED),
    (Exit.LOST_LEASE, False, Fate.RECYCLED), (Exit.INITIALIZATION_FAILED, False, Fate.FAILED),
    (Exit.STOP_FATAL_CONFIG, False, Fate.HOPELESS)])
def test_what_an_exit_status_means(status, at_deadline, fate):
    assert fate_of(status, at_deadline=at_deadline) is fate
