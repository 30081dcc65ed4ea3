"""The command: `python -m tests.fuzz [--seconds N] [TARGET ...]`. Bounded in time; ends with 1 if anything was found.

With atheris (Linux on x86-64, in the locked development requirements; elsewhere `pip install atheris`) coverage guides
it, else bytes are changed at random. What is worth keeping is kept under .yadtq/fuzz/TARGET for the next run; a finding
is printed as a test that repeats it.
"""
from __future__ import annotations

import argparse
import importlib.util
import random
import subprocess
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / ".yadtq" / "fuzz"
START_S = 60            # what a target's process may need beside its time: imports, instrumentation
KEPT_FILES = 500        # of a corpus: a small one starts fast


def main(argv: list[str]) -> int:
    """Fuzz the targets one after the other, each for its share of the time."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Hostile bytes for every decoder.",
                                     epilog="Guided by coverage where atheris is installed: pip install atheris")
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together (default 60)")
    parser.add_argument("--random", action="store_true", help="change bytes at random, although atheris is there")
    parser.add_argument("--seed", type=int, default=None, help="of the random changes")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    options = parser.parse_args(argv)
    unknown = sorted(set(options.targets) - set(TARGETS))
    if unknown:
        parser.error(f"no such target: {unknown[0]}; there are {', '.join(TARGETS)}")
    names = options.targets or list(TARGETS)
    guided = importlib.util.find_spec("atheris") is not None and not options.random
    share_s = max(1.0, options.seconds / len(names))
    found = 0
    for name in names:
        finding = _guided(name, share_s) if guided else _at_random(name, share_s, options.seed)
        if finding is not None:
            found += 1
            print(_as_test(name, finding), flush=True)
    return 1 if found else 0


def _guided(name: str, seconds: float) -> bytes | None:
    """The bytes that broke the target, if any."""
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in sorted(folder.iterdir(), key=lambda file: file.stat().st_size)[KEPT_FILES:]:
        old.unlink()
    for number, seed in enumerate(TARGETS[name].seeds):
        (folder / f"seed-{number}").write_bytes(seed)
    before = set(folder.glob("*-*"))
    command = [sys.executable, "-m", "tests.fuzz.guided", name, str(folder), str(int(seconds))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False,
                          timeout=seconds + START_S)
    tries = [line.rpartition(":")[2].strip() for line in done.stderr.splitlines() if "number_of_executed_units" in line]
    print(f"{name}: {tries[0] if tries else 'no'} tries in {seconds:.0f} s, guided by coverage", flush=True)
    new = [file for file in set(folder.glob("*-*")) - before if not file.name.startswith("seed-")]
    if done.returncode == 0 and not new:
        return None
    print(done.stderr[-6000:])
    if not new:
        raise SystemExit(f"{name}: atheris ended with {done.returncode}")
    data = new[0].read_bytes()
    new[0].unlink()
    return data


def _at_random(name: str, seconds: float, seed: int | None) -> bytes | None:
    """The same without coverage."""
    seed = random.randrange(1 << 32) if seed is None else seed
    rng, target, tries = random.Random(seed), TARGETS[name], 0
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            tries += 1
            data = mutated(target.seeds, rng)
            try:
                target.run(data)
            except Exception:
                traceback.print_exc()
                return data
    finally:
        print(f"{name}: {tries} tries in {seconds:.0f} s at random, --seed {seed}", flush=True)
    return None


def _as_test(name: str, data: bytes) -> str:
    return (f"\nFOUND in {name}, {len(data)} bytes. Into FOUND of tests/unit/test_fuzz.py:\n\n"
            f"    ({name!r}, bytes.fromhex({data.hex()!r})),\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
