"""Everything that is checked, one list: each scenario of each model, and whether it is to hold.

A check that is to fail is a rule that is missing, or something that can't be promised. What fails though it should hold
is a hole in the protocol; what holds though it should fail is a checker that sees nothing, or a rule that nobody needs.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.model import keyed, poison, scenarios, wheel
from tests.model.checker import Model, Verdict, check
from tests.model.delivery import Delivery

RULE, LACK, LIMIT = "protocol", "without", "beyond"     # what a check is about


@dataclass(frozen=True)
class Check:
    """One search."""

    what: str                       # RULE: all rules on; LACK: one is off; LIMIT: more is asked than is promised
    name: str
    holds: bool
    model: Callable[[], Model[Any]]
    short: bool = True
    off: tuple[str, ...] = ()       # the rules that are off

    def run(self, limit: int = 1_000_000) -> Verdict:
        """Search."""
        return check(self.model(), limit)

    def as_expected(self, verdict: Verdict) -> bool:
        """Did it come out as it should?"""
        return verdict.found != "cut" and verdict.held == self.holds


def _model(face: Callable[[Any], Model[Any]], scenario: Any) -> Callable[[], Model[Any]]:
    return lambda: face(scenario)


def _core() -> Iterator[Check]:
    for short, group in ((True, scenarios.SHORT), (False, scenarios.FULL)):
        for scenario in group:
            yield Check(RULE, scenario.name, True, _model(Delivery, scenario), short)
    for lack in scenarios.LACKS:
        yield Check(LACK, f"{', '.join(lack.rules)}: {lack.scenario.name}", False, _model(Delivery, lack.broken),
                    off=lack.rules)
    for holds, scenario in scenarios.LIMITS:
        yield Check(LIMIT, scenario.name, holds, _model(Delivery, scenario))


def _small(module: Any, face: Callable[[Any], Model[Any]]) -> Iterator[Check]:
    """Of a model that has its scenarios beside it."""
    for short, group in ((True, module.HOLDS), (False, module.FULL)):
        for scenario in group:
            yield Check(RULE, scenario.name, True, _model(face, scenario), short)
    for scenario in module.BREAKS:
        off = tuple(name for name, on in scenario.rules._asdict().items() if not on)
        yield Check(LACK, f"{', '.join(off)}: {scenario.name}", False, _model(face, scenario), off=off)
    for holds, scenario in getattr(module, "LIMITS", ()):
        yield Check(LIMIT, scenario.name, holds, _model(face, scenario))


CHECKS = [*_core(), *_small(poison, poison.Poison), *_small(keyed, keyed.Keyed), *_small(wheel, wheel.Wheel)]
