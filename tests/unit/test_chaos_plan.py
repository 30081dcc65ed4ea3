"""The plan of a chaos run is the same for the same seed, and breaks what can be broken."""
from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fault.chaos.figures import faults, memory
from tests.fault.chaos.plan import KINDS, Step, plan
from tests.support.history import Fault, History


@given(seed=st.integers(0, 2**24), length_s=st.floats(20, 2000))
def test_a_plan_is_repeatable_and_in_bounds(seed: int, length_s: float) -> None:
    steps = plan(seed, length_s)
    assert steps == plan(seed, length_s)
    assert steps == sorted(steps, key=lambda step: step.at_s)
    for step in steps:
        kind = KINDS[step.kind]
        assert step.lane == kind.lane
        assert step.target in kind.targets
        assert kind.shortest_s <= step.for_s <= kind.longest_s
        assert 5 <= step.at_s < length_s + 0.1


@given(seed=st.integers(0, 2**24))
def test_a_lane_does_one_thing_at_a_time(seed: int) -> None:
    for lane in ("process", "server"):
        steps = [step for step in plan(seed, 600) if step.lane == lane]
        for one, next_ in pairwise(steps):
            lasts_s = 0 if one.kind == "worker_freeze" else one.for_s
            assert next_.at_s >= one.at_s + lasts_s


@given(seed=st.integers(0, 2**24))
def test_a_long_plan_has_every_kind_and_faults_enough(seed: int) -> None:
    steps = plan(seed, 1800)
    assert {step.kind for step in steps} == set(KINDS)
    assert len(steps) > 220


def test_another_seed_is_another_plan() -> None:
    assert plan(1, 600) != plan(2, 600)


def test_only_some_kinds() -> None:
    assert {step.kind for step in plan(3, 600, ["redis_kill", "worker_kill"])} == {"redis_kill", "worker_kill"}
    assert {step.lane for step in plan(3, 600, ["redis_kill"])} == {"server"}
    assert plan(3, 1) == []


def test_a_step_is_a_line_for_people() -> None:
    assert str(Step(12.5, "server", "redis_kill", "redis", 3)) == "   12.5 s  server  redis_kill        redis for 3.0 s"


@pytest.mark.parametrize(("grows", "drift"), [(0, 0.0), (1, 25.0)])
def test_drift_is_seen_and_young_processes_are_not_counted(grows: int, drift: float) -> None:
    mb = 1_000_000
    samples = [(float(at), "worker", 7, 50 * mb + grows * at * mb) for at in range(0, 121, 2)]
    samples += [(100.0, "worker", 8, 900 * mb), (102.0, "worker", 8, 900 * mb)]
    found = memory(samples)["worker"]
    assert found["peak_mb"] == 900
    assert found["drift_percent"] == pytest.approx(drift, abs=2)


def test_recoveries_beside_other_faults_are_told_apart() -> None:
    def kill(begun: float, took_s: float) -> Fault:
        return Fault(kind="worker_kill", target="w", begun=begun, at=begun + took_s, recovered_s=took_s)

    history = History.of([kill(10, 0.5), kill(30, 2.0), Fault(kind="burst", target="load", begun=31, at=33)])
    assert faults(history) == {
        "burst": {"count": 1},
        "worker_kill": {"count": 2, "recovered_median_s": 1.25, "recovered_slowest_s": 2.0, "alone_slowest_s": 0.5}}
