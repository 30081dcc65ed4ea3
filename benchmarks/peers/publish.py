"""Puts a run of benchmarks.peers into docs/benchmarks.md and docs/benchmarks.svg, with its date and machine.

    .venv/bin/python -m benchmarks.peers.publish [.yadtq/peers/result.json]

Owns what stands between the page's markers; never measures.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.peers import plot, report
from benchmarks.peers.environments import FOLDER, ROOT

PAGE, PICTURE = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "benchmarks.svg"


def between(text: str, name: str, content: str) -> str:
    """The text with what is between two markers replaced."""
    begin, end = f"<!-- {name}: written by benchmarks.peers.publish -->\n", f"<!-- /{name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"there are no markers for {name}")
    return before + begin + content + end + after


def figures(run: dict[str, Any]) -> str:
    """What the page says of a run."""
    machine, options = run["machine"], run["options"]
    table, kernel = report.table(run["medians"]), ".".join(machine["kernel"].split(".")[:2])
    return (f"Measured on {run['date']} on a machine with {machine['cores']} cores ({machine['processor']}), "
            f"{machine['memory_gb']} GB of memory, {machine['system']}, Linux {kernel}: medians of "
            f"{options['rounds']} rounds of about {options['seconds']:g} s a run; {run['disturbed_runs']} of "
            f"{run['runs']} runs were disturbed by other processes (they took more than a tenth of the machine).\n\n"
            f"![Bars of every system for each figure](benchmarks.svg)\n\n{table}\n\n"
            f"YADTQ beside them:\n\n```text\n{report.ratio_lines(run['ratios'])}\n```\n")


def publish(run: dict[str, Any], page: Path = PAGE, picture: Path = PICTURE) -> None:
    """Write both files."""
    text = between(page.read_text(), "figures", figures(run))
    page.write_text(between(text, "settings", report.settings_list(run["systems"]) + "\n"))
    picture.write_text(plot.svg(run["medians"], plot.caption_of(run)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.publish",
                                     description="Put a run of benchmarks.peers into docs/benchmarks.md and .svg")
    parser.add_argument("result", nargs="?", type=Path, default=FOLDER / "result.json",
                        help="the JSON file of the run (.yadtq/peers/result.json)")
    options = parser.parse_args()
    try:
        found = json.loads(options.result.read_text())
    except (OSError, ValueError) as error:
        parser.error(f"{options.result} is no result of benchmarks.peers: {error}")
    publish(found)
