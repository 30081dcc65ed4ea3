"""Judging a living child by what its slot says."""
from __future__ import annotations

import pytest

from yadtqd.deadlines import Limits, Progress, Verdict, judge, next_deadline_ns, progressed
from yadtqd.slot import WAITS_FOR_REDIS, SlotView, TaskInHand
from yadtqd.worker_state import MOVES, WorkerState, move

LIMITS = Limits(beat_ns=100, start_ns=1000, progress_ns=500)
RUNNING, STARTING, STOPPING = WorkerState.RUNNING, WorkerState.STARTING, WorkerState.STOPPING


def view(**what):
    return SlotView(1, RUNNING, 0, 1, 0, 0, 0, 0, 0, 0, 0, None)._replace(**what)


def task(soft=0, hard=0):
    return TaskInHand(3, "id", "t", 0, 0, 0, 0, soft, hard)


@pytest.mark.parametrize(("seen", "state", "now", "verdict"), [
    (view(), RUNNING, 100, Verdict.FINE),
    (view(), RUNNING, 101, Verdict.HUNG),
    (view(), STARTING, 999, Verdict.FINE),                              # importing users' modules takes long
    (view(), STARTING, 1001, Verdict.HUNG),
    (view(), STOPPING, 99999, Verdict.FINE),                            # its drain has a limit of its own
    (view(task=task(soft=50)), RUNNING, 49, Verdict.FINE),
    (view(task=task(soft=50)), RUNNING, 50, Verdict.SOFT),
    (view(task=task(soft=50, hard=60)), RUNNING, 60, Verdict.HARD),
    (view(task=task(hard=60)), STOPPING, 60, Verdict.HARD),
    (view(task=task(soft=50, hard=60)), RUNNING, 9999, Verdict.HARD),   # rather than HUNG: its task must end as such
    (view(task=task(soft=50)), RUNNING, 101, Verdict.HUNG),
    (view(task=task()), RUNNING, 100, Verdict.FINE),
])
def test_verdicts(seen, state, now, verdict):
    assert judge(seen, state, Progress(0, now), LIMITS, now) is verdict


def test_a_task_that_another_may_have_kept_from_going_on_is_not_blamed():
    late = view(task=task(hard=60)._replace(started_ns=20), beat_ns=60)
    for held_up_ns, verdict in ((0, Verdict.HARD), (19, Verdict.HARD), (21, Verdict.HELD_UP)):
        assert judge(late, RUNNING, Progress(0, 60), LIMITS, 60, held_up_ns) is verdict
    assert judge(late, RUNNING, Progress(0, 59), LIMITS, 59, 30) is Verdict.FINE


def test_work_without_progress_is_stuck_and_0_switches_that_off():
    seen = view(lag=3, beat_ns=1000)
    assert judge(seen, RUNNING, Progress(0, 499), LIMITS, 1000) is Verdict.STUCK
    assert judge(seen, RUNNING, Progress(0, 500), LIMITS, 1000) is Verdict.FINE
    assert judge(seen, RUNNING, Progress(0, 0), LIMITS._replace(progress_ns=0), 1000) is Verdict.FINE


@pytest.mark.parametrize("excuse", [{"lag": 0}, {"lag": -1}, {"task": task()}, {"waiting_for": WAITS_FOR_REDIS},
                                    {"done": 1}, {"failed": 1}, {"retried": 1}, {"crashed": 1}])
def test_reasons_not_to_make_progress(excuse):
    assert progressed(Progress(0, 5), view(**({"lag": 3} | excuse)), 0, 77).since_ns == 77


def test_a_watermark_that_moves_is_progress_and_nothing_at_all_is_none():
    assert progressed(Progress(8, 5), view(lag=3), 9, 77) == Progress(9, 77)
    assert progressed(Progress(9, 5), view(lag=3), 9, 77) == Progress(9, 5)


def test_the_next_look_is_at_the_next_deadline():
    assert next_deadline_ns(None, 0) is None
    assert next_deadline_ns(task(), 0) is None
    assert next_deadline_ns(task(soft=50, hard=60), 0) == 50
    assert next_deadline_ns(task(soft=50, hard=60), 50) == 60
    assert next_deadline_ns(task(soft=50, hard=60), 60) is None


def test_states_move_along_the_diagram_only():
    assert move(WorkerState.STARTING, RUNNING) is RUNNING
    with pytest.raises(AssertionError, match="no move"):
        move(WorkerState.STOPPED, RUNNING)
    assert set(MOVES) == set(WorkerState)
