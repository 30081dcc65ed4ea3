"""What a run of the deployment's tests begins with: packages, an inventory with a vault, and bare hosts to deploy to.

The packages are built by packaging/build.sh: those of this version, and with a suffix those of a version after it, so
that there is something to upgrade to and to roll back from. YADTQ_TEST_DIST names a folder that has both already.
The task types of the tests come to the hosts as an operator's own do: by the inventory.
"""
from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy import docs_commands
from tests.deploy.cluster import Cluster
from tests.deploy.lab.hosts import ROOT, Hosts
from tests.deploy.trial import HISTORY
from tests.support.chaos_tasks import HISTORY_FILE, HOST

BUILD_S = 900.0
SUFFIX = "+next"
PARTITIONS = 6
MODULES = ("tests/__init__.py", "tests/support/__init__.py", "tests/support/history.py",
           "tests/support/chaos_tasks.py", "tests/deploy/deploy_tasks.py")
OPERATOR = "alice"
QUIET = ("ok:", "skipping:", "included:", "")       # lines of ansible's that tell nothing


@dataclass(frozen=True)
class Packages:
    """Folders as packaging/build.sh makes them, and the versions of the package yadtq in them."""

    now: Path
    next: Path

    @staticmethod
    def version(folder: Path) -> str:
        """Of the package yadtq."""
        found, = folder.glob("yadtq_*.deb")
        return found.name.split("_")[1]


def build_packages() -> Packages:
    """Build both versions, or take those that are there."""
    given = os.environ.get("YADTQ_TEST_DIST")
    folder = Path(given) if given else ROOT / "build" / "deploy"
    packages = Packages(folder / "now", folder / "next")
    if not given:
        for out, more in ((packages.now, []), (packages.next, ["--suffix", SUFFIX])):
            done = subprocess.run([str(ROOT / "packaging/build.sh"), "--out", str(out), *more], capture_output=True,
                                  text=True, timeout=BUILD_S, check=False)
            assert done.returncode == 0, f"packaging/build.sh failed:\n{done.stderr[-3000:]}"
    return packages


def prepare(hosts: Hosts, packages: Packages, folder: Path, **more: Any) -> Cluster:
    """Make the operator's folder as docs/deploy.md says, with an inventory for these hosts; `more` are variables."""
    names = [host.name for host in hosts]
    for host in hosts:
        host.run(f"useradd --create-home {OPERATOR}")
    cluster = Cluster(hosts, folder)
    cluster.partitions = PARTITIONS
    cluster.controller(*docs_commands.of("prepare", "controller"))
    hosts.inventory(folder / "yadtq/inventory.yml", {"kafka": names, "redis": names, "yadtqd": names}, {
        "yadtq_packages_dir": str(packages.now), "yadtq_version": packages.version(packages.now),
        "yadtqd_task_folders": [str(_task_folder(folder))], "yadtqd_operators": [OPERATOR],
        "yadtqd_environment": {HISTORY_FILE: f"/{HISTORY}", HOST: "{{ inventory_hostname }}"},
        # A host whose workers are killed on purpose is not to give them up for a minute.
        "yadtqd_settings": {"num_partitions": PARTITIONS, "max_worker_retries": 100,
                            "tasks": ["tests.support.chaos_tasks", "tests.deploy.deploy_tasks"]},
        "kafka_heap": "384m"} | more)                           # all brokers share the memory of this machine
    return cluster


def _task_folder(folder: Path) -> Path:
    """The modules of the tests with task types, each as it is imported."""
    root = folder / "tasks"
    for module in MODULES:
        target = root / module
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / module, target)
    return root


def short_transcript(output: str) -> str:
    """A playbook's output with what it did: what was already so, and what was skipped, is left out."""
    kept: list[str] = []
    title = ""
    for line in output.splitlines():
        if line.startswith(("TASK", "RUNNING HANDLER")):
            title = line.rstrip("* ")
        elif line.startswith(("PLAY RECAP", "PLAY")):
            kept += ["", line.rstrip("* ")]
            title = ""
        elif line.split(" ")[0] not in QUIET:
            if title:
                kept.append(title)
                title = ""
            kept.append(line)
    return "\n".join(kept).strip()
