#!/usr/bin/python3
"""Lays wheels out as the virtual environment that the Debian package holds: `install_venv.py WHEELS STAGE FINAL-PATH`.

Runs once in a package's build, by Debian's own /usr/bin/python3, to which the environment belongs. The tree is made
below STAGE as it will lie at FINAL-PATH: scripts name their final interpreter, no file names the machine that built it,
and the same wheels give the same bytes. It is what `python3 -m venv` and pip make less what a package's files need not
have: pip itself and the activation scripts. Never asks the network for anything; the caller has verified the wheels.
"""
from __future__ import annotations

import compileall
import platform
import py_compile
import sys
from pathlib import Path

from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.sources import WheelFile


def make_environment(stage: Path, final: Path) -> Path:
    """An empty environment of the running Python; returns its site-packages below `stage`."""
    root, version = stage / final.relative_to("/"), "python{}.{}".format(*sys.version_info)
    (root / "bin").mkdir(parents=True)
    for name, target in ((version, f"/usr/bin/{version}"), ("python3", version), ("python", version)):
        (root / "bin" / name).symlink_to(target)
    (root / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {platform.python_version()}\n", "utf-8")
    packages = root / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    return packages


def install_wheel(wheel: Path, packages: Path, stage: Path, final: Path) -> None:
    """Unpack one wheel, its scripts for the interpreter at the final path."""
    root = stage / final.relative_to("/")
    destination = SchemeDictionaryDestination(
        {"purelib": str(packages), "platlib": str(packages), "scripts": str(root / "bin"), "data": str(root),
         "headers": str(root / "include")},
        interpreter=str(final / "bin" / "python3"), script_kind="posix")
    with WheelFile.open(wheel) as source:
        install(source, destination, additional_metadata={"INSTALLER": b"debian\n"})


def main() -> int:
    """Make the environment and compile it; 1 when a module does not compile."""
    wheels, stage, final = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    packages = make_environment(stage, final)
    for wheel in sorted(wheels.glob("*.whl")):
        install_wheel(wheel, packages, stage, final)
    # "checked-hash": a module is compiled anew when its source differs, whatever time its file says it has
    compiled = compileall.compile_dir(packages, quiet=1, stripdir=str(stage), prependdir="/", workers=1,
                                      invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    return 0 if compiled else 1


if __name__ == "__main__":
    sys.exit(main())
