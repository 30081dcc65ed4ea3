"""What `systemctl status yadtqd` says in one line."""
from __future__ import annotations

import pytest

from yadtqd.status_line import Rate, ranges, status_line

S = 1_000_000_000


def test_a_sound_daemon() -> None:
    assert status_line("RUNNING", 4, 4, [0, 1, 2, 3], 1234, 856.4) == \
        "RUNNING: 4 of 4 workers running, 4 partitions (0-3), lag 1,234, 856 tasks/s"


@pytest.mark.parametrize(("partitions", "rate", "says"), [
    ([], 0.0, "no partition, lag 0, 0 tasks/s"), ([7], 0.25, "1 partition (7), lag 0, 0.2 tasks/s"),
    ([0, 2, 3], 12_345.6, "3 partitions (0,2-3), lag 0, 12,346 tasks/s")])
def test_partitions_and_rates(partitions: list[int], rate: float, says: str) -> None:
    assert status_line("RUNNING", 1, 1, partitions, 0, rate).endswith(says)


def test_what_is_wrong_follows_and_is_not_told_without_end() -> None:
    line = status_line("DEGRADED", 1, 2, [0], 5, 0.0, ["w1 is FATAL", "Kafka", "Redis", "d", "e"])
    assert line.startswith("DEGRADED: 1 of 2 workers running, 1 partition (0), lag 5, 0 tasks/s; w1 is FATAL; Kafka; ")
    assert line.endswith("Redis; 2 more reasons in `yadtqctl status`")


def test_the_rate_is_that_of_the_last_five_seconds() -> None:
    rate = Rate()
    assert rate.per_s(1000, 0) == 0
    assert rate.per_s(1100, S) == 100
    for second in range(2, 10):
        assert rate.per_s(1000 + 100 * second, second * S) == pytest.approx(100)
    for second in range(10, 15):                         # nothing ends any more
        rate.per_s(1900, second * S)
    assert rate.per_s(1900, 15 * S) == 0
    assert rate.per_s(10, 16 * S) == 0                   # a counter that went back is no speed


def test_the_memory_of_a_rate_is_bounded() -> None:
    rate = Rate()
    for tick in range(10_000):
        rate.per_s(tick, tick * S // 4)
    assert len(rate._seen) <= 22


def test_runs_of_numbers_are_shortened() -> None:
    assert ranges([5, 0, 1, 2]) == "0-2,5"
    assert ranges([]) == ""
