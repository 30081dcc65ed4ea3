"""Shows that docs/tasks.md tells the truth: its examples run, it knows every task type and option, its codes exist."""
from __future__ import annotations

import doctest
import inspect
import re
from pathlib import Path

import pytest

from yadtq import errors, tasks
from yadtqd import registry
from yadtqd.tasks import operands

DOCUMENT = Path(__file__).parents[2] / "docs" / "tasks.md"
TEXT = DOCUMENT.read_text()


def test_the_examples_run(monkeypatch):
    monkeypatch.setattr(tasks, "_declared", dict(tasks._declared))
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 10
    parsed = doctest.DocTestParser().get_doctest("\n".join(blocks), {"__name__": "__main__"}, "docs/tasks.md", None, 0)
    assert len(parsed.examples) > 35
    told: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(parsed, out=told.append)
    assert not told, "".join(told)


@pytest.mark.parametrize("name", list(registry.load()))
def test_the_examples_of_the_docstrings_hold(name):
    handler = registry.load().get(name).handler
    examples = [line.strip() for line in inspect.getdoc(handler).splitlines() if " == " in line]
    assert examples
    for example in examples:
        assert eval(example, {name: handler}), example


def test_every_task_type_and_option_has_its_row():
    rows = re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)
    assert set(registry.load()) <= set(rows)
    assert set(tasks._OPTIONS) <= set(rows)


def test_codes_and_limits_are_those_of_the_code():
    rows = re.findall(r"^\| `([A-Z_]+)` \| `(\w+)` \|", TEXT, re.MULTILINE)
    assert len(rows) == 8
    for code, name in rows:
        assert errors.by_code(code) is getattr(errors, name)
    assert f"{operands.MAX_INTEGER_BITS:,} bits" in TEXT
    assert f"{operands.MAX_ELEMENTS:,} elements" in TEXT
    assert f"up to {operands.MAX_DEPTH} levels" in TEXT
    assert f"from -{operands.MAX_ROUND_TO} to {operands.MAX_ROUND_TO}" in TEXT
