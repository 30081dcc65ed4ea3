"""The Python environments of the measured systems, made from their locked requirements and kept for the next time.

Runs in the measuring process; needs the package index only when a lock file has changed. The project's own environment
is the one that this runs in.
"""
from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".yadtq" / "peers"
_PIP = ("-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet", "--require-hashes")


class NoEnvironment(RuntimeError):
    """An environment could not be made; the message says why."""


def python_of(name: str) -> str:
    """The interpreter of an environment: "" is ours, else requirements/NAME.txt, which is installed if need be."""
    if not name:
        return sys.executable
    locked, build = ROOT / "requirements" / f"{name}.txt", ROOT / "requirements" / "build.txt"
    folder = FOLDER / f"venv-{name}"
    stamp = folder / ".made-from"
    wanted = hashlib.sha256(locked.read_bytes() + build.read_bytes() + sys.version.encode()).hexdigest()
    python = folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"making {folder.relative_to(ROOT)} from requirements/{name}.txt", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(python), *_PIP, "-r", str(build)])                    # some have no wheels
        _run([str(python), *_PIP, "--no-build-isolation", "-r", str(locked)])
        stamp.write_text(wanted)
    return str(python)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise NoEnvironment(f"{' '.join(command)}\n{done.stdout[-1000:]}{done.stderr[-3000:]}")


def versions(python: str, packages: tuple[str, ...]) -> dict[str, str]:
    """The installed versions of packages, and of the interpreter."""
    code = ("import json, sys, importlib.metadata as m; print(json.dumps({'python': sys.version.split()[0]} | "
            "{name: m.version(name) for name in sys.argv[1:]}))")
    done = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found
