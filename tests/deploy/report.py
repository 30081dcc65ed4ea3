"""What a run of the deployment's tests found, for people: figures with their limits, transcripts, the tests' results.

Collected while the tests run; `markdown()` is the page. Pure but for the clock that is given to it.
"""
from __future__ import annotations

import re
from dataclasses import dataclass, field

_SECRET = re.compile(r"(password|secret)(\S*\s*[=:]\s*)\S+", re.I)


@dataclass(frozen=True)
class Figure:
    """One measured value; `limit` is the most that it may be (None: only told)."""

    what: str
    value: float
    unit: str = "s"
    limit: float | None = None

    @property
    def kept(self) -> bool:
        """Is it within its limit?"""
        return self.limit is None or self.value <= self.limit


@dataclass
class Report:
    """Everything that a run wants to tell."""

    figures: list[Figure] = field(default_factory=list)
    transcripts: list[tuple[str, str]] = field(default_factory=list)
    results: list[tuple[str, str, float]] = field(default_factory=list)         # test, outcome, seconds
    notes: dict[str, str] = field(default_factory=dict)

    def figure(self, what: str, value: float, unit: str = "s", limit: float | None = None) -> None:
        """Note a figure; AssertionError when it is beyond its limit."""
        figure = Figure(what, value, unit, limit)
        self.figures.append(figure)
        print(f"figure: {what}: {value:.2f} {unit}")
        assert figure.kept, f"{what}: {value:.2f} {unit}, and {limit:g} is the limit"

    def transcript(self, title: str, text: str) -> None:
        """Note what was said on a terminal."""
        self.transcripts.append((title, _SECRET.sub(r"\1\2********", text.rstrip())))

    def markdown(self, title: str, intro: str) -> str:
        """The page."""
        lines = [f"# {title}", "", intro, "", "## Figures", "", "| what | measured | at most |", "|---|---|---|"]
        for figure in self.figures:
            limit = "" if figure.limit is None else f"{figure.limit:g} {figure.unit}"
            lines.append(f"| {figure.what} | {_round(figure.value)} {figure.unit} | {limit} |")
        if self.notes:
            lines += ["", *(f"- {name}: {text}" for name, text in self.notes.items())]
        lines += ["", "## Checks", "", "| check | result | seconds |", "|---|---|---|"]
        lines += [f"| {_sentence(test)} | {outcome} | {seconds:.1f} |" for test, outcome, seconds in self.results]
        for name, text in self.transcripts:
            lines += ["", f"## {name}", "", "```text", text, "```"]
        return "\n".join(lines) + "\n"


def _round(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


def _sentence(test: str) -> str:
    """`tests/deploy/test_x.py::test_a_b[c]` as words."""
    name = test.rpartition("::")[2].removeprefix("test_").replace("_", " ")
    return name[:1].upper() + name[1:]
