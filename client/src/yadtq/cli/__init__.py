"""`yadtq`, the command line for applications: submit tasks, wait for them, look at tasks and workers, clear.

Owns the group and its common options; one module per role has the commands. Connects to what a command needs only:
`status` works while Kafka is away. For operators of a host there is `yadtqctl`.
"""
from __future__ import annotations

import sys
from typing import Any

import click

from yadtq.cli import exits
from yadtq.cli.context import Context

_COMMANDS = {
    "submit": ("submitting", "submit"), "result": ("results", "result"), "status": ("tasks", "status"),
    "tasks": ("tasks", "tasks"), "cancel": ("cancelling", "cancel"), "clear": ("tasks", "clear"),
    "dlq": ("dlq", "dlq"),
    "workers": ("workers", "workers"), "topics": ("topics", "topics"),
    "version": ("about", "version_command"), "completion": ("about", "completion"),
}
_EPILOG = "\b\nExit status:\n" + "\n".join(f"  {status:>3}  {meaning}" for status, meaning in exits.TABLE)


class _Lazy(click.Group):
    """Loads a command's module when it is used, so that completion and --help are quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order in which one meets them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name."""
        if cmd_name not in _COMMANDS:
            return None
        from importlib import import_module
        module, attribute = _COMMANDS[cmd_name]
        found: click.Command = getattr(import_module(f"yadtq.cli.{module}"), attribute)
        return found


@click.command(cls=_Lazy, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", metavar="FILE", help="Configuration file (else YADTQ_CONFIG, else /etc/yadtq/yadtq.toml).")
@click.option("--kafka-servers", metavar="HOST:PORT,...", help="Kafka's brokers.")
@click.option("--redis", metavar="HOST[:PORT]", help="Where Redis is.")
@click.option("-o", "--option", "options", multiple=True, metavar="NAME=VALUE",
              help="Any option of the configuration, e.g. -o submit_timeout_s=5; so do variables YADTQ_NAME.")
@click.option("--connect-timeout", "connect_timeout_s", type=click.FloatRange(min=0.1), default=5.0, show_default=True,
              metavar="S", help="How long to wait for Kafka and for Redis, in seconds.")
@click.option("-v", "--verbose", is_flag=True, help="Show what is logged.")
@click.version_option(package_name="yadtq", prog_name="yadtq")
@click.pass_context
def cli(context: click.Context, config: str | None, kafka_servers: str | None, redis: str | None,
        options: tuple[str, ...], connect_timeout_s: float, verbose: bool) -> None:
    """Submit tasks to YADTQ, wait for their results, and look at tasks and workers."""
    chosen: dict[str, Any] = {}
    for text in options:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="-o")
        chosen[name.strip()] = value
    if kafka_servers:
        chosen["kafka_servers"] = kafka_servers
    if redis:
        host, colon, port = redis.rpartition(":")
        chosen |= {"redis_host": host, "redis_port": port} if colon else {"redis_host": redis}
        chosen["redis_sentinels"] = ""          # else they would have the last word
    context.obj = Context(config, chosen, connect_timeout_s, verbose=verbose)


def main() -> None:
    """The program `yadtq`."""
    try:
        cli(prog_name="yadtq")
    except KeyboardInterrupt:
        sys.exit(exits.INTERRUPTED)
