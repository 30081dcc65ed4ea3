"""The root file system that all test hosts share: a small Debian 12 with systemd, ssh and python3, and nothing else.

Made once by mmdebstrap, whole or not at all, and kept in /var/cache/yadtq/hosts (YADTQ_IMAGES moves it); never written
to afterwards: each host has an overlay on it. `equip` puts into an overlay what makes a host reach what this machine
reaches: its apt sources, certificates, resolver and pip settings. Standard library only: it runs with any python3.
"""
from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

CACHE = Path(os.environ.get("YADTQ_IMAGES", "/var/cache/yadtq/hosts"))
RELEASE = "bookworm"
PACKAGES = ("systemd", "systemd-sysv", "dbus", "libpam-systemd", "python3", "python3-apt", "sudo", "openssh-server",
            "iproute2", "ca-certificates", "procps")
NEEDED = {"systemd-nspawn": "systemd-container", "mmdebstrap": "mmdebstrap", "nft": "nftables", "ip": "iproute2",
          "ssh": "openssh-client", "nsenter": "util-linux"}     # program: Debian's package
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer",
          "dpkg-db-backup.timer", "systemd-pstore.service", "console-getty.service", "getty.target")
INIT = "/sbin/yadtq-test-init"
# nspawn mounts the controllers of cgroup v1 read-only: without this MemoryMax=, TasksMax= and CPUQuota= do nothing.
_INIT = """#!/bin/sh
for controller in memory pids cpu cpuacct blkio; do
  [ ! -d /sys/fs/cgroup/$controller ] || mount -n -o remount,bind,rw /sys/fs/cgroup/$controller
done
exec /lib/systemd/systemd
"""


class Unavailable(Exception):
    """This machine can't have test hosts; the message says what is missing."""


def why_not() -> str:
    """Why this machine can't have test hosts, as a sentence; empty if it can."""
    if os.geteuid() != 0:
        return "root is needed to boot hosts"
    missing = sorted({package for program, package in NEEDED.items() if shutil.which(program) is None})
    if missing:
        return f"Debian's packages {' '.join(missing)} are needed to boot hosts"
    probe = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        return f"namespaces are needed to boot hosts: {probe.stderr.strip()}"
    return ""


def image() -> Path:
    """The folder of the image; made now if it isn't there (half a minute)."""
    recipe = hashlib.sha256("\n".join((RELEASE, *PACKAGES, *MASKED, _INIT)).encode()).hexdigest()[:8]
    base = CACHE / f"{RELEASE}-{recipe}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.exists():
            print(f"making the image {base}", flush=True)
            draft = Path(tempfile.mkdtemp(dir=CACHE))
            try:
                _make(draft / "root")
                (draft / "root").rename(base)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return base


def _make(root: Path) -> None:
    with (CACHE / "mmdebstrap.log").open("wb") as log:
        subprocess.run(["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", RELEASE, str(root)],
                       stderr=log, check=True)
    for unit in MASKED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    (root / INIT[1:]).write_text(_INIT)
    (root / INIT[1:]).chmod(0o755)
    (root / "etc/hostname").unlink(missing_ok=True)
    (root / "etc/machine-id").write_text("")            # each host makes its own at its first boot
    (root / "var/lib/dbus/machine-id").unlink(missing_ok=True)


def equip(root: Path, names: dict[str, str] | None = None) -> None:
    """Make a host reach what this machine reaches; `names` maps addresses to host names, for /etc/hosts."""
    shutil.copytree("/etc/apt/sources.list.d", root / "etc/apt/sources.list.d", dirs_exist_ok=True,
                    ignore=lambda _, found: [name for name in found if not name.endswith((".list", ".sources"))])
    (root / "etc/apt/sources.list.d/0000debian.list").unlink(missing_ok=True)   # mmdebstrap's own
    sources = Path("/etc/apt/sources.list")
    (root / "etc/apt/sources.list").write_text(sources.read_text() if sources.exists() else "")
    for file in Path("/usr/local/share/ca-certificates").glob("*.crt"):
        shutil.copy(file, root / "usr/local/share/ca-certificates")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    pip = Path("/etc/pip.conf")
    (root / "etc/pip.conf").write_text(
        pip.read_text() if pip.exists() else "[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
    known = "".join(f"{address} {name}\n" for address, name in (names or {}).items())
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{known}")
    subprocess.run(["chroot", str(root), "update-ca-certificates"], stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, check=True)
