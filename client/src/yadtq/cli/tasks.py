"""`yadtq status`, `tasks` and `clear`: looking at tasks, and clearing them."""
from __future__ import annotations

import time
from itertools import islice
from typing import Any

import click

from yadtq.cli import exits
from yadtq.cli.context import Context, command, confirmed, error_fields
from yadtq.cli.values import iso, moment, when
from yadtq.errors import YADTQError
from yadtq.task import TaskRecord, TaskStatus

COLOURS = {TaskStatus.SUCCESS: "green", TaskStatus.FAILED: "red", TaskStatus.CANCELLED: "magenta",
           TaskStatus.PROCESSING: "cyan", TaskStatus.RETRYING: "yellow", TaskStatus.SCHEDULED: "blue"}


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@command
def status(context: Context, /, ids: tuple[str, ...]) -> int:
    """Show where tasks stand, without waiting.

    \b
    Example:
      yadtq status 0198c5d2-9f6a-7b3c-8d4e-5f6071829304
    """
    found: list[TaskRecord] = []
    shown: list[dict[str, Any]] = []
    missing = 0
    for task_id in ids:
        try:
            record = context.client.get_task(task_id)
        except YADTQError as error:
            if exits.status_for(error) != exits.NOT_FOUND:
                raise
            missing += 1
            shown.append({"id": task_id, "status": None, "error": error_fields(error)})
            if not context.json:
                click.echo(f"yadtq: {error}", err=True)
        else:
            found.append(record)
            shown.append(record_fields(record))
    if context.json:
        context.print_json(shown[0] if len(ids) == 1 else shown)
    elif len(ids) == 1 and found:
        _print_one(context, found[0])
    elif found:
        _print_table(context, found)
    return exits.NOT_FOUND if missing else exits.OK


@click.command()
@click.option("--status", "statuses", multiple=True, type=click.Choice([one.value for one in TaskStatus],
                                                                       case_sensitive=False), help="Only these.")
@click.option("--task", "names", multiple=True, help="Only these task types.")
@click.option("--group", help="Only those submitted with this label.")
@click.option("--since", metavar="WHEN", help="Submitted since: 15m, 2h, 1d (ago), a Unix time, or 2026-01-31T12:00.")
@click.option("--until", metavar="WHEN", help="Submitted until.")
@click.option("--oldest-first", is_flag=True, help="The oldest first, not the newest.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many at most.")
@click.option("--count", is_flag=True, help="Only how many there are in each state: of a group, of types, of all.")
@command
def tasks(context: Context, /, statuses: tuple[str, ...], names: tuple[str, ...], group: str | None, since: str | None,
          until: str | None, oldest_first: bool, limit: int, count: bool) -> None:
    """List tasks, the newest first.

    \b
    Examples:
      yadtq tasks --status FAILED --since 1h
      yadtq tasks --group import-17 --count
    """
    if count:
        if statuses or since or until:
            raise click.UsageError("--count is by --group or by --task only")
        counts = context.client.count_tasks(task=list(names) or None, group=group)
        if context.json:
            context.print_json({one.value: number for one, number in counts.items()})
            return
        for one, number in counts.items():
            click.echo(f"{one.value:<10} {number:>10,}")
        return
    now_s = time.time()
    wanted = [TaskStatus(one.upper()) for one in statuses] or list(TaskStatus)
    records = list(islice(context.client.get_tasks_by_status(
        wanted, task=list(names) or None, group=group, since=moment(since, now_s), until=moment(until, now_s),
        newest_first=not oldest_first, page_size=min(limit, 1000)), limit))
    if context.json:
        context.print_json([record_fields(record) for record in records])
    elif records:
        _print_table(context, records)
    else:
        click.echo("no tasks")


@click.command()
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@command
def clear(context: Context, /, yes: bool) -> int:
    """Clear everything: all tasks in Redis and the backlog in Kafka. Asks first.

    \b
    Example:
      yadtq clear --yes
    """
    if not yes:
        settings = context.settings
        what = (f"all tasks of the topic {settings.kafka_task_topic} at {', '.join(settings.bootstrap)}, and all "
                f"records at {settings.redis_where}")
        if not confirmed(f"Clear {what}?"):
            click.echo("nothing was cleared", err=True)
            return exits.REFUSED
    cleared = context.client.clear_all_tasks()
    if context.json:
        context.print_json({"cleared": cleared})
    else:
        click.echo(f"{cleared:,} tasks cleared")
    return exits.OK


def record_fields(record: TaskRecord) -> dict[str, Any]:
    """A record for machines."""
    return {
        "id": record.id, "task": record.task, "group": record.group, "status": record.status.value,
        "attempt": record.attempt, "partition": record.partition, "worker": record.worker or None,
        "submitted": iso(record.submitted_ms), "due": iso(record.due_ms), "started": iso(record.started_ms),
        "ended": iso(record.ended_ms),
        "has_result": record.has_result,
        "error": None if record.error is None else {"code": record.error.code, "message": record.error.message,
                                                    "type": record.error.error_type},
        "attempts": [{"attempt": one.n, "started": iso(one.started_ms), "ended": iso(one.ended_ms),
                      "worker": one.worker or None, "code": one.code or None, "type": one.error_type or None,
                      "message": one.message or None} for one in record.attempts]}


def _print_one(context: Context, record: TaskRecord) -> None:
    from rich.markup import escape
    rows = [("id", record.id), ("task", record.task), ("group", escape(record.group or "")),
            ("status", _coloured(record.status)),
            ("attempt", str(record.attempt + 1)), ("partition", str(record.partition)),
            ("worker", escape(record.worker)), ("submitted", when(record.submitted_ms)),
            ("due", when(record.due_ms)), ("started", when(record.started_ms)), ("ended", when(record.ended_ms))]
    if record.started_ms and record.ended_ms:
        rows.append(("took", f"{(record.ended_ms - record.started_ms) / 1000:.3f} s"))
    if record.error is not None:
        rows.append(("error", escape(f"{record.error.code}: {record.error.message}")))
    if len(record.attempts) > 1 or record.status is TaskStatus.RETRYING:
        rows += [(f"attempt {one.n + 1}", escape(f"{when(one.ended_ms)}  {one.worker}  " + (
            f"{one.error_type or one.code}: {one.message}" if one.code else "succeeded"))) for one in record.attempts]
    for name, text in rows:
        if text:
            context.console.print(f"[bold]{name:<10}[/bold] {text}", soft_wrap=True)


def _print_table(context: Context, records: list[TaskRecord]) -> None:
    from rich.markup import escape
    from rich.table import Table
    due = any(record.due_ms and not record.status.ended for record in records)
    columns = ("id", "task", "status", "submitted", *(["due"] if due else []), "ended", "worker", "error")
    table = Table(*columns, box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for record in records:
        error = "" if record.error is None else f"{record.error.code}: {record.error.message.splitlines()[0][:60]}"
        table.add_row(record.id, record.task, _coloured(record.status), when(record.submitted_ms),
                      *([when(record.due_ms)] if due else []), when(record.ended_ms), escape(record.worker),
                      escape(error))
    context.console.print(table)


def _coloured(status: TaskStatus) -> str:
    colour = COLOURS.get(status)
    return f"[{colour}]{status.value}[/{colour}]" if colour else status.value
