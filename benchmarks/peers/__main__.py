"""Task queues of other projects and YADTQ, on one machine, in one run, by turns.

    .venv/bin/python -m benchmarks.peers                    # five rounds: about twenty minutes
    .venv/bin/python -m benchmarks.peers --quick            # one short round, to see that all works: two minutes
    .venv/bin/python -m benchmarks.peers --only yadtq --only celery --rounds 7

Makes the environments of the others in .yadtq/peers from locked requirements, starts a Kafka and a Redis of its own on
free ports, and measures every system once a round, in another order each round. Every result of every task is read back
and compared. Writes .yadtq/peers/result.json, .svg and .md (`--out` names another stem) and prints the table. Exit
status 1 when a system failed; the others are reported all the same. docs/benchmarks.md says what each figure means.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.peers import plot, report
from benchmarks.peers.environments import FOLDER, NoEnvironment, python_of, versions
from benchmarks.peers.guardian import Guardian
from benchmarks.peers.measure import Sizes, one_round
from benchmarks.peers.stand import Failed, Stand
from benchmarks.peers.systems.catalogue import BY_NAME, SYSTEMS, System

ROUNDS, SECONDS = 5, 2.0            # medians of five runs of about two seconds
QUICK_ROUNDS, QUICK_SECONDS = 1, 0.7
FORMAT = 1                          # of the JSON file
DISTURBED_PCT = 10.0                # of the machine, taken by processes that have no part in a run


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cores": os.cpu_count(), "processor": model or platform.machine(), "memory_gb": round(memory / 2**30),
            "kernel": platform.release(), "system": platform.freedesktop_os_release().get("PRETTY_NAME", "")}


def describe(systems: list[System]) -> dict[str, Any]:
    """Versions and settings, for whoever wants to repeat it."""
    return {system.name: {"title": system.title, "setting": system.setting, "io_setting": system.io_setting,
                          "versions": versions(python_of(system.environment), system.packages)} for system in systems}


def run_rounds(stand: Stand, systems: list[System], rounds: int, seconds: float,
               failures: dict[str, str]) -> report.Samples:
    """Every system once a round, the first one another each time."""
    samples: report.Samples = []
    sizes = Sizes(seconds)
    for index in range(rounds):
        turn = index * 3 % len(systems)
        for system in systems[turn:] + systems[:turn]:
            if system.name in failures:
                continue
            begun = time.monotonic()
            try:
                found = one_round(stand, system, sizes)
            except Failed as error:
                failures[system.name] = str(error)
                print(f"FAILED {error}", file=sys.stderr, flush=True)
                continue
            samples.append({"round": index, "system": system.name, "workloads": found})
            _progress(index, system, found, time.monotonic() - begun)
    return samples


def _progress(index: int, system: System, found: dict[str, dict[str, Any]], took_s: float) -> None:
    figures = "  ".join(f"{metric.key} {report.shown(value)}" for metric in report.METRICS[:7]
                        if (value := metric.of(found)) is not None)
    foreign = max((one.get("foreign_pct", 0.0) for one in found.values()), default=0.0)
    disturbed = f"  (others took {foreign:.0f} % of the machine)" if foreign > DISTURBED_PCT else ""
    print(f"round {index + 1}  {system.title:<20} {figures}  [{took_s:.0f} s]{disturbed}", file=sys.stderr, flush=True)


def write(stem: Path, run: dict[str, Any]) -> None:
    """The files of a run."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(run, indent=1) + "\n")
    stem.with_suffix(".svg").write_text(plot.svg(run["medians"], plot.caption_of(run)))
    stem.with_suffix(".md").write_text(report.table(run["medians"]) + "\n")


def measure(options: argparse.Namespace, systems: list[System]) -> dict[str, Any]:
    """The whole run, as it is written to the JSON file."""
    described = describe(systems)
    failures: dict[str, str] = {}
    folder = Path(tempfile.mkdtemp(prefix="yadtq-peers-"))
    begun = time.monotonic()
    with Guardian(folder) as guardian:
        with Stand(folder, guardian) as stand:
            if not options.quick:           # so that the sizes fit, and Kafka's compiler has seen it all
                run_rounds(stand, systems, 1, QUICK_SECONDS, failures)
            samples = run_rounds(stand, systems, options.rounds, options.seconds, failures)
        if failures:
            shutil.copytree(folder, FOLDER / "failed", dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("kafka", "redis"))
    runs = [one for sample in samples for one in sample["workloads"].values() if "foreign_pct" in one]
    summary = report.medians(samples)
    return {"format": FORMAT, "date": time.strftime("%Y-%m-%d"), "machine": machine(), "systems": described,
            "options": {"rounds": options.rounds, "seconds": options.seconds},
            "took_s": round(time.monotonic() - begun), "runs": len(runs),
            "disturbed_runs": sum(one["foreign_pct"] > DISTURBED_PCT for one in runs),
            "failures": failures,
            "medians": summary, "ratios": report.ratios(summary), "samples": samples}


def main(argv: list[str]) -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--only", action="append", choices=sorted(BY_NAME), help="a system to measure; may be repeated")
    parser.add_argument("--rounds", type=int, help=f"rounds, of which medians are taken ({ROUNDS})")
    parser.add_argument("--seconds", type=float, help=f"about how long a run takes ({SECONDS:g})")
    parser.add_argument("--out", type=Path, default=FOLDER / "result", help="stem of the files (.yadtq/peers/result)")
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    options.seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.default_int_handler)     # ends everything as Ctrl-C does
    systems = [system for system in SYSTEMS if not options.only or system.name in options.only]
    try:
        run = measure(options, systems)
    except NoEnvironment as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: everything that was started has been ended", file=sys.stderr)
        return 130
    write(options.out, run)
    print(report.table(run["medians"]), report.ratio_lines(run["ratios"]), sep="\n\n")
    print(f"\n{run['disturbed_runs']} of {run['runs']} runs were disturbed by other processes (more than "
          f"{DISTURBED_PCT:g} % of the machine); {run['took_s']} s; written: {options.out}.json .svg .md")
    return 1 if run["failures"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
