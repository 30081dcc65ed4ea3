"""`yadtq result` and how the ends of tasks are printed."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from yadtq.cli import exits
from yadtq.cli.context import Context, command, error_fields
from yadtq.cli.values import text_of
from yadtq.errors import YADTQError


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--timeout", type=click.FloatRange(min=0), default=10.0, show_default=True, metavar="S",
              help="How long to wait for the end, in seconds; 0: not at all.")
@command
def result(context: Context, /, ids: tuple[str, ...], timeout: float) -> int:
    """Wait for tasks, and print their values.

    \b
    Examples:
      yadtq result 0198c5d2-9f6a-7b3c-8d4e-5f6071829304
      yadtq result ID ID ID --timeout 60 --json
    """
    return print_outcome(context, ids[0], timeout) if len(ids) == 1 else print_outcomes(context, ids, timeout)


def print_outcome(context: Context, task_id: str, timeout_s: float) -> int:
    """Wait for one task, print its value, or its error on standard error; returns the exit status."""
    try:
        value = context.client.get_result(task_id, timeout_s)
    except YADTQError as error:
        return context.fail(error, id=task_id)
    if context.json:
        context.print_json({"id": task_id, "result": value})
    else:
        click.echo(text_of(value))
    return exits.OK


def print_outcomes(context: Context, ids: Sequence[str], timeout_s: float) -> int:
    """Wait for many; a line each. The exit status is that of the first error."""
    outcomes = context.client.get_results(ids, timeout_s, return_exceptions=True)
    status = exits.OK
    shown: list[dict[str, Any]] = []
    for task_id, outcome in zip(ids, outcomes, strict=True):
        if isinstance(outcome, YADTQError):
            status = status or exits.status_for(outcome)
            shown.append({"id": task_id, "error": error_fields(outcome)})
        else:
            shown.append({"id": task_id, "result": outcome})
        if not context.json:
            text = str(outcome) if isinstance(outcome, YADTQError) else text_of(outcome)
            click.echo(f"{task_id}  {text}")
    if context.json:
        context.print_json(shown)
    return status
