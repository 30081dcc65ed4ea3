"""Writes the table of docs/configuration.md from the options: `python -m tests.support.config_docs`."""
from __future__ import annotations

from itertools import groupby
from pathlib import Path

from yadtq.config import OPTIONS
from yadtq.config_load import toml
from yadtq.options import Option

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
BEGIN, END = "<!-- options: written by tests/support/config_docs.py -->\n", "<!-- end of options -->\n"

# Title and first option of each group, in the order of the table in config.py.
GROUPS = {"kafka_host": "Kafka", "redis_host": "Redis", "submit_timeout_s": "Submitting", "tasks": "Running tasks",
          "assignment": "Supervising", "log_level": "Logging"}


def render(page: str) -> str:
    """The page with its table as the options are now."""
    head, _, rest = page.partition(BEGIN)
    tail = rest.partition(END)[2]
    return head + BEGIN + table() + END + tail


def table() -> str:
    """A table in Markdown for each group of options."""
    title, titled = "", []
    for name, option in OPTIONS.items():
        title = GROUPS.get(name, title)
        titled.append((title, option))
    parts = []
    for group, rows in groupby(titled, key=lambda pair: pair[0]):
        parts.append(f"\n### {group}\n\n| Option | Default | Allowed | Used by | What it is, and why so |\n"
                     "|---|---|---|---|---|\n" + "".join(row(option) for _, option in rows))
    return "".join(parts) + "\n"


def row(option: Option) -> str:
    """One line of the table."""
    unit = {"": "", "s": " s", "ms": " ms"}.get(option.unit, f" {option.unit}")
    default = f"`{toml(option.default)}`{unit}" if option.default not in ("", ()) else ""
    kind = {str: "text", bool: "true or false", tuple: "list"}.get(option.type, "number")
    allowed = (option.allowed or kind).replace("'", "`") if option.choices else option.allowed or kind
    secret = " Secret." if option.secret else ""
    cells = (f"`{option.name}`", default, allowed.replace("``", "none"), option.used_by, option.doc + secret)
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
