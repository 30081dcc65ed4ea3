"""Prints how a system's workers are started, as JSON: runs in that system's environment, once a start."""
from __future__ import annotations

import importlib
import json
import sys

if __name__ == "__main__":
    found = importlib.import_module(f"benchmarks.peers.systems.{sys.argv[1]}").worker_commands(int(sys.argv[2]))
    print("\n" + json.dumps(found))
