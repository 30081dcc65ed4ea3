"""How dead letters are printed: tables and whole letters for people, fields for machines. Talks to nothing."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from yadtq.cli.context import Context
from yadtq.cli.values import iso, plain, text_of, when
from yadtq.errors import YADTQError

if TYPE_CHECKING:
    from collections.abc import Callable

    from yadtq.dead_letters import DeadLetter

NO_TASK = "(no task)"
SHOWN_CHARACTERS = 2000         # of arguments and of what is no task; --json has all
SHOWN_BYTES = 512
LEAST_ERROR = 24                # characters of an error in a table, however narrow the terminal
ALWAYS = ("id", "task", "died")


def letter_fields(letter: DeadLetter, *, whole: bool = False) -> dict[str, Any]:
    """A letter for machines; `whole` with its arguments and traceback, or the bytes of what is no task."""
    fields: dict[str, Any] = {
        "id": letter.id, "task": letter.task or None, "code": letter.code, "message": letter.message,
        "type": letter.error.error_type if letter.error else None, "died": iso(letter.dead_ms),
        "worker": letter.worker, "partition": letter.partition, "offset": letter.offset, "attempt": letter.attempt,
        "replays": letter.replays, "submitted": iso(letter.submitted_ms), "key": letter.key, "group": letter.group}
    if whole:
        fields["traceback"] = letter.error.traceback if letter.error else None
        fields["attempts"] = [{"attempt": one.n, "ended": iso(one.ended_ms), "worker": one.worker, "code": one.code,
                               "type": one.error_type or None, "message": one.message} for one in letter.attempts]
        args, kwargs = _decoded(lambda: letter.args), _decoded(lambda: letter.kwargs)
        if isinstance(args, YADTQError) or isinstance(kwargs, YADTQError):
            fields["record"] = letter.record
        else:
            fields |= {"args": args, "kwargs": kwargs}
    return fields


def print_table(context: Context, letters: Sequence[DeadLetter]) -> None:
    """A line each. What went wrong is cut to the room that is left; a narrow terminal shows fewer columns."""
    from rich.markup import escape
    from rich.table import Table
    columns = {"id": [one.id for one in letters], "task": [one.task or NO_TASK for one in letters],
               "died": [when(one.dead_ms)[:-4] for one in letters],
               "attempts": [str(one.attempt + 1) if one.is_task else "" for one in letters],
               "replays": [str(one.replays) if one.is_task else "" for one in letters],
               "worker": [one.worker for one in letters]}
    widths = {name: max(map(len, (name, *texts))) + 2 for name, texts in columns.items()}
    while (room := context.console.width - sum(widths.values())) < LEAST_ERROR and len(widths) > len(ALWAYS):
        widths.popitem()
    table = Table(box=None, pad_edge=False)
    for name in (*ALWAYS, "error", *(name for name in widths if name not in ALWAYS)):
        table.add_column(name, no_wrap=name in ("id", "died"),
                         justify="right" if name in ("attempts", "replays") else "left")
    for at, letter in enumerate(letters):
        cells = {name: escape(texts[at]) for name, texts in columns.items() if name in widths}
        error = _cut(f"{letter.code}: {' '.join(letter.message.split())}", max(room, LEAST_ERROR) - 3)
        code, colon, rest = error.partition(":")
        table.add_row(*(cells.pop(name) for name in ALWAYS), f"[red]{escape(code)}[/red]{escape(colon + rest)}",
                      *cells.values())
    context.console.print(table)


def print_counts(context: Context, counts: Counter[tuple[str, str]]) -> None:
    """How many letters there are, by task type and error code."""
    from rich.markup import escape
    from rich.table import Table
    table = Table("task", "error", box=None, pad_edge=False)
    table.add_column("letters", justify="right")
    for (task, code), number in counts.most_common():
        table.add_row(escape(task or NO_TASK), escape(code), f"{number:,}")
    table.add_row("all", "", f"{counts.total():,}")
    context.console.print(table)


def print_letter(context: Context, letter: DeadLetter) -> None:
    """Everything about one."""
    from rich.markup import escape
    attempts = f"{letter.attempt + 1}" + (f", after {letter.replays} replays" if letter.replays else "")
    rows = [("id", letter.id), ("task", letter.task or NO_TASK), ("died", when(letter.dead_ms)),
            ("error", f"{letter.code}: {letter.message}"),
            ("type", letter.error.error_type if letter.error else ""), ("worker", letter.worker),
            ("from", f"partition {letter.partition}, offset {letter.offset}")]
    if letter.is_task:
        rows += [("attempts", attempts), ("submitted", when(letter.submitted_ms)), ("key", letter.key or ""),
                 ("group", letter.group or ""), *_arguments(letter)]
        rows += [(f"attempt {one.n + 1}", f"{when(one.ended_ms)}  {one.worker}  {one.error_type or one.code}: "
                  f"{one.message}") for one in letter.attempts if len(letter.attempts) > 1]
    else:
        rows.append(("record", _bytes(letter.record)))
    for name, text in rows:
        if text:
            context.console.print(f"[bold]{name:<10}[/bold] {escape(text)}", soft_wrap=True)
    if letter.error and letter.error.traceback:
        context.console.print("\n" + escape(letter.error.traceback.rstrip()), soft_wrap=True)


def _arguments(letter: DeadLetter) -> list[tuple[str, str]]:
    args, kwargs = _decoded(lambda: letter.args), _decoded(lambda: letter.kwargs)
    if isinstance(args, YADTQError):
        return [("args", f"can't be shown: {args.message}"), ("record", _bytes(letter.record))]
    if isinstance(kwargs, YADTQError):
        return [("args", _text(args)), ("kwargs", f"can't be shown: {kwargs.message}")]
    return [("args", _text(args)), ("kwargs", _text(kwargs) if kwargs else "")]


def _decoded(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except YADTQError as error:         # damaged, or numpy is not installed here
        return error


def _text(value: Any) -> str:
    text = text_of(plain(value))
    return _cut(text, SHOWN_CHARACTERS) + (f" ({len(text):,} characters)" if len(text) > SHOWN_CHARACTERS else "")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "..."


def _bytes(data: bytes) -> str:
    shown = data[:SHOWN_BYTES]
    text = repr(shown)[1:] if sum(32 <= byte < 127 for byte in shown) > len(shown) // 2 else shown.hex(" ")
    return text + (f" ... ({len(data):,} bytes)" if len(data) > SHOWN_BYTES else f" ({len(data)} bytes)")
