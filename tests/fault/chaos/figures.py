"""What a chaos run comes to: counts, recoveries and memory, from its history and its samples. Pure but for `Memory`."""
from __future__ import annotations

import os
import statistics
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.support.guarantees import Violation, unexcused
from tests.support.history import ENDS, Fault, History

_PAGE = os.sysconf("SC_PAGE_SIZE")
SAMPLE_S = 2.0
BEFORE_S = 5.0                  # what was mended so shortly before may still be felt
SETTLED_S = 30.0                # a process younger than that is still growing into its work


class Memory(threading.Thread):
    """Samples how much memory each process takes: (time, kind, pid, bytes resident)."""

    def __init__(self, processes: Callable[[], Iterable[tuple[str, int]]]) -> None:
        super().__init__(name="memory", daemon=True)
        self._processes, self._over = processes, threading.Event()
        self.samples: list[tuple[float, str, int, int]] = []

    def run(self) -> None:
        """Until stopped."""
        while not self._over.wait(SAMPLE_S):
            at = time.monotonic()
            for kind, pid in self._processes():
                try:
                    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                except (OSError, ValueError, IndexError):
                    continue
                self.samples.append((at, kind, pid, pages * _PAGE))

    def stop(self) -> None:
        """No more."""
        self._over.set()
        self.join()


def memory(samples: Iterable[tuple[float, str, int, int]]) -> dict[str, dict[str, float]]:
    """Per kind of process: the peak in MB, and by how much (in percent) the last third of the time lies above the
    second third, medians of processes that have settled."""
    born: dict[int, float] = {}
    by_kind: dict[str, list[tuple[float, int]]] = defaultdict(list)
    peak: Counter[str] = Counter()
    for at, kind, pid, size in samples:
        born.setdefault(pid, at)
        peak[kind] = max(peak[kind], size)
        if at - born[pid] >= SETTLED_S:
            by_kind[kind].append((at, size))
    found = {}
    for kind, top in sorted(peak.items()):
        settled = by_kind[kind]
        figures: dict[str, float] = {"peak_mb": round(top / 1e6, 1)}
        if len(settled) >= 6:
            begin, end = settled[0][0], settled[-1][0]
            third = (end - begin) / 3
            before = [size for at, size in settled if begin + third <= at < begin + 2 * third]
            after = [size for at, size in settled if at >= begin + 2 * third]
            if before and after:
                figures["drift_percent"] = round((statistics.median(after) / statistics.median(before) - 1) * 100, 1)
        found[kind] = figures
    return found


def tasks(history: History, found: list[Violation]) -> dict[str, Any]:
    """What became of the tasks."""
    ended: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    again = 0
    for task in history.tasks.values():
        if not task.accepted:
            continue
        kinds[task.kind] += 1
        last = next((read for read in reversed(task.reads) if read.status in ENDS), None)
        ended["no end" if last is None else last.status if last.status != "FAILED" else str(last.value)] += 1
        again += len(task.starts) - len({start.attempt for start in task.starts})
    broken = Counter(violation.promise for violation in unexcused(found))
    return {"accepted": sum(kinds.values()), "by_kind": dict(kinds.most_common()), "ended": dict(ended.most_common()),
            "runs": sum(len(task.starts) for task in history.tasks.values()), "run_again": again,
            "letters": sum(bool(task.letters) for task in history.tasks.values()),
            "lost": broken["lost"], "double": broken["one_result"], "violations": dict(broken),
            "excused": sum(violation.excused for violation in found)}


def faults(history: History) -> dict[str, dict[str, Any]]:
    """Per kind of fault: how many, the median and the slowest recovery in seconds, and the slowest of those faults
    that had nothing else broken beside them."""
    by_kind: dict[str, list[Fault]] = defaultdict(list)
    for fault in history.faults:
        by_kind[fault.kind].append(fault)
    found = {}
    for kind, all_ in sorted(by_kind.items()):
        looked_at = [fault for fault in all_ if fault.recovered_s >= 0]
        alone = [fault.recovered_s for fault in looked_at if _alone(fault, history.faults)]
        found[kind] = {"count": len(all_)}
        if looked_at:
            found[kind] |= {"recovered_median_s": round(statistics.median(f.recovered_s for f in looked_at), 2),
                            "recovered_slowest_s": round(max(f.recovered_s for f in looked_at), 2)}
        if alone:
            found[kind]["alone_slowest_s"] = round(max(alone), 2)
    return found


def _alone(fault: Fault, all_: list[Fault]) -> bool:
    """Was nothing else broken from shortly before it until it was mended?"""
    return all(other is fault or other.at < fault.begun - BEFORE_S or other.begun > fault.at for other in all_)


def lines(report: dict[str, Any]) -> Iterable[str]:
    """The report for people."""
    tasks_ = report["tasks"]
    yield (f"{tasks_['accepted']} tasks accepted in {report['minutes']:.1f} minutes ({report['rate']:.0f} a second), "
           f"{sum(fault['count'] for fault in report['faults'].values())} faults (seed {report['seed']}, "
           f"{report['transport']})")
    yield f"  lost: {tasks_['lost']}   double results: {tasks_['double']}   run again: {tasks_['run_again']}"
    yield f"  broken promises: {tasks_['violations'] or 'none'}; excused by a lost second of Redis: {tasks_['excused']}"
    yield f"  ended: {tasks_['ended']}"
    yield f"  kinds: {tasks_['by_kind']}"
    for kind, figures in report["faults"].items():
        slowest, alone = figures.get("recovered_slowest_s"), figures.get("alone_slowest_s")
        well = (f"   well again: median {figures['recovered_median_s']:.2f} s, slowest {slowest:.2f} s"
                if slowest is not None else "")
        yield f"  {kind:18}{figures['count']:4}{well}" + (f", alone {alone:.2f} s" if alone is not None else "")
    for kind, figures in report["memory"].items():
        drift = figures.get("drift_percent")
        yield f"  {kind:18}{figures['peak_mb']:7.1f} MB at most" + (f", {drift:+.1f} %" if drift is not None else "")
    for failure in report["failures"]:
        yield f"  FAILURE: {failure}"
