"""`python -m tests.fault.chaos [--minutes N] [--seed S] ...`: everything breaks for a while, and nothing may be lost.

Exit status 0 only when every promise held and everything recovered.
"""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.fault.chaos.plan import KINDS
from tests.fault.chaos.run import Order, free_seed, run


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault.chaos", description="Break everything for a while, "
                                     "then see whether every promise was kept")
    parser.add_argument("--minutes", type=float, default=3.0, help="how long things are broken (default 3)")
    parser.add_argument("--seed", type=int, help="the plan of an earlier run again (default: a new one)")
    parser.add_argument("--transport", choices=("librdkafka", "kafka-python"), default="librdkafka")
    parser.add_argument("--rate", type=float, default=200.0, help="tasks a second (default 200)")
    parser.add_argument("--only", metavar="KIND,...", help=f"only these faults, of {', '.join(KINDS)}")
    parser.add_argument("--folder", type=Path, help="where logs and history go (default: a temporary folder)")
    parser.add_argument("--keep", action="store_true", help="keep the folder even if all holds")
    parser.add_argument("--report", type=Path, help="write the figures to this file, as JSON")
    options = parser.parse_args(argv)
    kinds = tuple(options.only.split(",")) if options.only else tuple(KINDS)
    unknown = set(kinds) - set(KINDS)
    if unknown:
        parser.error(f"there is no fault {', '.join(sorted(unknown))}")
    seed = free_seed() if options.seed is None else options.seed
    report = run(Order(seed, options.minutes, options.transport, options.rate, kinds=kinds, folder=options.folder,
                       keep=options.keep), say=lambda text: print(text, flush=True))
    if options.report:
        options.report.write_text(json.dumps(report, indent=1) + "\n")
    print("every promise held" if not report["failures"] else f"{len(report['failures'])} failures", flush=True)
    return 1 if report["failures"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
