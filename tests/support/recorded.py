"""The promises over what the handlers of tests.support.recording wrote down, for tests that break one thing.

1. An accepted task is never lost: every token that was submitted has a result.
2. A task has exactly one result: what was read first is what is read later, and belongs to the token.
3. Attempts are bounded: a task starts once, and once more per fault at most.

The whole of the promises, over a whole history, is tests/support/guarantees.py.
"""
from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class History:
    """What happened to the tokens of a test."""

    starts: Counter[int] = field(default_factory=Counter)
    ends: Counter[int] = field(default_factory=Counter)
    by_pid: dict[int, set[int]] = field(default_factory=dict)      # token -> pids that ended it

    @classmethod
    def read(cls, path: Path) -> History:
        """The history in a file written by tests.support.recording; an absent file is an empty history."""
        history = cls()
        text = path.read_text() if path.exists() else ""
        for line in text[:text.rfind("\n") + 1].splitlines():      # who reads meanwhile may see the half of a line
            entry = json.loads(line)
            (history.starts if entry["what"] == "start" else history.ends)[entry["token"]] += 1
            if entry["what"] == "end":
                history.by_pid.setdefault(entry["token"], set()).add(entry["pid"])
        return history

    @property
    def run_again(self) -> int:
        """How many tasks started more than once."""
        return sum(count > 1 for count in self.starts.values())


def broken_promises(history: History, first: Mapping[int, Any], later: Mapping[int, Any], tokens: Sequence[int],
                    *, faults: int) -> list[str]:
    """Sentences about what was promised and does not hold; empty when all is well.

    `first` and `later` map a token to the result read first, and read again at the end.
    """
    found = []
    lost = [t for t in tokens if first.get(t) is None]
    if lost:
        found.append(f"{len(lost)} tasks have no result: {lost[:5]}")
    changed = [t for t in tokens if t in later and t in first and later[t] != first[t]]
    if changed:
        found.append(f"{len(changed)} results changed after they were read: {changed[:5]}")
    foreign = [t for t in tokens if first.get(t) is not None
               and (first[t][0] != t or first[t][1] not in history.by_pid.get(t, set()))]
    if foreign:
        found.append(f"{len(foreign)} results come from no attempt of their task: {foreign[:5]}")
    too_often = [t for t, count in history.starts.items() if count > 1 + faults]
    if too_often:
        found.append(f"{len(too_often)} tasks started more than {1 + faults} times: {too_often[:5]}")
    return found
