"""`yadtq dlq` and `yadtqctl dlq`: looking at dead letters, replaying and purging them.

One group, mounted in both command lines. Talks to Kafka (and, for a replay, to Redis) by the client; the daemon takes
no part in it. Asks before anything goes that was not named by its id.
"""
from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import click

from yadtq.cli import exits
from yadtq.cli.context import Context, command, confirmed, error_fields
from yadtq.cli.dlq_view import letter_fields, print_counts, print_letter, print_table
from yadtq.cli.submitting import complete_task
from yadtq.cli.values import moment
from yadtq.errors import YADTQError

if TYPE_CHECKING:
    from yadtq.dead_letters import ReplayReport

F = TypeVar("F", bound=Callable[..., Any])
CODES = ("TASK_CRASHED", "TASK_FAILED", "TASK_TIMEOUT", "TASK_HARD_TIMEOUT", "INVALID_MESSAGE")
STATUSES = ((exits.OK, "done"), (exits.USAGE, "wrong usage or configuration"), (exits.NOT_FOUND, "no such dead letter"),
            (exits.UNREACHABLE, "Kafka or Redis can't be reached"),
            (exits.REFUSED, "a letter that was named can't be replayed, or you said no"), (exits.OTHER, "other errors"),
            (exits.INTERRUPTED, "interrupted"))


def complete_code(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Error codes that letters often have, for a shell's completion."""
    return [code for code in CODES if code.startswith(incomplete.upper())]


def _filters(run: F) -> F:
    for option in reversed((
            click.option("--task", "names", multiple=True, shell_complete=complete_task, help="Only these task types."),
            click.option("--code", "codes", multiple=True, shell_complete=complete_code,
                         help="Only these error codes, such as TASK_CRASHED."),
            click.option("--since", metavar="WHEN",
                         help="Died since: 15m, 2h, 1d (ago), a Unix time, or 2026-01-31T12:00."),
            click.option("--until", metavar="WHEN", help="Died until."))):
        run = option(run)
    return run


def _orders(run: F) -> F:
    for option in reversed((
            click.option("--limit", type=click.IntRange(min=1), help="The newest so many of those."),
            click.option("--all", "everything", is_flag=True, help="All dead letters."),
            click.option("--dry-run", is_flag=True, help="Only tell what would be done."),
            click.option("--yes", "-y", is_flag=True, help="Do not ask."))):
        run = option(run)
    return _named(_filters(run))


def _named(run: F) -> F:
    option = click.option("--id", "more_ids", multiple=True, metavar="ID", help="These letters; same as ID.")
    return click.argument("ids", nargs=-1, metavar="[ID]...")(option(run))


@click.group(epilog="\b\nExit status:\n" + "\n".join(f"  {status:>3}  {meaning}" for status, meaning in STATUSES))
@click.pass_context
def dlq(click_context: click.Context) -> None:
    """Dead letters: tasks that were given up, and what was no task at all. List, show, replay, purge."""
    if click_context.find_object(Context) is None:          # mounted in yadtqctl
        options = click_context.find_root().params
        click_context.obj = Context(options.get("config"), {}, float(options.get("timeout_s", 5.0)), verbose=False,
                                    program="yadtqctl")


@dlq.command("list")
@_named
@_filters
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many at most.")
@click.option("--count", is_flag=True, help="Only how many there are, by task type and error code.")
@command
def list_(context: Context, /, ids: tuple[str, ...], more_ids: tuple[str, ...], limit: int, count: bool,
          **filters: Any) -> int:
    """List dead letters, the newest first.

    \b
    Examples:
      yadtqctl dlq list --since 2h
      yadtqctl dlq list --task report --code TASK_CRASHED
      yadtqctl dlq list --count
    """
    if ids or more_ids:
        return _show(context, (*ids, *more_ids), whole=False)
    found = context.client.dead_letters(**_wanted(filters))
    if count:
        counts = Counter((letter.task, letter.code) for letter in found)
        if context.json:
            context.print_json([{"task": task or None, "code": code, "count": number}
                                for (task, code), number in counts.most_common()])
        else:
            print_counts(context, counts)
        return exits.OK
    letters = list(islice(found, limit + 1))
    more, letters = len(letters) > limit, letters[:limit]
    if context.json:
        context.print_json([letter_fields(letter) for letter in letters])
    elif letters:
        print_table(context, letters)
        if more:
            click.echo(f"these are the newest {limit}; --limit shows more, --count how many there are", err=True)
    else:
        click.echo("no dead letters")
    return exits.OK


@dlq.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@command
def show(context: Context, /, ids: tuple[str, ...]) -> int:
    """Show dead letters whole: arguments, error and traceback, where they come from.

    \b
    Example:
      yadtqctl dlq show 0198c5d2-9f6a-7b3c-8d4e-5f6071829304
    """
    return _show(context, ids, whole=True)


@dlq.command()
@_orders
@command
def replay(context: Context, /, **options: Any) -> int:
    """Run the tasks of dead letters again, under their ids; asks first unless the letters are named by their ids.

    \b
    Examples:
      yadtqctl dlq replay 0198c5d2-9f6a-7b3c-8d4e-5f6071829304
      yadtqctl dlq replay --task report --since 2h --dry-run
      yadtqctl dlq replay --code TASK_CRASHED --yes
    """
    order, dry_run = _order(options, "replay"), bool(options["dry_run"])
    by_id = "ids" in order
    if not (dry_run or by_id or options["yes"]):
        would = context.client.replay_dead_letters(**order, dry_run=True)
        count = len(would.replayed)
        if not count:
            return _print_report(context, would, dry_run=False, by_id=False)
        rest = f" ({len(would.skipped):,} more can't be)" if would.skipped else ""
        if not confirmed(f"Replay {_letters(count)}{rest} of {_where(context)}?"):
            click.echo("nothing was replayed", err=True)
            return exits.REFUSED
    report = context.client.replay_dead_letters(**order, dry_run=dry_run)
    return _print_report(context, report, dry_run=dry_run, by_id=by_id)


@dlq.command()
@_orders
@command
def purge(context: Context, /, **options: Any) -> int:
    """Throw dead letters away for good. Asks first.

    \b
    Examples:
      yadtqctl dlq purge --code INVALID_MESSAGE --until 7d
      yadtqctl dlq purge --all --dry-run
    """
    order, dry_run = _order(options, "purge"), bool(options["dry_run"])
    count = context.client.purge_dead_letters(**order, dry_run=True) if dry_run or not options["yes"] else None
    if count and not dry_run and not confirmed(f"Throw away {_letters(count)} of {_where(context)} for good?"):
        click.echo("nothing was purged", err=True)
        return exits.REFUSED
    if not dry_run and count != 0:
        count = context.client.purge_dead_letters(**order)
    assert count is not None
    if context.json:
        context.print_json({"purged": count, "dry_run": dry_run})
    else:
        click.echo(f"{_letters(count)} {'would be ' if dry_run else ''}purged")
    return exits.NOT_FOUND if len(order.get("ids", ())) > count else exits.OK


# ---- what was asked for ---------------------------------------------------------------------------------------------
def _wanted(filters: dict[str, Any]) -> dict[str, Any]:
    """Filters as the client takes them, without those that were not given."""
    now_s = time.time()
    found = {"task": list(filters["names"]), "code": list(filters["codes"]),
             "since": moment(filters["since"], now_s), "until": moment(filters["until"], now_s)}
    return {name: value for name, value in found.items() if value not in (None, [])}


def _order(options: dict[str, Any], what: str) -> dict[str, Any]:
    """Which letters an order is for; wrong usage when that is not clear."""
    ids = list(dict.fromkeys((*options["ids"], *options["more_ids"])))
    filters = _wanted(options) | ({"limit": options["limit"]} if options["limit"] else {})
    if sum(map(bool, (ids, filters, options["everything"]))) > 1:
        raise click.UsageError("give either ids, or filters, or --all")
    if ids:
        return {"ids": ids}
    if not filters and not options["everything"]:
        raise click.UsageError("which ones? Give ids, or filters such as --task and --since, or --all; --dry-run "
                               f"tells what a {what} would do")
    # what dies while you are asked is not meant
    return {"limit": None, "until": time.time()} | filters


def _letters(count: int) -> str:
    return f"{count:,} dead letter{'' if count == 1 else 's'}"


def _where(context: Context) -> str:
    settings = context.settings
    return f"the topic {settings.kafka_dead_letter_topic} at {', '.join(settings.bootstrap)}"


# ---- answers --------------------------------------------------------------------------------------------------------
def _show(context: Context, ids: tuple[str, ...], *, whole: bool) -> int:
    found, shown, missing = [], [], 0
    for task_id in dict.fromkeys(ids):
        try:
            letter = context.client.get_dead_letter(task_id)
        except YADTQError as error:
            if exits.status_for(error) != exits.NOT_FOUND:
                raise
            missing += 1
            shown.append({"id": task_id, "error": error_fields(error)})
            if not context.json:
                click.echo(f"{context.program}: {error}", err=True)
        else:
            found.append(letter)
            shown.append(letter_fields(letter, whole=whole))
    if context.json:
        context.print_json(shown if len(ids) > 1 or not whole else shown[0])
    elif whole:
        for index, letter in enumerate(found):
            if index:
                click.echo()
            print_letter(context, letter)
    elif found:
        print_table(context, found)
    return exits.NOT_FOUND if missing else exits.OK


def _print_report(context: Context, report: ReplayReport, *, dry_run: bool, by_id: bool) -> int:
    if context.json:
        context.print_json({"replayed": report.replayed, "skipped": report.skipped, "dry_run": dry_run})
    else:
        for task_id in report.replayed if dry_run else ():
            click.echo(task_id)
        sys.stdout.flush()
        click.echo(f"{_letters(len(report.replayed))} {'would be ' if dry_run else ''}replayed", err=dry_run)
        reasons = Counter(report.skipped.values())
        if by_id:
            for task_id, reason in report.skipped.items():
                click.echo(f"{context.program}: {task_id}: {reason}", err=True)
        else:
            for reason, number in reasons.most_common():
                click.echo(f"{_letters(number)} skipped: {reason}", err=True)
    if not by_id or not report.skipped:
        return exits.OK
    missing = all("no dead letter" in reason for reason in report.skipped.values())
    return exits.NOT_FOUND if missing else exits.REFUSED
