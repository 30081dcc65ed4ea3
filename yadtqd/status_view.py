"""How `yadtqctl` shows a status: tables for people, once or live. Knows the snapshot's keys, not how it was fetched."""
from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from yadtqd.status_line import ranges

Snapshot = dict[str, Any]
COLOURS = {"RUNNING": "green", "STARTING": "cyan", "DEGRADED": "yellow", "BACKOFF": "yellow", "STOPPING": "cyan",
           "DRAINING": "cyan", "FATAL": "bold red", "EXITED": "red"}


def console() -> Console:
    """Where to print: as wide as the terminal, wide enough for whole lines when there is none."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=140)


def show(snapshot: Snapshot) -> None:
    """Print a status."""
    console().print(render(snapshot))


def render(snapshot: Snapshot, rate: float | None = None) -> RenderableType:
    """Everything of a status; `rate` is tasks per second, when known."""
    daemon = snapshot["daemon"]
    head = Text.assemble(
        ("yadtqd ", "bold"), f"{daemon['version']} on {daemon['host']}  pid {daemon['pid']}  ", state(daemon["state"]),
        f"  up {duration(daemon['uptime_s'])}\n",
        f"tasks done {number(daemon['done'])}, failed {number(daemon['failed'])}, waiting {number(daemon['lag'])}"
        + (f", {rate:,.0f}/s" if rate is not None else "") + "\n",
        f"Kafka {daemon['kafka']}  Redis {daemon['redis']}  configuration {daemon['config_file'] or 'defaults'}")
    for reason in daemon["reasons"]:
        head.append(f"\n! {reason}", "yellow")
    return Group(head, Text(), workers_table(snapshot["workers"]), Text(), partitions_table(snapshot["partitions"]),
                 Text(), roles_table(snapshot["roles"]))


def workers_table(workers: list[dict[str, Any]]) -> RenderableType:
    """One line per worker."""
    if not workers:
        return Text("no workers: this host owns no partition", "yellow")
    table = _table("worker", "state", "pid", "partitions", "beat", "done", "failed", "lag", "restarts", "recycled",
                   "memory", "task")
    for w in workers:
        since = f" for {duration(w['task_for_s'])}" if w["task_for_s"] is not None else ""
        task = f"{w['task']} {w['task_id']}{since}" if w["task"] else ""
        if w["state"] == "BACKOFF" and w["next_start_in_s"] is not None:
            task = f"starts again in {duration(w['next_start_in_s'])}"
        table.add_row(w["name"], state(w["state"]), plain(w["pid"]), ranges(w["partitions"]), age(w["beat_age_s"]),
                      number(w["done"]), number(w["failed"]), number(w["lag"]), number(w["restarts"]),
                      number(w.get("recycled")), memory(w["rss_bytes"]), task)
    return table


def partitions_table(partitions: list[dict[str, Any]]) -> RenderableType:
    """One line per partition."""
    table = _table("partition", "owner", "worker", "epoch", "committed", "durable", "end", "lag")
    for p in partitions:
        owner = "paused" if p["owned"] and p["paused"] else "this host" if p["owned"] else "another host"
        table.add_row(str(p["partition"]), owner, p["worker"] or "", number(p["epoch"], ""), number(p["committed"], ""),
                      number(p["watermark"], ""), number(p["end"], ""), number(p["lag"], ""))
    return table


def roles_table(roles: list[dict[str, Any]]) -> RenderableType:
    """One line per process that is no worker."""
    table = _table("role", "state", "pid", "beat", "restarts", "memory", "note")
    for r in roles:
        table.add_row(r["name"], state(r["state"]), plain(r["pid"]), age(r["beat_age_s"]), number(r["restarts"]),
                      memory(r["rss_bytes"]), r["note"] or "")
    return table


def live(fetch: Callable[[], Snapshot], interval_s: float) -> None:
    """Show the status again and again until Ctrl-C; once, when the output is no terminal."""
    screen = console()
    if not screen.is_terminal:
        screen.print(render(fetch()))
        return
    last_done, last_at = None, 0.0
    with contextlib.suppress(KeyboardInterrupt), Live(console=screen, screen=True, auto_refresh=False) as display:
        while True:
            snapshot, now = fetch(), time.monotonic()
            done = snapshot["daemon"]["done"] + snapshot["daemon"]["failed"]
            rate = max(0.0, (done - last_done) / (now - last_at)) if last_done is not None else None
            last_done, last_at = done, now
            display.update(render(snapshot, rate), refresh=True)
            time.sleep(interval_s)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    right = {"pid", "beat", "done", "failed", "lag", "restarts", "recycled", "memory", "epoch", "committed", "durable",
             "end"}
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=name != "task")
    return table


def state(name: str) -> Text:
    """A state in its colour."""
    return Text(name, COLOURS.get(name, ""))


def number(value: int | None, absent: str = "0") -> str:
    """A count with its thousands apart."""
    return absent if value is None else f"{value:,}"


def plain(value: int | None) -> str:
    """A number that counts nothing, such as a pid."""
    return "" if value is None else str(value)


def memory(size: int | None) -> str:
    """Bytes as MB."""
    return "" if size is None else f"{size / 1e6:.0f} MB"


def age(seconds: float | None) -> str:
    """How old a beat is."""
    return "" if seconds is None else f"{seconds:.1f} s"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 4.2 s, 3 min 20 s, 5 h 2 min, 3 d 4 h."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
