"""Sweeping what lost its parent: in a process of its own, which becomes a subreaper."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import os, time
from yadtqd import strays
from yadtqd.child import become_subreaper
become_subreaper()
known = os.fork()
if known == 0:
    time.sleep(60)
    os._exit(0)
middle = os.fork()
if middle == 0:
    for _ in range(3):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    os._exit(0)
os.waitpid(middle, 0)
assert len(strays.children()) == 4, strays.children()
assert strays.sweep({known}) == 3
deadline = time.monotonic() + 10
while strays.sweep({known}) and time.monotonic() < deadline:
    time.sleep(0.01)
assert strays.children() == {known}
os.kill(known, 0)                   # still there
os.kill(known, 9)
os.waitpid(known, 0)
"""


def test_orphans_are_killed_and_reaped_and_the_known_child_is_left_alone():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 0, done.stderr
