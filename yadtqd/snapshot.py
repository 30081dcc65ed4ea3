"""What the daemon says of itself: the snapshot for `yadtqctl status`, the reasons for DEGRADED, systemd's status line.

Only reads; runs in the supervisor's one thread and takes about a millisecond with 64 workers.
"""
from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yadtqd.shared import Shared
from yadtqd.slot import WAITS_FOR_KAFKA, WAITS_FOR_REDIS, WAITS_FOR_UPGRADE, SlotView
from yadtqd.worker_handle import WorkerHandle
from yadtqd.worker_state import WorkerState

if TYPE_CHECKING:
    from yadtq.config import Settings

_PAGE = os.sysconf("SC_PAGE_SIZE")


def version() -> str:
    """The installed version of yadtqd."""
    try:
        return metadata.version("yadtqd")
    except metadata.PackageNotFoundError:
        return "unknown"


def reasons(handles: Iterable[WorkerHandle], shared: Shared, settings: Settings, *, lease_held: bool) -> list[str]:
    """Sentences that say why the daemon can't do its work as it should; empty when it can."""
    found = []
    waits: dict[str, list[str]] = {}
    for handle in handles:
        if handle.state is WorkerState.FATAL:
            found.append(f"{handle.name} is FATAL: {handle.note}")
        waiting_for = handle.slot.waiting_for if handle.alive else 0
        if waiting_for & WAITS_FOR_KAFKA:
            waits.setdefault(f"Kafka at {', '.join(settings.bootstrap)}", []).append(handle.name)
        if waiting_for & WAITS_FOR_REDIS:
            waits.setdefault(f"Redis at {redis_address(settings)}", []).append(handle.name)
        if waiting_for & WAITS_FOR_UPGRADE:
            waits.setdefault("an upgrade: a newer YADTQ has written a record that this one can't read", []).append(
                handle.name)
    found += [f"{_some(names)} waiting for {what}" for what, names in waits.items()]
    if shared.joined and not lease_held:
        found.append("the lease of this host is over: its partitions are not worked on until the group confirms them")
    return found


def redis_address(settings: Settings) -> str:
    """Where Redis is, as host:port, or which Sentinels know it."""
    return settings.redis_where


def snapshot(handles: list[WorkerHandle], shared: Shared, settings: Settings, daemon: dict[str, Any],
             now_ns: int) -> dict[str, Any]:
    """Everything as plain JSON-able data; `daemon` has what only the supervisor knows, and `done_gone`, `failed_gone`:
    tasks of workers that are no more."""
    workers = [_worker(h, settings, now_ns) for h in handles if h.role == "worker"]
    partitions = _partitions(handles, shared)
    totals = {"done": daemon.pop("done_gone") + sum(w["done"] for w in workers),
              "failed": daemon.pop("failed_gone") + sum(w["failed"] for w in workers),
              "lag": sum(p["lag"] or 0 for p in partitions if p["owned"])}
    fixed = {"pid": os.getpid(), "host": settings.host_name, "version": version(), "assignment": settings.assignment,
             "kafka": ", ".join(settings.bootstrap), "redis": redis_address(settings)}
    return {"daemon": fixed | totals | daemon, "workers": workers, "partitions": partitions,
            "roles": [_role(h, now_ns) for h in handles if h.role != "worker"]}


def _common(handle: WorkerHandle, view: SlotView, now_ns: int) -> dict[str, Any]:
    pid = handle.child.pid if handle.child is not None else None
    return {"name": handle.name, "pid": pid, "state": handle.state.name, "restarts": handle.restarts,
            "beat_age_s": round(max(now_ns - view.beat_ns, 0) / 1e9, 3) if pid else None, "rss_bytes": _rss(pid)}


def _worker(handle: WorkerHandle, settings: Settings, now_ns: int) -> dict[str, Any]:
    view = handle.slot.read()
    task = view.task if handle.alive else None
    due_s = (handle.next_start_ns - now_ns) / 1e9
    return _common(handle, view, now_ns) | {
        "id": f"{settings.host_name}/{handle.name}", "partitions": list(handle.partitions),
        "task": task.task if task else None, "task_id": task.task_id if task else None,
        "task_for_s": round((now_ns - task.started_ns) / 1e9, 3) if task else None,
        "done": handle.done_before + view.done, "failed": handle.failed_before + view.failed,
        "recycled": handle.recycled, "lag": view.lag if view.lag >= 0 else None, "epoch": view.epoch or None,
        "next_start_in_s": round(max(due_s, 0.0), 3) if not handle.alive else None}


def _role(handle: WorkerHandle, now_ns: int) -> dict[str, Any]:
    return _common(handle, handle.slot.read(), now_ns) | {"note": handle.note or None}


def _partitions(handles: list[WorkerHandle], shared: Shared) -> list[dict[str, Any]]:
    names = {handle.slot.index + 1: handle.name for handle in handles}
    numbers = sorted(set(range(min(shared.topic_partitions, len(shared.partitions))))
                     | set(shared.partitions.owned()))
    rows = []
    for number in numbers:
        row = shared.partitions[number]
        rows.append({"partition": number, "owned": bool(row.owned), "paused": bool(row.paused),
                     "worker": names.get(row.worker), "epoch": row.epoch or None, "watermark": row.watermark or None,
                     "committed": row.committed or None, "end": row.end_offset or None,
                     "lag": row.lag if row.lag >= 0 else None})
    return rows


def _rss(pid: int | None) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    return None


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{shown} {'is' if len(names) == 1 else 'are'}"
