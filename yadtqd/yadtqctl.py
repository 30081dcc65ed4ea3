"""`yadtqctl`, the operator's command line: asks the yadtqd of this host over its control socket.

`yadtqctl dlq` and `yadtqctl cancel` ask nobody here: they are the same as `yadtq dlq` and `yadtq cancel`, and talk to
Kafka and Redis themselves.

Exit status: 0 done; 1 the daemon refused; 2 wrong usage; 3 no daemon answers; 4 access denied; 5 no answer in time;
6 (`status --check`) the daemon answers and is not in good health. `yadtqctl dlq --help` has those of dlq and cancel.
"""
from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import click

from yadtq.cli.cancelling import cancel
from yadtq.cli.dlq import dlq
from yadtq.errors import AccessDenied, ConfigurationError, ControlError, ControlTimeout, DaemonNotRunning
from yadtqd.control_client import ControlClient

REFUSED, USAGE, NOT_RUNNING, DENIED, NO_ANSWER, UNHEALTHY = 1, 2, 3, 4, 5, 6
HINTS: dict[type[ControlError], tuple[int, str]] = {
    DaemonNotRunning: (NOT_RUNNING, "is it started? `systemctl start yadtqd`, or `./setup.sh up` in a checkout;"
                                    " another socket is named by --socket or YADTQ_CONTROL_SOCKET"),
    AccessDenied: (DENIED, "use sudo, or join the socket's group and log in again"),
    ControlTimeout: (NO_ANSWER, "the daemon runs and does not answer: look at its log, then restart it"),
}


class Context:
    """What every command needs: where the socket is, how long to wait, how to print."""

    def __init__(self, socket: str | None, config: str | None, timeout_s: float) -> None:
        self._socket, self._config, self.timeout_s = socket, config, timeout_s

    def path(self) -> str:
        """The control socket, from --socket or from the configuration."""
        if self._socket:
            return self._socket
        from yadtq.config_load import control_socket

        return control_socket(self._config)

    @contextlib.contextmanager
    def connected(self) -> Iterator[ControlClient]:
        """A connection for several commands; an error ends the program with its exit status and a hint."""
        try:
            with ControlClient(self.path(), self.timeout_s) as control:
                yield control
        except (ControlError, ConfigurationError) as error:
            fail(error)

    def call(self, command: str, **args: Any) -> Any:
        """One command's answer."""
        with self.connected() as control:
            return control.call(command, **args)


def fail(error: ControlError | ConfigurationError) -> NoReturn:
    """Say what went wrong and what to do, and exit with the status that belongs to it."""
    status, hint = next((told for kind, told in HINTS.items() if isinstance(error, kind)), (REFUSED, ""))
    click.echo(f"yadtqctl: {error}" + (f"\n  {hint}" if hint else ""), err=True)
    sys.exit(USAGE if isinstance(error, ConfigurationError) else status)


def as_json(value: Any) -> None:
    """Print a value for machines."""
    click.echo(json.dumps(value, indent=2))


json_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--json", "json_", is_flag=True, help="Print JSON for machines.")
wait_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--wait", "wait_s", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait until it is done, at most so long.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=(__doc__ or "").split("\n\n", 1)[1])
@click.option("--socket", envvar="YADTQ_CONTROL_SOCKET", metavar="PATH", help="The daemon's control socket.")
@click.option("--config", envvar="YADTQ_CONFIG", metavar="FILE", help="The configuration that names the socket.")
@click.option("--timeout", "timeout_s", default=5.0, show_default=True, type=click.FloatRange(min=0.1),
              metavar="SECONDS", help="How long to wait for an answer.")
@click.version_option(package_name="yadtqd", prog_name="yadtqctl")
@click.pass_context
def main(context: click.Context, socket: str | None, config: str | None, timeout_s: float) -> None:
    """Look after the yadtqd of this host."""
    context.obj = Context(socket, config, timeout_s)


@main.command()
@json_option
@click.option("--check", is_flag=True, help=f"Exit with {UNHEALTHY} when the daemon is not RUNNING, for monitoring.")
@click.pass_obj
def status(ctl: Context, json_: bool, check: bool) -> None:
    """Show the daemon, its workers and partitions."""
    answer = ctl.call("status")
    if json_:
        as_json(answer)
    else:
        from yadtqd.status_view import show

        show(answer)
    if check and answer["daemon"]["state"] != "RUNNING":
        sys.exit(UNHEALTHY)


@main.command()
@json_option
@click.pass_obj
def workers(ctl: Context, json_: bool) -> None:
    """Show the workers and what they do."""
    answer = ctl.call("status")
    if json_:
        as_json(answer["workers"])
    else:
        from yadtqd.status_view import console, workers_table

        console().print(workers_table(answer["workers"]))


@main.command()
@click.argument("worker", required=False)
@wait_option
@click.pass_obj
def restart(ctl: Context, worker: str | None, wait_s: float | None) -> None:
    """Drain and replace WORKER (such as w0), or all workers one by one."""
    before = {w["name"]: w["pid"] for w in ctl.call("status")["workers"]}
    names = ctl.call("restart", worker=worker)["restarting"]
    click.echo(f"restarting {', '.join(names) or 'nothing: there is no worker'}")
    if wait_s is not None:
        def replaced() -> bool:
            now = {w["name"]: w for w in ctl.call("status")["workers"]}
            return all(n not in now or (now[n]["pid"] != before.get(n) and now[n]["state"] == "RUNNING") for n in names)
        _wait(replaced, wait_s, "replaced")


@main.command()
@click.argument("partition", type=click.IntRange(min=0))
@click.pass_obj
def pause(ctl: Context, partition: int) -> None:
    """Fetch nothing more from PARTITION; what is fetched goes on."""
    ctl.call("pause", partition=partition)
    click.echo(f"partition {partition} is paused; `yadtqctl resume {partition}` goes on")


@main.command()
@click.argument("partition", type=click.IntRange(min=0))
@click.pass_obj
def resume(ctl: Context, partition: int) -> None:
    """Fetch from PARTITION again."""
    ctl.call("resume", partition=partition)
    click.echo(f"partition {partition} goes on")


@main.command()
@wait_option
@click.pass_obj
def drain(ctl: Context, wait_s: float | None) -> None:
    """Finish what runs, start nothing new, then exit."""
    with ctl.connected() as control:
        control.call("drain")
        click.echo("draining; the daemon exits when what runs has ended, or at its drain limit")
        _wait_for_exit(control, wait_s)


@main.command()
@wait_option
@click.pass_obj
def stop(ctl: Context, wait_s: float | None) -> None:
    """Exit now: what runs is given up, and runs again later."""
    with ctl.connected() as control:
        control.call("stop")
        click.echo("stopping")
        _wait_for_exit(control, wait_s)


@main.command()
@wait_option
@click.pass_obj
def reload(ctl: Context, wait_s: float | None) -> None:
    """Read the configuration again and replace all children one by one."""
    with ctl.connected() as control:
        control.call("reload")
        click.echo("the configuration was read again; workers are being replaced one by one")
        if wait_s is not None:
            _wait(lambda: not control.call("status")["daemon"]["reloading"], wait_s, "reloaded")


@main.command()
@json_option
@click.pass_obj
def ping(ctl: Context, json_: bool) -> None:
    """Ask whether the daemon answers."""
    begun = time.monotonic()
    answer = ctl.call("ping")
    took_ms = (time.monotonic() - begun) * 1e3
    if json_:
        as_json({**answer, "took_ms": round(took_ms, 3)})
    else:
        click.echo(f"yadtqd {answer['version']} on {answer['host']} (pid {answer['pid']}) is {answer['state']}; "
                   f"answered in {took_ms:.1f} ms")


@main.command()
@click.argument("level", required=False,
                type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], case_sensitive=False))
@click.pass_obj
def logs(ctl: Context, level: str | None) -> None:
    """Tell the log level, or set it to LEVEL in the daemon and its workers until they restart."""
    click.echo(ctl.call("logs", **({"level": level} if level else {}))["level"])


@main.command()
@click.option("--interval", "interval_s", default=1.0, show_default=True, type=click.FloatRange(min=0.2),
              metavar="SECONDS", help="How often to look.")
@click.pass_obj
def top(ctl: Context, interval_s: float) -> None:
    """Watch the daemon live; Ctrl-C ends."""
    from yadtqd.status_view import live

    with ctl.connected() as control:
        live(lambda: control.call("status"), interval_s)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL: eval "$(yadtqctl completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "yadtqctl", "_YADTQCTL_COMPLETE").source())


main.add_command(dlq)
main.add_command(cancel)


def _wait(done: Callable[[], bool], limit_s: float, what: str) -> None:
    deadline = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > deadline:
            fail(ControlTimeout(f"not {what} within {limit_s:g} s; it goes on"))
        time.sleep(0.1)
    click.echo(what)


def _wait_for_exit(control: ControlClient, wait_s: float | None) -> None:
    """Until the daemon closes our connection, which it does last; a new one would start it again (yadtqd.socket)."""
    if wait_s is None:
        return

    def gone() -> bool:
        try:
            control.call("ping")
        except DaemonNotRunning:
            return True
        return False
    _wait(gone, wait_s, "stopped")


if __name__ == "__main__":
    main(prog_name="yadtqctl")
