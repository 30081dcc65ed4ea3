"""`sudo python -m tests.deploy [--short] [--report FILE] [--dist FOLDER] [pytest's arguments]`: the deployment's tests.

Builds the packages, boots bare hosts, deploys with the real playbook, checks from outside, and leaves nothing. The
short form has one host and leaves out what takes long. `python -m tests.deploy hosts [N]` boots N bare hosts for
trying things by hand, says how to reach them, and removes them when its standard input ends (Ctrl-D or Ctrl-C).
"""
from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def by_hand(count: int) -> int:
    """Hosts to try things on."""
    from tests.deploy.lab.hosts import Hosts
    from tests.deploy.lab.image import Unavailable

    try:
        with Hosts(count) as hosts:
            names = [host.name for host in hosts]
            groups = {"kafka": names, "redis": names, "yadtqd": names}
            print(f"inventory  {hosts.inventory(hosts.folder / 'inventory.yml', groups)}")
            for host in hosts:
                print(f"{host.name}      {' '.join(host.ssh_command())}\n           files: {host.root}", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                sys.stdin.read()
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def main(argv: list[str]) -> int:
    """The command."""
    if argv[:1] == ["hosts"]:
        return by_hand(int(argv[1]) if len(argv) > 1 else 3)
    parser = argparse.ArgumentParser(prog="python -m tests.deploy", description="Deploy to real hosts and check it")
    parser.add_argument("--short", action="store_true", help="one host, and only what takes a few minutes")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write figures and transcripts to this page")
    parser.add_argument("--dist", type=Path, metavar="FOLDER", help="packages built already, in now/ and next/")
    options, rest = parser.parse_known_args(argv)
    os.environ["YADTQ_TEST_DEPLOY"] = "short" if options.short else "full"
    if options.report:
        os.environ["YADTQ_TEST_DEPLOY_REPORT"] = str(options.report.resolve())
    if options.dist:
        os.environ["YADTQ_TEST_DIST"] = str(options.dist.resolve())
    import pytest

    if not any(arg.startswith((str(FOLDER), "tests/deploy")) for arg in rest):
        rest.append(str(FOLDER))
    return int(pytest.main(["-p", "no:cacheprovider", *rest]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
