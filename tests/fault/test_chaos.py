"""The chaos run in its short form: everything breaks for a while, and every promise is kept. No floors of speed.

The long form, with figures, is `python -m tests.fault.chaos --minutes 30` (docs/reliability.md).
"""
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.fault.chaos.run import Order, free_seed, run

pytestmark = [pytest.mark.fault, pytest.mark.slow]
SEED = "YADTQ_CHAOS_SEED"               # names in the environment: to see a failure again,
MINUTES = "YADTQ_CHAOS_MINUTES"         # and how long things break


@pytest.mark.timeout(1200)
def test_everything_breaks_and_nothing_is_lost(tmp_path: Path) -> None:
    order = Order(int(os.environ.get(SEED, free_seed())), float(os.environ.get(MINUTES, "1.5")), rate=120.0,
                  most_open=1500, folder=tmp_path / "chaos", keep=True)
    report = run(order, say=lambda text: print(text, flush=True))
    assert report["failures"] == [], json.dumps(report["failures"], indent=1)
    assert report["tasks"]["lost"] == report["tasks"]["double"] == 0
    assert report["tasks"]["accepted"] > 1000, "the load hardly ran: this showed nothing"
    assert sum(fault["count"] for fault in report["faults"].values()) >= 5
