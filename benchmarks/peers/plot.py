"""The comparison as one SVG: a panel a metric, a bar a system, the best at the top. Pure; no library is needed."""
from __future__ import annotations

from html import escape
from typing import Any

from benchmarks.peers.report import METRICS, Metric, shown
from benchmarks.peers.systems.catalogue import BY_NAME, OURS

SHOWN = ("additions", "drain", "singles", "io", "p50", "p99", "memory", "cpu_workers")
COLUMNS, PANEL_W, LABEL_W, VALUE_W, ROW_H, HEAD_H, GAP = 2, 470, 138, 62, 20, 40, 26
OURS_COLOUR, OTHERS_COLOUR, TEXT, FAINT = "#d1495b", "#8d99ae", "#22262e", "#6b7280"


def _panel(metric: Metric, by_system: dict[str, dict[str, float]], left: float, top: float) -> list[str]:
    """The bars of one metric; a whisker from the least to the greatest round."""
    rows = sorted(by_system, key=lambda name: by_system[name]["median"], reverse=metric.higher)
    width = PANEL_W - LABEL_W - VALUE_W
    most = max(by_system[name]["max"] for name in rows) or 1.0
    better = "more is better" if metric.higher else "less is better"
    parts = [f'<text x="{left}" y="{top + 15}" class="head">{escape(metric.title)}</text>',
             f'<text x="{left}" y="{top + 30}" class="note">{metric.unit}, {better}</text>']
    for index, name in enumerate(rows):
        figures, y = by_system[name], top + HEAD_H + index * ROW_H
        bar = max(1.0, figures["median"] / most * width)
        start = left + LABEL_W
        least, greatest = (start + figures[end] / most * width for end in ("min", "max"))
        colour = OURS_COLOUR if name in OURS else OTHERS_COLOUR
        parts += [f'<text x="{start - 6}" y="{y + 13}" class="label">{escape(BY_NAME[name].title)}</text>',
                  f'<rect x="{start}" y="{y + 3}" width="{bar:.1f}" height="{ROW_H - 7}" fill="{colour}"/>',
                  f'<line x1="{least:.1f}" x2="{greatest:.1f}" y1="{y + 9.5}" y2="{y + 9.5}" class="whisker"/>',
                  f'<text x="{max(start + bar, greatest) + 5:.1f}" y="{y + 13}" class="value">'
                  f'{shown(figures["median"])}</text>']
    return parts


def svg(summary: dict[str, dict[str, dict[str, float]]], caption: str) -> str:
    """The whole picture; `caption` says when and on what machine."""
    metrics = [metric for metric in METRICS if metric.key in SHOWN and summary.get(metric.key)]
    metrics.sort(key=lambda metric: SHOWN.index(metric.key))
    heights = [max(HEAD_H + len(summary[m.key]) * ROW_H for m in metrics[row:row + COLUMNS])
               for row in range(0, len(metrics), COLUMNS)]
    parts: list[str] = []
    top = 58.0
    for row, height in enumerate(heights):
        for column, metric in enumerate(metrics[row * COLUMNS:(row + 1) * COLUMNS]):
            parts += _panel(metric, summary[metric.key], GAP + column * (PANEL_W + GAP), top)
        top += height + GAP
    total_w = GAP + COLUMNS * (PANEL_W + GAP)
    style = (f"text{{font-family:system-ui,sans-serif;fill:{TEXT}}} .title{{font-size:18px;font-weight:600}}"
             f" .head{{font-size:14px;font-weight:600}} .note{{font-size:11px;fill:{FAINT}}}"
             f" .label{{font-size:12px;text-anchor:end}} .value{{font-size:12px}}"
             f" .whisker{{stroke:{TEXT};stroke-width:1.2;opacity:.55}}")
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total_w} {top:.0f}" width="{total_w}" '
        f'height="{top:.0f}">',
        f"<style>{style}</style>", f'<rect width="{total_w}" height="{top:.0f}" fill="#ffffff"/>',
        f'<text x="{GAP}" y="26" class="title">Python task queues on one machine</text>',
        f'<text x="{GAP}" y="43" class="note">{escape(caption)}</text>', *parts, "</svg>", ""])


def caption_of(run: dict[str, Any]) -> str:
    """When, where, and what a bar is."""
    machine = run["machine"]
    return (f'{run["date"]}, {machine["cores"]} cores ({machine["processor"]}), {machine["memory_gb"]} GB; Kafka and '
            f'Redis on the same cores; median of {run["options"]["rounds"]} rounds, lines: least to greatest')
