"""The delivery protocol holds in every short scenario, and with any of its rules missing something breaks.

The second half is the mutation test of the protocol: it shows that each rule is needed, and that the checker would see
it if one were missing. Then the checker itself, on models whose outcome is known. `python -m tests.model --full` runs
the long scenarios as well.
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.model import keyed, poison, wheel
from tests.model.__main__ import main
from tests.model.checker import Step, check
from tests.model.rules import Rules
from tests.model.suite import CHECKS, LACK, Check

SHORT = [one for one in CHECKS if one.short]


@pytest.mark.parametrize("one", SHORT, ids=[f"{one.what}-{one.name}" for one in SHORT])
def test_it_comes_out_as_it_should(one: Check) -> None:
    verdict = one.run()
    assert one.as_expected(verdict), f"{verdict.found}: {verdict.text}\n" + "\n".join(verdict.trace)


@pytest.mark.parametrize("rules", [Rules, poison.Rules, wheel.Rules, keyed.Rules])
def test_each_rule_is_missing_somewhere(rules: type[Any]) -> None:
    missed = {name for one in CHECKS if one.what == LACK for name in one.off}
    assert set(rules._fields) <= missed


def test_the_page_of_the_protocol_names_every_rule_and_only_tests_that_exist() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "protocol.md").read_text()
    rules = {name for one in (Rules, poison.Rules, wheel.Rules, keyed.Rules) for name in one._fields}
    assert [name for name in sorted(rules - {"claim", "killed_first"}) if f"`{name}`" not in page] == []
    file, missing = "", []
    for reference in re.findall(r"`((?:[a-z]+/test_[a-z_]+\.py)?(?:::test_[a-z_0-9]+)?)`", page):
        path, _, test = reference.partition("::")
        file = path or file
        text = (root / "tests" / file).read_text() if reference and (root / "tests" / file).is_file() else ""
        if reference and f"def {test}(" not in text and (test or not text):
            missing.append(reference)
    assert missing == []


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "settle: chain", "--trace"]) == 0
    out = capsys.readouterr().out
    assert "stuck" in out
    assert "FAULT: worker0 dies" in out
    assert main(["--only", "no such name"]) == 1


# ---- the checker -----------------------------------------------------------------------------------------------------
class Walk:
    """States are numbers; `edges` says where one can go, and whether by a fair step."""

    def __init__(self, edges: dict[int, list[tuple[int, bool]]], bad: int = -1, goal: int = -1) -> None:
        self._edges, self._bad, self._goal = edges, bad, goal

    def start(self) -> int:
        return 0

    def steps(self, state: int) -> Iterator[Step[int]]:
        for to, fair in self._edges.get(state, []):
            yield f"to {to}", fair, to

    def violation(self, state: int) -> str | None:
        return "bad" if state == self._bad else None

    def owed(self, state: int) -> str | None:
        return "not there" if state != self._goal else None


def test_the_shortest_way_is_shown() -> None:
    edges = {0: [(1, True), (2, True)], 1: [(3, True)], 2: [(4, True)], 3: [(4, True)], 4: [(5, True)]}
    verdict = check(Walk(edges, 5))
    assert (verdict.found, verdict.trace) == ("violated", ["to 2", "to 4", "to 5"])


def test_nobody_has_to_do_what_is_not_fair() -> None:
    assert check(Walk({0: [(1, True)]}, goal=1)).held
    assert check(Walk({0: [(1, False)]}, goal=1)).found == "stuck"


def test_for_ever_busy_is_not_done() -> None:
    assert check(Walk({0: [(1, True)], 1: [(0, True)]}, goal=2)).found == "endless"
    assert check(Walk({0: [(1, True)], 1: [(0, True), (2, False)]}, goal=2)).found == "endless"
    assert check(Walk({0: [(1, True)], 1: [(0, True), (2, True)]}, goal=2)).held, "it can't stay away for ever"


def test_too_many_states_are_no_success() -> None:
    verdict = check(Walk({n: [(n + 1, True)] for n in range(100)}, goal=100), limit=10)
    assert (verdict.found, verdict.held) == ("cut", False)
