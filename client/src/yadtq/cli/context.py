"""What all commands of `yadtq` share: the client (made when first needed), how to print, how to end.

Owns the translation of errors into a sentence, a hint and an exit status. Runs in the one thread of the program.
"""
from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import click

from yadtq.cli import exits
from yadtq.cli.values import plain
from yadtq.errors import (
    ConfigurationError,
    KafkaConnectionError,
    QueueFull,
    RedisConnectionError,
    TaskFailed,
    YADTQError,
)

if TYPE_CHECKING:
    from rich.console import Console

    from yadtq.client import YADTQClient
    from yadtq.config import Settings

P = ParamSpec("P")

_START = "In a checkout ./setup.sh up starts it (then: source .yadtq/env); elsewhere say where it is with "
HINTS: tuple[tuple[type[YADTQError], str], ...] = (
    (KafkaConnectionError, f"is Kafka running at {{kafka}}? {_START}--kafka-servers or YADTQ_KAFKA_SERVERS"),
    (RedisConnectionError, f"is Redis running at {{redis}}? {_START}--redis, or YADTQ_REDIS_HOST and YADTQ_REDIS_PORT"),
    (ConfigurationError, "docs/configuration.md lists the options; -o NAME=VALUE sets one here"),
)
_OPTIONS_OF_YADTQ = (("--kafka-servers or YADTQ", "--config or YADTQ"), ("--redis, or YADTQ", "--config, or YADTQ"),
                     ("-o NAME=VALUE", "a variable YADTQ_NAME"))    # and what yadtqctl has in their place


class Context:
    """One run of `yadtq` (or of those commands of `yadtqctl` that are the same)."""

    def __init__(self, config: str | None, options: dict[str, Any], connect_timeout_s: float, *, verbose: bool,
                 program: str = "yadtq") -> None:
        self._config, self._options, self.program = config, options, program
        self.connect_timeout_s, self._verbose = connect_timeout_s, verbose
        self._settings: Settings | None = None
        self._client: YADTQClient | None = None
        self.json = False

    # ---- the client -------------------------------------------------------------------------------------------------
    @property
    def settings(self) -> Settings:
        """The effective configuration."""
        if self._settings is None:
            from yadtq.config import OPTIONS, Settings
            mistakes, read = [], {}
            for name, text in self._options.items():
                try:
                    read[name] = OPTIONS[name].read(text, text=True) if name in OPTIONS else text
                except ValueError as mistake:
                    mistakes.append(f"{name}: {mistake}")
            if mistakes:
                raise ConfigurationError("\n".join(mistakes))
            self._settings = Settings.load(self._config, **read)
            self._log()
        return self._settings

    def _log(self) -> None:
        """What libraries log would be mixed with what is printed: shown only when asked for."""
        if self._verbose:
            from yadtq import log
            log.setup(self.settings.replace(log_level="DEBUG", log_file=""), process="yadtq")
        else:
            logging.getLogger().addHandler(logging.NullHandler())

    @property
    def client(self) -> YADTQClient:
        """The client; connects to what a command needs, when it needs it."""
        if self._client is None:
            from yadtq.client import YADTQClient
            settings = self.settings
            settings = settings.replace(redis_timeout_s=min(settings.redis_timeout_s, self.connect_timeout_s))
            self._client = YADTQClient(settings=settings, connect=False, connect_timeout_s=self.connect_timeout_s)
        return self._client

    def close(self) -> None:
        """Close the client, if there is one."""
        if self._client is not None:
            self._client.close(2)

    # ---- printing ---------------------------------------------------------------------------------------------------
    @property
    def console(self) -> Console:
        """For tables; plain text when not on a terminal."""
        from rich.console import Console
        console = Console(highlight=False, soft_wrap=False)
        return console if console.is_terminal else Console(highlight=False, width=200)

    def print_json(self, value: Any) -> None:
        """For machines: one JSON document on standard output."""
        click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))

    def fail(self, error: YADTQError, **more: Any) -> int:
        """Say what went wrong and what to do; returns the exit status."""
        if self.json:
            self.print_json({**more, "error": error_fields(error)})
        else:
            text = f"{self.program}: {error}"
            hint = self._hint(error)
            if hint:
                text += f"\n  {hint}"
            if isinstance(error, TaskFailed) and error.remote_traceback:
                text += f"\n{error.remote_traceback.rstrip()}"
            click.echo(text, err=True)
        return exits.status_for(error)

    def _hint(self, error: YADTQError) -> str:
        hint = next((text for kind, text in HINTS if isinstance(error, kind)), "")
        if self.program != "yadtq":
            for ours, theirs in _OPTIONS_OF_YADTQ:
                hint = hint.replace(ours, theirs)
        if "{" not in hint:
            return hint
        settings = self.settings
        return hint.format(kafka=", ".join(settings.bootstrap), redis=settings.redis_where)


def error_fields(error: YADTQError) -> dict[str, Any]:
    """An error for machines."""
    fields: dict[str, Any] = {"code": error.code, "message": error.message, "retryable": error.retryable}
    if isinstance(error, TaskFailed):
        fields |= {"type": error.error_type, "traceback": error.remote_traceback}
    if getattr(error, "task_ids", None):
        fields["task_ids"] = list(getattr(error, "task_ids", ()))
    if isinstance(error, QueueFull):
        fields |= {"waiting": error.waiting, "limit": error.limit}
    return fields


def confirmed(question: str) -> bool:
    """Ask; no answer means no."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:                                 # Ctrl-C, or nobody there to answer
        click.echo(err=True)
        return False


def command(run: Callable[Concatenate[Context, P], int | None]) -> Callable[P, None]:
    """Wraps a command: adds --json, hands it the context, turns errors into a sentence and an exit status."""

    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        context = click.get_current_context().find_object(Context)
        assert context is not None
        context.json = bool(kwargs.pop("as_json"))
        try:
            status = run(context, *args, **kwargs)
        except YADTQError as error:
            status = context.fail(error)
        except KeyboardInterrupt as stop:
            click.echo("\n  ".join([f"{context.program}: interrupted", *getattr(stop, "__notes__", ())]), err=True)
            status = exits.INTERRUPTED
        finally:
            context.close()
        sys.exit(status or exits.OK)

    wrapped = update_wrapper(wrapped, run)
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")(wrapped)
