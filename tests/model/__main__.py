"""`python -m tests.model`: check the delivery protocol, scenario by scenario, and say what was found.

    python -m tests.model                   the short form, which also runs with the tests
    python -m tests.model --full            everything: some minutes, 200 MB
    python -m tests.model --only expiry     the checks with this in their name
    python -m tests.model --trace           with the shortest way to what breaks, step by step

Ends with status 1 when anything did not come out as it should.
"""
from __future__ import annotations

import argparse
import sys
import time

from tests.model.checker import Verdict
from tests.model.suite import CHECKS, Check


def main(arguments: list[str] | None = None) -> int:
    """Run the checks that were asked for; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description="Check the delivery protocol.")
    parser.add_argument("--full", action="store_true", help="the long ones too")
    parser.add_argument("--only", metavar="TEXT", default="", help="only checks with this in their name")
    parser.add_argument("--trace", action="store_true", help="show how what breaks comes about")
    asked = parser.parse_args(arguments)
    began, wrong = time.monotonic(), 0
    chosen = [one for one in CHECKS if (one.short or asked.full) and asked.only in f"{one.what} {one.name}"]
    for one in chosen:
        verdict = one.run()
        wrong += not one.as_expected(verdict)
        _show(one, verdict, trace=asked.trace or not one.as_expected(verdict))
    print(f"{len(chosen)} checks, {wrong} not as expected, {time.monotonic() - began:.1f} s")
    return 1 if wrong or not chosen else 0


def _show(one: Check, verdict: Verdict, *, trace: bool) -> None:
    outcome = "as expected" if one.as_expected(verdict) else "NOT AS EXPECTED"
    print(f"{one.what:8} {one.name:58} {verdict.found:8} {verdict.states:8,} states {verdict.steps:9,} steps "
          f"depth {verdict.depth:2} {verdict.seconds:6.1f} s  {outcome}", flush=True)
    if verdict.text:
        print(f"         {verdict.text}")
    for number, label in enumerate(verdict.trace if trace else (), start=1):
        print(f"         {number:3}  {label}")


if __name__ == "__main__":
    sys.exit(main())
