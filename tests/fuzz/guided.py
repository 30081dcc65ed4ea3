"""One target under atheris, which lets coverage guide what it makes: `python -m tests.fuzz.guided TARGET CORPUS S`.

A process of its own, started by `python -m tests.fuzz`: libFuzzer owns it, and ends it at the first finding, which it
leaves in the corpus' folder as `crash-...`.
"""
from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["yadtq", "yadtqd"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz until the time is over or something is found."""
    name, corpus, seconds = sys.argv[1:4]
    atheris.Setup(["fuzz", f"-max_total_time={seconds}", "-max_len=65536", "-print_final_stats=1", "-timeout=10",
                   "-rss_limit_mb=2048", f"-artifact_prefix={corpus}/", corpus], TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
