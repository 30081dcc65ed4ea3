"""A checker that never fails is worth nothing: each promise broken on purpose must be found."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.recorded import History, broken_promises

TOKENS = [1, 2, 3]
RESULTS = {t: [t, 10] for t in TOKENS}


def history(tmp_path: Path, entries: list[tuple[str, int, int]]) -> History:
    path = tmp_path / "history"
    path.write_text("".join(json.dumps({"what": w, "token": t, "pid": p, "at": 0}) + "\n" for w, t, p in entries))
    return History.read(path)


@pytest.fixture
def good(tmp_path: Path) -> History:
    return history(tmp_path, [(what, t, 10) for t in TOKENS for what in ("start", "end")])


def test_a_good_run_breaks_nothing(good: History) -> None:
    assert broken_promises(good, RESULTS, RESULTS, TOKENS, faults=0) == []


def test_a_lost_task_is_found(good: History) -> None:
    found = broken_promises(good, {1: [1, 10], 3: [3, 10]}, RESULTS, TOKENS, faults=0)
    assert found == ["1 tasks have no result: [2]"]


def test_a_changed_result_is_found(good: History) -> None:
    assert "changed" in broken_promises(good, RESULTS, {**RESULTS, 2: [2, 11]}, TOKENS, faults=0)[0]


def test_a_result_of_nobody_is_found(good: History) -> None:
    assert "no attempt" in broken_promises(good, {**RESULTS, 2: [3, 10]}, {}, TOKENS, faults=0)[0]
    assert "no attempt" in broken_promises(good, {**RESULTS, 2: [2, 99]}, {}, TOKENS, faults=0)[0]


def test_too_many_attempts_are_found(tmp_path: Path) -> None:
    again = history(tmp_path, [("start", 1, 10), ("start", 1, 11), ("end", 1, 11)])
    assert again.run_again == 1
    assert broken_promises(again, {1: [1, 11]}, {}, [1], faults=1) == []
    assert "started more than 1 times" in broken_promises(again, {1: [1, 11]}, {}, [1], faults=0)[0]
