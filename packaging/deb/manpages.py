"""Writes the manual pages and bash completions of the Debian package from the commands themselves.

    PYTHON-OF-THE-ENVIRONMENT manpages.py MAN-FOLDER COMPLETIONS-FOLDER YYYY-MM-DD

Runs once in a package's build, by the environment that the package will hold, so that a page says what its program
does: yadtq(1), yadtqctl(8) and yadtqd(8) have what `--help` prints of every subcommand, yadtq.toml(5) the table of
options. Writes these files and nothing else.
"""
from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
from click.shell_completion import BashComplete

from yadtq import __version__
from yadtq.cli import cli
from yadtq.config import CONFIG_FILE, OPTIONS
from yadtq.config_load import toml
from yadtq.options import Option
from yadtqd.main import main as yadtqd
from yadtqd.yadtqctl import main as yadtqctl

PROGRAMS: dict[str, tuple[int, click.Command, str]] = {
    "yadtq": (1, cli, "submit tasks to YADTQ, wait for them and look at them"),
    "yadtqctl": (8, yadtqctl, "look after the yadtqd of this host"),
    "yadtqd": (8, yadtqd, "YADTQ's daemon: supervises the workers of a host"),
}
SEE_ALSO = ["yadtq.toml(5)", *(f"{name}({section})" for name, (section, _, _) in PROGRAMS.items())]
DOCS = "/usr/share/doc/yadtq"


def escape(text: str) -> str:
    """Plain text as roff prints it, also at the beginning of a line."""
    plain = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in plain.splitlines())


def paragraphs(text: str) -> Iterator[str]:
    """A help text of click: blank lines part paragraphs, one that begins with backspace is kept as it is broken."""
    for part in re.split(r"\n\s*\n", inspect.cleandoc(text).replace("\f", "\n\n")):
        kept = part.startswith("\b")
        text = part.removeprefix("\b").strip("\n")
        if text:
            yield ".PP\n" + (f".nf\n{escape(text)}\n.fi" if kept else escape(" ".join(text.split())))


def options(command: click.Command) -> Iterator[str]:
    """The options of one command, with their help."""
    context = click.Context(command)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and record[1]:
            yield f".TP\n\\fB{escape(record[0])}\\fR\n{escape(record[1])}"


def synopsis(command: click.Command, name: str) -> str:
    """Name, options and arguments in a line."""
    pieces = command.collect_usage_pieces(click.Context(command))
    return f"\\fB{escape(name)}\\fR {escape(' '.join(pieces))}"


def subcommands(command: click.Command, name: str) -> Iterator[str]:
    """A part for each subcommand, and for theirs."""
    if not isinstance(command, click.Group):
        return
    context = click.Context(command)
    for word in command.list_commands(context):
        child = command.get_command(context, word)
        if child is None or child.hidden:
            continue
        full = f"{name} {word}"
        yield f".SS {synopsis(child, full)}"
        yield from paragraphs(child.help or "")
        yield from options(child)
        yield from subcommands(child, full)


def page(name: str, section: int, date: str, title: str, body: Iterable[str]) -> str:
    """A whole page."""
    others = (f"\\fB{other[:-3]}\\fR{other[-3:]}" for other in SEE_ALSO if other != f"{name}({section})")
    return "\n".join([
        f'.TH "{name.upper()}" "{section}" "{date}" "yadtq {__version__}"',
        f".SH NAME\n{name} \\- {escape(title)}", *body,
        f".SH SEE ALSO\n{', '.join(others)}, and the documentation in {DOCS}.", ""])


def command_page(name: str, date: str) -> str:
    """The page of a program."""
    section, command, title = PROGRAMS[name]
    body = [f".SH SYNOPSIS\n{synopsis(command, name)}", ".SH DESCRIPTION", *paragraphs(command.help or ""),
            ".SH OPTIONS", *options(command)]
    if isinstance(command, click.Group):
        body += [".SH COMMANDS", *subcommands(command, name)]
    if command.epilog:
        body += [".SH EXIT STATUS", *paragraphs(command.epilog)]
    return page(name, section, date, title, [*body, f".SH FILES\n.TP\n{CONFIG_FILE}\nthe configuration, yadtq.toml(5)"])


def configuration_page(date: str) -> str:
    """yadtq.toml(5): every option."""
    intro = ("TOML without sections, one option a line. Later sources win, value by value: the defaults, systemd "
             f"credentials (passwords), this file, environment variables (YADTQ_ and the name in capitals), arguments. "
             "What is no option is refused. `yadtqd --check-config` shows what holds, and why; "
             f"{DOCS}/configuration.md tells more, also of passwords.")
    return page("yadtq.toml", 5, date, "configuration of YADTQ's daemon, command lines and clients",
                [f".SH SYNOPSIS\n{CONFIG_FILE}", f".SH DESCRIPTION\n{escape(intro)}", ".SH OPTIONS",
                 *map(entry, OPTIONS.values())])


def entry(option: Option) -> str:
    """One option: its default, what is allowed, its meaning."""
    default = "" if option.default in ("", ()) else f" = {toml(option.default)}"
    unit = f" {option.unit}" if option.unit and default else ""
    allowed = f" Allowed: {option.allowed}." if option.allowed else ""
    return f".TP\n\\fB{escape(option.name)}\\fR{escape(default + unit)}\n{escape(option.doc + allowed)}"


def completion(name: str) -> str:
    """What bash needs to complete a program."""
    return BashComplete(PROGRAMS[name][1], {}, name, f"_{name.upper()}_COMPLETE").source()


def main() -> None:
    """Write everything."""
    man, completions, date = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    for folder in (man, completions):
        folder.mkdir(parents=True, exist_ok=True)
    (man / "yadtq.toml.5").write_text(configuration_page(date), "utf-8")
    for name, (section, _, _) in PROGRAMS.items():
        (man / f"{name}.{section}").write_text(command_page(name, date), "utf-8")
        (completions / name).write_text(completion(name) + "\n", "utf-8")


if __name__ == "__main__":
    main()
