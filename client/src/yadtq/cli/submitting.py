"""`yadtq submit`: one task from the command line, or a batch from a file of JSON lines."""
from __future__ import annotations

import json
import sys
from typing import IO, Any

import click

from yadtq.backlog import OnBacklog
from yadtq.cli import exits
from yadtq.cli.context import Context, command
from yadtq.cli.results import print_outcome, print_outcomes
from yadtq.cli.values import argument, keyword_arguments, moment_ahead, span
from yadtq.errors import BatchRefused

SHIPPED = ("addition", "subtraction", "multiplication", "division", "power", "root", "matrix_addition",
           "matrix_multiplication")


def complete_task(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The names of shipped task types that begin so, for a shell's completion."""
    return [name for name in SHIPPED if name.startswith(incomplete)]


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("task", required=False, shell_complete=complete_task)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option("--kwargs", metavar="JSON", help="Keyword arguments, a JSON object.")
@click.option("--key", help="Tasks with the same key go to the same partition.")
@click.option("--delay", metavar="SPAN", help="Do not start it before so long: 30 (seconds), 15m, 2h or 1d.")
@click.option("--at", metavar="WHEN", help="Do not start it before: a Unix time, or 2026-01-31T12:00 (local time).")
@click.option("--task-timeout", "timeout_s", type=float, metavar="S", help="Soft time-out of the task, in seconds.")
@click.option("--expires", "expires_s", type=float, metavar="S",
              help="Not started any more so many seconds after it is due.")
@click.option("--max-retries", type=int, metavar="N", help="How often a failed attempt is repeated.")
@click.option("--task-id", metavar="ID", help="An id of your own: submitting it again is harmless.")
@click.option("--group", metavar="LABEL", help="A label by which many tasks are found, counted and cancelled.")
@click.option("--batch", type=click.File("rb"), metavar="FILE",
              help='Submit a batch: one JSON object a line, {"task": ..., "args": [...], ...}; - for standard input.')
@click.option("--max-backlog", type=click.IntRange(min=0), metavar="N",
              help="Only while so few tasks are queued (the setting max_backlog).")
@click.option("--on-backlog", type=click.Choice(["refuse", "wait"]), help="Beyond that: fail, or wait for room.")
@click.option("--wait", is_flag=True, help="Wait for the result and print it.")
@click.option("--timeout", type=click.FloatRange(min=0), default=60.0, show_default=True, metavar="S",
              help="How long --wait waits, in seconds.")
@command
def submit(context: Context, /, task: str | None, args: tuple[str, ...], batch: IO[bytes] | None, wait: bool,
           timeout: float, kwargs: str | None, delay: str | None, at: str | None, max_backlog: int | None,
           on_backlog: OnBacklog | None, **options: Any) -> int:
    """Submit a task, and print its id.

    ARGS are JSON, one argument each; a word that is no JSON stands for itself.

    \b
    Examples:
      yadtq submit addition 1 2 --kwargs '{"round_to": 2}' --wait
      yadtq submit matrix_addition '[[1,2],[3,4]]' '[[5,6],[7,8]]'
      yadtq submit addition 1 2 --delay 15m
      yadtq submit --batch tasks.jsonl --json
    """
    limit: dict[str, Any] = {"max_backlog": max_backlog, "on_backlog": on_backlog}
    if batch is not None:
        if task is not None:
            raise click.UsageError("give either a task or --batch, not both")
        return _submit_batch(context, _lines(batch), limit, wait=wait, timeout=timeout)
    if task is None:
        raise click.UsageError("which task? Such as: yadtq submit addition 1 2")
    mistaken = next((one for one in args if one.startswith("--") and one != "--"), None)
    if mistaken is not None:
        raise click.UsageError(f"no such option: {mistaken}")
    task_id = context.client.submit_task(task, [argument(one) for one in args], keyword_arguments(kwargs),
                                         delay_s=span(delay), due=moment_ahead(at), **options, **limit)
    if wait:
        return print_outcome(context, task_id, timeout)
    if context.json:
        context.print_json({"id": task_id})
    else:
        click.echo(task_id)
    return exits.OK


def _submit_batch(context: Context, entries: list[Any], limit: dict[str, Any], *, wait: bool, timeout: float) -> int:
    try:
        ids = context.client.submit_tasks(entries, **limit)
    except BatchRefused as refusal:
        if context.json:
            context.print_json({"error": {"code": refusal.code, "message": refusal.message}, "refused": {
                str(index + 1): {"code": error.code, "message": error.message}
                for index, error in refusal.refused.items()}})
        else:
            click.echo(f"yadtq: {refusal}", err=True)
            for index, error in refusal.refused.items():
                click.echo(f"  line {index + 1}: {error}", err=True)
        return exits.REFUSED
    if wait:
        return print_outcomes(context, ids, timeout)
    if context.json:
        context.print_json({"ids": ids})
    else:
        sys.stdout.writelines(f"{one}\n" for one in ids)
    return exits.OK


def _lines(batch: IO[bytes]) -> list[Any]:
    entries = []
    for number, line in enumerate(batch, 1):
        if not line.strip():
            continue
        try:
            entries.append(json.loads(line))
        except ValueError as mistake:
            raise click.BadParameter(f"line {number} is not valid JSON: {mistake}", param_hint="--batch") from None
    return entries
