"""A supervisor preloads the transports, then forks: importing starts no thread, opens no file, warns of nothing."""
from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import os, sys, threading
import yadtq.config                       # what every process has loaded before
before = sorted(os.listdir("/proc/self/fd"))
import yadtq.transport
assert not {"kafka", "confluent_kafka"} & sys.modules.keys(), "the package itself loads no library"
for name in sys.argv[1:]:
    __import__(f"yadtq.transport.{name}")
assert len(os.listdir("/proc/self/task")) == threading.active_count() == 1, "a thread was started"
assert sorted(os.listdir("/proc/self/fd")) == before, "a file was opened"
"""


@pytest.mark.parametrize("modules", [["librdkafka_consumer", "librdkafka_producer"], ["kafka_python", "admin"],
                                     ["memory"]], ids="-".join)
def test_importing_has_no_side_effects(modules: list[str]) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", _PROGRAM, *modules], capture_output=True, text=True,
                          timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
