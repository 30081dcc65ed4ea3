"""The comparison with other task queues: what can be known without running them."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import plot, processes, publish, report
from benchmarks.peers.guardian import Guardian
from benchmarks.peers.measure import Sizes
from benchmarks.peers.systems.catalogue import BY_NAME, SYSTEMS, System

ROOT = Path(__file__).resolve().parents[2]


def sample(round_: int, system: str, rate: float, p50_ms: float) -> dict[str, Any]:
    return {"round": round_, "system": system, "workloads": {
        "additions": {"per_s": rate, "cpu_us": {"client": 1e6 / rate, "workers": 10.0}},
        "latency": {"p50_ms": p50_ms, "p99_ms": 2 * p50_ms}}}


SAMPLES = [sample(n, name, rate * (1 + n / 10), p50_ms) for n in range(3)
           for name, rate, p50_ms in (("yadtq", 20_000, 1.0), ("celery", 500, 2.0), ("huey", 2_000, 0.5))]


# ---- figures --------------------------------------------------------------------------------------------------------
def test_medians_of_each_metric_and_system() -> None:
    found = report.medians(SAMPLES)
    assert found["additions"]["celery"] == {"median": pytest.approx(550), "min": 500, "max": pytest.approx(600),
                                            "rounds": 3}
    assert found["p50"]["huey"]["median"] == 0.5
    assert found["drain"] == {}


def test_ratios_say_how_many_times_better_whichever_way_is_better() -> None:
    found = report.ratios(report.medians(SAMPLES))
    assert found["additions"] == {"best_other": "huey", "times_best_other": pytest.approx(10),
                                  "times_celery": pytest.approx(40)}
    assert found["p50"] == {"best_other": "huey", "times_best_other": 0.5, "times_celery": 2}
    assert "drain" not in found


def test_the_table_has_a_row_a_system_and_only_columns_that_were_measured() -> None:
    lines = report.table(report.medians(SAMPLES)).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["**YADTQ**", "Celery", "Huey"]
    assert "drain" not in lines[0]
    assert "22,000" in lines[2]


def test_the_plot_is_an_image_with_a_bar_for_each_figure() -> None:
    summary = report.medians(SAMPLES)
    image = ET.fromstring(plot.svg(summary, "caption <&>"))
    bars = [one for one in image.iter() if one.tag.endswith("rect")]
    shown = sum(len(summary[key]) for key in plot.SHOWN)
    assert len(bars) == shown + 1                   # and the background
    ends = [float(bar.attrib["x"]) + float(bar.attrib["width"]) for bar in bars[1:]]
    assert max(ends) < float(image.attrib["width"])


def test_a_run_is_published_between_the_markers_and_again(tmp_path: Path) -> None:
    page, picture = tmp_path / "page.md", tmp_path / "page.svg"
    page.write_text((ROOT / "docs" / "benchmarks.md").read_text())
    summary = report.medians(SAMPLES)
    run = {"date": "2026-01-02", "options": {"rounds": 3, "seconds": 3.0}, "runs": 9, "disturbed_runs": 0,
           "machine": {"cores": 2, "processor": "P", "memory_gb": 8, "kernel": "6", "system": "D"},
           "medians": summary, "ratios": report.ratios(summary),
           "systems": {"huey": {"title": "Huey", "setting": "as is", "io_setting": "so", "versions": {"huey": "3"}}}}
    publish.publish(run, page, picture)
    once = page.read_text()
    publish.publish(run, page, picture)
    assert page.read_text() == once
    assert "Measured on 2026-01-02" in once
    assert "- **Huey**: as is; for 10 ms tasks: so. huey 3." in once
    assert "## What is measured" in once
    assert picture.read_text().startswith("<svg")


def test_a_run_is_sized_by_the_last_rate() -> None:
    system = System("x", "X", "x_app", (), "", "", first_rates={"additions": 1000})
    sizes = Sizes(3.0)
    assert sizes.count(system, "additions", 10, 100_000) == 3000
    sizes.note(system, "additions", {"tasks": 3000, "seconds": 0.5})
    assert sizes.count(system, "additions", 10, 100_000) == 18_000
    assert sizes.count(system, "additions", 10, 10_000) == 10_000


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_every_system_is_complete(system: System) -> None:
    assert (ROOT / "benchmarks" / "peers" / "systems" / f"{system.module}.py").is_file()
    assert system.workloads - {"memory"} <= system.first_rates.keys()
    assert BY_NAME[system.name] is system
    if system.environment:
        locked = (ROOT / "requirements" / f"{system.environment}.txt").read_text()
        assert all(f"\n{package}==" in f"\n{locked}" for package in system.packages)


# ---- processes ------------------------------------------------------------------------------------------------------
def test_a_tree_and_what_it_uses() -> None:
    child = subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True)
    try:
        deadline = time.monotonic() + 10
        while len(found := processes.tree([child.pid])) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert found[0] == child.pid
        assert all(size > 0 for size in processes.pss_mb(found).values())
        assert processes.cpu_s([os.getpid()]) > 0
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait(10)
    assert processes.pss_mb([child.pid]) == {}


def gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def wait_until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_what_was_started_ends_with_a_benchmark_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "data").write_text("x")
    code = (f"import subprocess, sys, time\nfrom pathlib import Path\nfrom benchmarks.peers.guardian import Guardian\n"
            f"guardian = Guardian(Path({str(folder)!r}))\n"
            "child = subprocess.Popen(['sh', '-c', 'sleep 60 & wait'], start_new_session=True)\n"
            "guardian.watch(child.pid)\nprint(child.pid, flush=True)\ntime.sleep(60)\n")
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    with parent.stdout:
        group = int(parent.stdout.readline())
        parent.kill()
        parent.wait(10)
    wait_until(lambda: gone(group), "the group was killed")
    wait_until(lambda: not folder.exists(), "the folder was removed")


def test_a_group_that_ended_in_order_is_forgotten(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    with Guardian(folder) as guardian:
        child = subprocess.Popen(["sleep", "60"], start_new_session=True)
        guardian.watch(child.pid)
        guardian.end_group(child.pid)
        assert child.wait(10) == -signal.SIGKILL
        guardian.end_group(child.pid)               # twice is harmless
    assert not folder.exists()
