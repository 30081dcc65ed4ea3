"""From samples to medians, ratios and a table. Pure."""
from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.systems.catalogue import BY_NAME, OURS


@dataclass(frozen=True)
class Metric:
    """One column: where it is in a sample, and which way is better."""

    key: str
    title: str
    unit: str
    path: tuple[str, ...]
    higher: bool = True

    def of(self, sample: dict[str, Any]) -> float | None:
        """Its value in the samples of one round of a system."""
        found: Any = sample
        for name in self.path:
            if not isinstance(found, dict) or name not in found:
                return None
            found = found[name]
        return float(found)


METRICS = (
    Metric("additions", "additions end to end, batch", "/s", ("additions", "per_s")),
    Metric("singles", "single submissions, 8 threads", "/s", ("singles", "per_s")),
    Metric("p50", "one task, p50", "ms", ("latency", "p50_ms"), higher=False),
    Metric("p99", "one task, p99", "ms", ("latency", "p99_ms"), higher=False),
    Metric("drain", "drain of a queue", "/s", ("drain", "per_s")),
    Metric("io", "10 ms tasks, 64 at once", "/s", ("io", "per_s")),
    Metric("memory", "memory of a worker process", "MB", ("memory", "worker_mb"), higher=False),
    Metric("memory_all", "memory with all helpers, 2 workers", "MB", ("memory", "all_mb"), higher=False),
    Metric("cpu_client", "CPU a task: client", "us", ("additions", "cpu_us", "client"), higher=False),
    Metric("cpu_workers", "CPU a task: workers", "us", ("additions", "cpu_us", "workers"), higher=False),
    Metric("cpu_redis", "CPU a task: Redis", "us", ("additions", "cpu_us", "redis"), higher=False),
    Metric("cpu_kafka", "CPU a task: Kafka", "us", ("additions", "cpu_us", "kafka"), higher=False),
)
Samples = list[dict[str, Any]]      # {"round": n, "system": name, "workloads": {workload: figures}}


def medians(samples: Samples) -> dict[str, dict[str, dict[str, float]]]:
    """By metric and system: the median, the least, the greatest, and of how many."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for metric in METRICS:
        values: dict[str, list[float]] = {}
        for sample in samples:
            value = metric.of(sample["workloads"])
            if value is not None:
                values.setdefault(sample["system"], []).append(value)
        found[metric.key] = {system: {"median": statistics.median(each), "min": min(each), "max": max(each),
                                      "rounds": len(each)} for system, each in values.items()}
    return found


def ratios(summary: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """By metric: how many times better YADTQ is than the best other system, and than Celery."""
    found: dict[str, dict[str, Any]] = {}
    for metric in METRICS:
        by_system = {name: figures["median"] for name, figures in summary[metric.key].items() if figures["median"] > 0}
        others = {name: value for name, value in by_system.items() if name not in OURS}
        if "yadtq" not in by_system or not others:
            continue
        best = (max if metric.higher else min)(others, key=lambda name: others[name])

        def times(other: float, ours: float = by_system["yadtq"], higher: bool = metric.higher) -> float:
            return ours / other if higher else other / ours

        found[metric.key] = {"best_other": best, "times_best_other": times(others[best])} | (
            {"times_celery": times(others["celery"])} if "celery" in others else {})
    return found


def shown(value: float) -> str:
    """A figure with as many digits as it deserves."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(summary: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: a row a system, a column a metric."""
    systems = [name for name in BY_NAME if any(name in by_system for by_system in summary.values())]
    columns = [metric for metric in METRICS if summary[metric.key]]
    lines = ["| | " + " | ".join(f"{metric.title}, {metric.unit}" for metric in columns) + " |",
             "|---|" + "---:|" * len(columns)]
    for name in systems:
        found = [summary[metric.key].get(name) for metric in columns]
        cells = [shown(figures["median"]) if figures else "-" for figures in found]
        title = BY_NAME[name].title
        lines.append(f"| {f'**{title}**' if name == 'yadtq' else title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def settings_list(systems: dict[str, dict[str, Any]]) -> str:
    """Markdown: an item a system, with its setting, its setting for I/O, and versions."""
    return "\n".join(f"- **{one['title']}**: {one['setting']}; for 10 ms tasks: {one['io_setting']}. "
                     + ", ".join(f"{name} {version}" for name, version in one["versions"].items()) + "."
                     for one in systems.values())


def ratio_lines(found: dict[str, dict[str, Any]]) -> str:
    """A line a metric: YADTQ against the best of the others, and against Celery."""
    lines = []
    for metric in METRICS:
        if metric.key in found:
            row = found[metric.key]
            celery = f", {row['times_celery']:.1f}x Celery" if "times_celery" in row else ""
            lines.append(f"{metric.title:<34} {row['times_best_other']:>6.2f}x the best other "
                         f"({BY_NAME[row['best_other']].title}){celery}")
    return "\n".join(lines)
