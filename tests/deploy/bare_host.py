#!/usr/bin/env python3
"""Shows that setup.sh needs nothing beforehand: runs it on a Debian that has bash, apt and python3, and no more.

    sudo python3 -m tests.deploy.bare_host                         both users: install, up, doctor, down, demo, test
    sudo python3 -m tests.deploy.bare_host --user ordinary demo    one user, these commands only

A systemd-nspawn host is booted for each user from a fresh overlay on the image of all test hosts (tests/deploy/lab; no
Java, no Maven, Redis, pip or venv). It gets a clone of HEAD, runs the script below as a systemd unit, and hands out its
exit status. It shares this machine's network. Needs root and Debian's packages systemd-container, mmdebstrap and git.
Not part of the test suite.
"""
from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.deploy.lab.image import equip, image
from tests.deploy.lab.machine import Machine, forget, overlay

ROOT = Path(__file__).resolve().parents[2]
NAME = "yadtqbare"
USERS = {"root": "root", "ordinary": "worker"}  # the second may use sudo
COMMANDS = ["install", "up --no-daemon", "doctor", "down", "demo", "test"]
LIMIT_S = 1800

SCRIPT = r"""#!/bin/bash
# Runs in the host as the user. Arguments: the commands, one each.
cd ~/yadtq || exit 1
bare=yes
for program in java mvn redis-server pip pip3; do command -v "$program" && bare=no; done
python3 -c 'import ensurepip' 2>/dev/null && bare=no
[ $bare = yes ] || { echo "BARE: the host is not bare"; exit 1; }
failed=0
ok() { echo "BARE: ok      $*"; }
bad() { echo "BARE: FAILED  $*"; failed=1; }
run() {
  local begin=$SECONDS
  echo "BARE: ./setup.sh $1"
  if ./setup.sh $1 </dev/null; then ok "$1 ($((SECONDS - begin)) s)"; else bad "$1 ($((SECONDS - begin)) s)"; fi
  TOOK=$((SECONDS - begin))
}
for command; do run "$command"; done
before=$(find .venv ~/.cache/yadtq -printf '%p %T@ %s\n' | grep -v __pycache__ | sort | sha256sum)
run install
[ $TOOK -le 10 ] || bad "a second install is not quick: $TOOK s"
after=$(find .venv ~/.cache/yadtq -printf '%p %T@ %s\n' | grep -v __pycache__ | sort | sha256sum)
if [ "$before" = "$after" ]; then ok "a second install changes nothing"; else bad "a second install changes files"; fi
left=$(pgrep -af 'kafka\.Kafka|redis-server|yadtqd|show_progress' || true)
if [ -z "$left" ]; then ok "no process is left"; else bad "left behind: $left"; fi
if systemctl is-enabled -q redis-server || systemctl is-active -q redis-server
then bad "Redis was left on as a service"; else ok "no Redis service was left on"; fi
[ ! -e /usr/sbin/policy-rc.d ] || bad "policy-rc.d was left behind"
exit $failed
"""
UNIT = """[Unit]
Description=setup.sh on a bare host
After=multi-user.target
SuccessAction=exit
FailureAction=exit
[Service]
Type=oneshot
ExecStart=/bare/start
StandardOutput=file:/bare/output
StandardError=inherit
[Install]
WantedBy=default.target
"""


def sh(*command: str | Path, **more: object) -> None:
    subprocess.run([str(part) for part in command], check=True, **more)  # type: ignore[call-overload]


def prepare(root: Path, user: str, commands: list[str]) -> None:
    """Put the clone and the script into a host."""
    equip(root)
    home = root / "root"
    if user != "root":
        sh("chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", user)
        (root / "etc/sudoers.d/bare").write_text(f"{user} ALL=(ALL) NOPASSWD: ALL\n")
        home = root / "home" / user
    sh("git", "clone", "--quiet", "--no-hardlinks", ROOT, home / "yadtq")
    sh("chroot", root, "chown", "-R", f"{user}:", f"/{(home / 'yadtq').relative_to(root)}")
    bare = root / "bare"
    bare.mkdir()
    (bare / "script").write_text(SCRIPT)
    words = " ".join(f"'{command}'" for command in commands)
    (bare / "start").write_text(f"#!/bin/sh\nexec runuser -l {user} -c \"exec bash /bare/script {words}\"\n")
    (bare / "start").chmod(0o755)
    (root / "etc/systemd/system/bare.service").write_text(UNIT)
    (root / "etc/systemd/system/ssh.service").symlink_to("/dev/null")       # the network is this machine's
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "bare.service").symlink_to("/etc/systemd/system/bare.service")


@contextlib.contextmanager
def host(user: str, commands: list[str]) -> Iterator[Machine]:
    """A fresh overlay on the image, prepared, and the machine to boot it; gone afterwards."""
    base = image()
    folder = Path(tempfile.mkdtemp(prefix="yadtq-bare-", dir="/var/tmp"))
    root = folder / "root"
    overlay(root, [base], folder / "upper", folder / "work")
    machine = Machine(NAME, root, folder / "console")
    try:
        prepare(root, user, commands)
        yield machine
    finally:
        machine.power_off(30)
        forget(NAME)
        sh("umount", "-l", root)
        shutil.rmtree(folder, ignore_errors=True)


def watch(machine: Machine, limit_s: float) -> int:
    """Print what the script says, as it says it; its exit status, or 124 past the limit."""
    output, seen, deadline = machine.root / "bare" / "output", 0, time.monotonic() + limit_s
    while True:
        running = machine.running
        if output.exists():
            with output.open("rb") as file:
                file.seek(seen)
                chunk = file.read()
            seen += len(chunk)
            sys.stdout.buffer.write(chunk)
            sys.stdout.flush()
        if not running:
            return machine.wait_ended()
        if time.monotonic() > deadline:
            print(f"BARE: FAILED  not done within {limit_s:.0f} s")
            return 124
        time.sleep(0.3)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--user", choices=[*USERS, "both"], default="both")
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="SECONDS", help="for each user")
    parser.add_argument("commands", nargs="*", default=COMMANDS, help="setup.sh commands, each one argument")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("root is needed to boot a host")
    failed = []
    for kind in USERS if options.user == "both" else [options.user]:
        print(f"BARE: ======== {kind} ========", flush=True)
        with host(USERS[kind], options.commands) as machine:
            machine.boot()
            if watch(machine, options.limit):
                failed.append(kind)
                print(f"BARE: the console's end:\n{machine.console.read_text(errors='replace')[-1500:]}")
    print(f"BARE: {'FAILED: ' + ', '.join(failed) if failed else 'all passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
