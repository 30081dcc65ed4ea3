#!/usr/bin/env python3
"""Shows that setup.sh needs nothing beforehand: runs it on a Debian that has bash, apt and python3, and no more.

    sudo python3 tests/deploy/bare_host.py                         both users: install, up, doctor, down, demo, test
    sudo python3 tests/deploy/bare_host.py --user ordinary demo    one user, these commands only

A systemd-nspawn host is booted for each user from a fresh overlay on an image that mmdebstrap makes once (no Java, no
Maven, Redis, pip or venv). It gets a clone of HEAD, runs the script below as a systemd unit, and hands out its exit
status. This machine's apt sources, certificates and pip settings are copied into it, so that it reaches what this
machine reaches. Needs root and Debian's packages systemd-container, mmdebstrap and git. Not part of the test suite.
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

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("BARE_HOST_CACHE", "/var/cache/yadtq/bare_host"))
CGROUPS = Path("/sys/fs/cgroup")
NAME = "yadtq-bare"
PACKAGES = "systemd,systemd-sysv,dbus,python3,sudo,ca-certificates,procps"
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


def image() -> Path:
    """The root file system that all hosts share; made whole or not at all."""
    base = CACHE / "bookworm"
    if not base.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        print(f"making the image {base}", flush=True)
        draft = Path(tempfile.mkdtemp(dir=CACHE)) / "root"
        with (CACHE / "mmdebstrap.log").open("wb") as log:
            sh("mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", draft, stderr=log)
        draft.rename(base)
        draft.parent.rmdir()
    return base


def equip(root: Path, user: str, commands: list[str]) -> None:
    """Put this machine's package sources, the clone and the script into a host."""
    shutil.copytree("/etc/apt/sources.list.d", root / "etc/apt/sources.list.d", dirs_exist_ok=True)
    (root / "etc/apt/sources.list.d/0000debian.list").unlink(missing_ok=True)  # mmdebstrap's own
    sources = Path("/etc/apt/sources.list")
    (root / "etc/apt/sources.list").write_text(sources.read_text() if sources.exists() else "")
    for file in Path("/usr/local/share/ca-certificates").glob("*.crt"):
        shutil.copy(file, root / "usr/local/share/ca-certificates")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost {NAME}\n::1 localhost\n")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    pip = Path("/etc/pip.conf")
    (root / "etc/pip.conf").write_text(
        pip.read_text() if pip.exists() else "[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
    sh("chroot", root, "update-ca-certificates", stdout=subprocess.DEVNULL)
    for unit in ("apt-daily.timer", "apt-daily-upgrade.timer", "console-getty.service"):
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
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
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "bare.service").symlink_to("/etc/systemd/system/bare.service")


def own_cgroups() -> list[Path]:
    """A cgroup for the host in every hierarchy, beneath ours: where systemd does not run, nobody else makes one."""
    if Path("/run/systemd/system").exists():
        return []
    ours = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        ours[controllers.removeprefix("name=") or "unified"] = path.strip("/")
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS / ours.get("unified", "") / NAME]
    found = [entry for entry in sorted(CGROUPS.iterdir()) if entry.is_dir() and entry.name != "cpuset"]
    return [entry / ours.get(entry.name, "") / NAME for entry in found]


@contextlib.contextmanager
def host(user: str, commands: list[str]) -> Iterator[Path]:
    """A fresh overlay on the image, equipped; gone afterwards."""
    base = image()
    folder = Path(tempfile.mkdtemp(prefix="yadtq-bare-", dir="/var/tmp"))
    root = folder / "root"
    for part in ("root", "upper", "work"):
        (folder / part).mkdir()
    options = f"lowerdir={base},upperdir={folder / 'upper'},workdir={folder / 'work'}"
    sh("mount", "-t", "overlay", "overlay", "-o", options, root)
    try:
        equip(root, user, commands)
        yield root
    finally:
        sh("umount", "-l", root)
        shutil.rmtree(folder, ignore_errors=True)


def boot(root: Path, cgroups: list[Path]) -> subprocess.Popen[bytes]:
    """Start the host; it ends by itself when the unit has ended."""
    def enter() -> None:
        for cgroup in cgroups:
            cgroup.mkdir(exist_ok=True)
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))

    command = ["systemd-nspawn", "--quiet", "--boot", f"--directory={root}", f"--machine={NAME}", "--console=pipe",
               "--kill-signal=SIGRTMIN+3", "--resolv-conf=off", "--timezone=off", "--link-journal=no"]
    if cgroups:
        command += ["--register=no", "--keep-unit"]
    with (root / "bare" / "console").open("wb") as console:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                                start_new_session=True, preexec_fn=enter)  # noqa: PLW1509 - there is one thread


def end(process: subprocess.Popen[bytes], cgroups: list[Path]) -> None:
    """Shut the host down, then whatever is left of it; and remove its cgroups."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
    deadline = time.monotonic() + 20
    while (left := _members(cgroups)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    for cgroup in cgroups:
        for folder, _, _ in os.walk(cgroup, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
    with contextlib.suppress(OSError):  # nspawn doesn't where /run is on a disk
        Path("/run/systemd/nspawn/propagate", NAME).rmdir()


def _members(cgroups: list[Path]) -> set[int]:
    found: set[int] = set()
    for cgroup in cgroups:
        for folder, _, _ in os.walk(cgroup):
            with contextlib.suppress(OSError):
                found |= {int(pid) for pid in (Path(folder) / "cgroup.procs").read_text().split()}
    return found


def watch(process: subprocess.Popen[bytes], root: Path, limit_s: float) -> int:
    """Print what the script says, as it says it; its exit status, or 124 past the limit."""
    output, seen, deadline = root / "bare" / "output", 0, time.monotonic() + limit_s
    while True:
        running = process.poll() is None
        if output.exists():
            with output.open("rb") as file:
                file.seek(seen)
                chunk = file.read()
            seen += len(chunk)
            sys.stdout.buffer.write(chunk)
            sys.stdout.flush()
        if not running:
            return process.returncode
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
        cgroups = own_cgroups()
        with host(USERS[kind], options.commands) as root:
            process = boot(root, cgroups)
            try:
                status = watch(process, root, options.limit)
            finally:
                end(process, cgroups)
            if status:
                failed.append(kind)
                print(f"BARE: the console's end:\n{(root / 'bare' / 'console').read_text(errors='replace')[-1500:]}")
    print(f"BARE: {'FAILED: ' + ', '.join(failed) if failed else 'all passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
