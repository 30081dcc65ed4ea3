"""`yadtq version` and `yadtq completion`: about the program itself."""
from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import click
from click.shell_completion import get_completion_class

from yadtq.cli import exits
from yadtq.cli.context import Context, command

WHERE = {"bash": '~/.bashrc:   eval "$(yadtq completion bash)"', "zsh": '~/.zshrc:    eval "$(yadtq completion zsh)"',
         "fish": "~/.config/fish/completions/yadtq.fish:   yadtq completion fish | source"}
LIBRARIES = ("kafka-python", "confluent-kafka", "redis", "msgspec", "numpy")


@click.command("version")
@command
def version_command(context: Context, /) -> None:
    """Show the versions of YADTQ and of the libraries it uses here.

    \b
    Example:
      yadtq version --json
    """
    from yadtq import __version__
    found = {"yadtq": __version__, "python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}}
    if context.json:
        context.print_json(found)
        return
    for name, number in found.items():
        click.echo(f"{name:<16} {number or 'not installed'}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@click.command()
@click.argument("shell", type=click.Choice(sorted(WHERE)))
@command
def completion(context: Context, /, shell: str) -> int:
    """Print what makes a shell complete the commands and options of yadtq.

    \b
    Put into
      ~/.bashrc:                               eval "$(yadtq completion bash)"
      ~/.zshrc:                                eval "$(yadtq completion zsh)"
      ~/.config/fish/completions/yadtq.fish:   yadtq completion fish | source
    """
    kind = get_completion_class(shell)
    assert kind is not None
    from yadtq.cli import cli
    source = kind(cli, {}, "yadtq", "_YADTQ_COMPLETE").source()
    if context.json:
        context.print_json({"shell": shell, "source": source})
    else:
        click.echo(source)
    return exits.OK
