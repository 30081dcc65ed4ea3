"""How YADTQ behaves as a cluster grows, measured and simulated: `python -m benchmarks.scale --hosts 1000`.

Costs are measured on the real code; what happens to a cluster is simulated with the project's own decisions, the
network and Kafka's group coordinator played, from a seed. Exit status 1 if an invariant was broken. docs/scale.md says
what it means.
"""
from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from typing import Any

from benchmarks.scale import costs, scenarios
from benchmarks.scale.cluster import Cluster

BEFORE = {"blocking": True, "beside": False}


def measured(hosts: int, per_host: int, *, library: bool) -> dict[str, Any]:
    partitions = hosts * per_host
    return {"the group's leader": costs.assignment(hosts, partitions, library=library),
            "heartbeats": costs.heartbeats(partitions),
            "the supervisor of one host": costs.supervisor(per_host),
            "Kafka's metadata of the task topic, KB": round(costs.metadata_bytes(partitions) / 1000, 1),
            "an end is committed after at most, s": costs.commit_lag_s()}


def show(name: str, figures: dict[str, Any], indent: int = 0) -> None:
    print(f"{'  ' * indent}{name}")
    for key, value in figures.items():
        if isinstance(value, dict):
            show(key, value, indent + 1)
        elif key == "broken":
            for sentence in value:
                print(f"{'  ' * indent}  BROKEN: {sentence}")
        else:
            print(f"{'  ' * indent}  {key:<58}{value:>12,}" if isinstance(value, int | float) else
                  f"{'  ' * indent}  {key:<58}{value!s:>12}")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="How a cluster behaves as it grows")
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--per-host", type=int, default=4, help="partitions (and workers) of a host")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", choices=[one.__name__ for one in scenarios.ALL])
    parser.add_argument("--no-costs", action="store_true", help="simulate only")
    parser.add_argument("--before", action="store_true",
                        help="simulate kafka-python's assignor, hand-overs that hold up the group, leases that end "
                             "while it is arranged anew")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    found: dict[str, Any] = {"hosts": options.hosts, "partitions": options.hosts * options.per_host,
                             "seed": options.seed}
    if not options.no_costs:
        found["costs"] = measured(options.hosts, options.per_host, library=True)
    slow: dict[str, Any] = {}
    if options.before:
        group = costs.assignment(options.hosts, found["partitions"], library=True)
        slow = BEFORE | {"assign_s": group["kafka-python's own assignor, ms"] / 1000}
    make = partial(Cluster, options.hosts, found["partitions"], seed=options.seed, **slow)
    for scenario in scenarios.ALL:
        if not options.only or scenario.__name__ in options.only:
            began = time.monotonic()
            found[scenario.__name__] = figures = scenario(make)
            if not options.json:
                print(f"{scenario.__name__}: {(scenario.__doc__ or '').splitlines()[0]} "
                      f"({time.monotonic() - began:.0f} s)")
                show("", figures)
    if options.json:
        print(json.dumps(found, indent=1))
    elif not options.no_costs:
        show("costs", found["costs"])
    return int(any(figures.get("broken") for figures in found.values() if isinstance(figures, dict)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
