"""`yadtq workers`: the health of all workers, once or as it changes."""
from __future__ import annotations

import json
import time
from typing import Any

import click

from yadtq.cli import exits
from yadtq.cli.context import Context, command
from yadtq.cli.values import iso, lasted, plain
from yadtq.health import WorkerHealth, WorkersHealth
from yadtq.monitor import WorkerChange


@click.command()
@click.option("--watch", is_flag=True, help="Go on, and tell of changes, until Ctrl-C.")
@click.option("--window", "window_s", type=click.FloatRange(min=1), default=900.0, show_default=True, metavar="S",
              help="How long a worker that is gone is still shown.")
@command
def workers(context: Context, /, watch: bool, window_s: float) -> int:
    """Show all workers, as their heartbeats tell. Expired: not heard of for too long.

    \b
    Examples:
      yadtq workers
      yadtq workers --watch
    """
    health = context.client.get_all_workers_health(window_s=window_s)
    if context.json and not watch:
        context.print_json({"broker_outage": health.broker_outage, "workers": [worker_fields(one) for one in health]})
    elif not watch or not context.json:
        _print_table(context, health)
    if watch:
        _watch(context, window_s)
    return exits.OK


def _watch(context: Context, window_s: float) -> None:
    def tell(change: WorkerChange) -> None:
        if context.json:                            # one document a line
            fields = {"kind": change.kind.value, "message": change.message,
                      "worker": None if change.worker is None else worker_fields(change.worker)}
            click.echo(json.dumps(plain(fields)))
        else:
            click.echo(f"{time.strftime('%H:%M:%S')}  {change.kind.value:<11}  {change.message}")

    with context.client.monitor_workers(tell, window_s=window_s):
        while True:
            time.sleep(3600)


def worker_fields(worker: WorkerHealth) -> dict[str, Any]:
    """A worker for machines."""
    return {
        "id": worker.worker_id, "host": worker.host, "pid": worker.pid, "partitions": list(worker.partitions),
        "state": worker.state, "expired": worker.expired, "age_s": round(worker.age_s, 3), "task": worker.task or None,
        "task_id": worker.task_id or None, "task_since": iso(worker.task_since_ms), "done": worker.done,
        "failed": worker.failed, "lag": worker.lag, "epoch": worker.epoch, "version": worker.version or None}


def _print_table(context: Context, health: WorkersHealth) -> None:
    from rich.table import Table
    if not health:
        click.echo("no worker has been heard of: is yadtqd running? (systemctl status yadtqd, ./setup.sh up)")
        return
    table = Table("worker", "state", "partitions", "last beat", "running", "for", box=None, pad_edge=False)
    for name in ("done", "failed", "lag"):
        table.add_column(name, justify="right")
    for worker in health:
        state = "[red]expired[/red]" if worker.expired else _coloured(worker.state)
        since = time.time() - worker.task_since_ms / 1000 if worker.task and worker.task_since_ms else None
        table.add_row(worker.worker_id, state, ",".join(map(str, worker.partitions)), f"{lasted(worker.age_s)} ago",
                      worker.task, "" if since is None else lasted(max(0.0, since)), f"{worker.done:,}",
                      f"{worker.failed:,}", f"{worker.lag:,}")
    context.console.print(table)
    if health.broker_outage:
        click.echo("no worker at all is heard of any more: Kafka takes no heartbeats, or all hosts are gone", err=True)


def _coloured(state: str) -> str:
    colour = {"RUNNING": "green", "FATAL": "red", "BACKOFF": "yellow", "STARTING": "cyan"}.get(state)
    return f"[{colour}]{state}[/{colour}]" if colour else state
