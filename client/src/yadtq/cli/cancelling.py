"""`yadtq cancel` and `yadtqctl cancel`: some tasks by their ids, or all of a type, of a group, of a time.

One command, mounted in both command lines. Talks to Redis alone, by the client; the daemon takes no part in it. Asks
before it cancels what was not named by its id.
"""
from __future__ import annotations

import time
from typing import Any

import click

from yadtq.cancelling import OPEN, CancelAnswer, CancelReport
from yadtq.cli import exits
from yadtq.cli.context import Context, command, confirmed
from yadtq.cli.submitting import complete_task
from yadtq.cli.values import moment
from yadtq.errors import ResultTimeout
from yadtq.task import TaskStatus

SHOWN = 20                  # ids of tasks that did not end in time, for people


class _Mounted(click.Command):
    """Makes the context of `yadtq` where it is mounted in another command line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        if ctx.find_object(Context) is None:
            options = ctx.find_root().params
            ctx.obj = Context(options.get("config"), {}, float(options.get("timeout_s", 5.0)), verbose=False,
                              program="yadtqctl")
        return super().invoke(ctx)


@click.command(cls=_Mounted)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--task", "names", multiple=True, shell_complete=complete_task, help="Tasks of these types.")
@click.option("--group", help="Tasks that were submitted with this label.")
@click.option("--status", "statuses", multiple=True, help="Tasks in these states.",
              type=click.Choice([one.value for one in OPEN], case_sensitive=False))
@click.option("--since", metavar="WHEN", help="Submitted since: 15m, 2h, 1d (ago), a Unix time, or 2026-01-31T12:00.")
@click.option("--until", metavar="WHEN", help="Submitted until.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be cancelled.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--wait", is_flag=True, help="Wait until those that run have ended.")
@click.option("--wait-timeout", "wait_s", type=click.FloatRange(min=0), default=60.0, show_default=True, metavar="S",
              help="How long --wait waits, in seconds.")
@command
def cancel(context: Context, /, ids: tuple[str, ...], dry_run: bool, yes: bool, wait: bool, wait_s: float,
           **filters: Any) -> int:
    """Cancel tasks: by their ids, or all that have not ended and fit the options.

    CONFIRMED: it will not start; ASKED: a worker has it and ends it; ENDED: it had ended.

    \b
    Examples:
      yadtq cancel 0198c5d2-9f6a-7b3c-8d4e-5f6071829304 --wait
      yadtq cancel --group import-17 --dry-run
      yadtq cancel --task report --since 1h --yes
    """
    chosen = _chosen(filters)
    if bool(ids) == bool(chosen):
        raise click.UsageError("give either ids, or options that say which tasks: --task, --group, --status, --since, "
                               "--until")
    if chosen and not (yes or dry_run):
        would = context.client.cancel_tasks(**chosen, dry_run=True)
        if would.total and not confirmed(f"Cancel {would.total:,} tasks ({_counted(would)})?"):
            click.echo("nothing was cancelled", err=True)
            return exits.REFUSED
    if ids:
        report = context.client.cancel_tasks(ids, dry_run=dry_run, with_ids=True)
    else:
        report = context.client.cancel_tasks(**chosen, dry_run=dry_run, with_ids=wait)
    asked = [one for one, answer in report.answers.items() if answer is CancelAnswer.ASKED]
    late = _await(context, asked, wait_s) if wait and not dry_run else []
    _tell(context, report, late, by_id=bool(ids), dry_run=dry_run)
    return exits.TIMEOUT if late else exits.OK


def _chosen(filters: dict[str, Any]) -> dict[str, Any]:
    """The filters that were given, as the client takes them."""
    now_s = time.time()
    given = {"task": list(filters["names"]) or None, "group": filters["group"],
             "status": [TaskStatus(one.upper()) for one in filters["statuses"]] or None,
             "since": moment(filters["since"], now_s), "until": moment(filters["until"], now_s)}
    return {name: value for name, value in given.items() if value is not None}


def _await(context: Context, ids: list[str], wait_s: float) -> list[str]:
    """Wait until these have ended; returns those that have not. An id that nobody knows has nothing to wait for."""
    ends = context.client.get_results(ids, wait_s, return_exceptions=True)
    return [task_id for task_id, end in zip(ids, ends, strict=True) if isinstance(end, ResultTimeout)]


def _tell(context: Context, report: CancelReport, late: list[str], *, by_id: bool, dry_run: bool) -> None:
    if context.json:
        told: dict[str, Any] = {"dry_run": dry_run, "confirmed": report.confirmed, "asked": report.asked,
                                "ended": report.ended, "late": late}
        if by_id:
            told["answers"] = {one: answer.value for one, answer in report.answers.items()}
        context.print_json(told)
        return
    if by_id:
        for task_id, answer in report.answers.items():
            click.echo(f"{task_id}  {answer.value}")
    else:
        click.echo(f"{'would be cancelled' if dry_run else 'cancelled'}: {_counted(report)}")
    if late:
        click.echo(f"{len(late)} have not ended yet: {', '.join(late[:SHOWN])}{' ...' if len(late) > SHOWN else ''}",
                   err=True)


def _counted(report: CancelReport) -> str:
    parts = [f"{report.confirmed:,} wait", f"{report.asked:,} in workers' hands"]
    return ", ".join([*parts, f"{report.ended:,} ended before"] if report.ended else parts)
