"""The command `yadtqd`: reads the configuration, takes the pid file, and supervises in the foreground or as a daemon.

Under systemd it runs in the foreground and speaks sd_notify. Exit statuses: yadtqd.exits.DaemonExit.
"""
from __future__ import annotations

import faulthandler
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from yadtq import log as logs
from yadtq.config import CONFIG_FILE, Settings
from yadtq.config_load import describe
from yadtq.errors import AlreadyRunning, ConfigurationError, YADTQError
from yadtqd.activation import path_of, take_listener
from yadtqd.daemonize import ReadyPipe, launch
from yadtqd.exits import DaemonExit
from yadtqd.pid_file import PidFile, prepare_folder
from yadtqd.preload import preload
from yadtqd.roles import roles
from yadtqd.snapshot import version
from yadtqd.supervisor import Control, Supervisor

log = logging.getLogger(__name__)

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def _overrides(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """`-o name=value` as a mapping of texts."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is no name=value")
        found[name.strip()] = value
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "-c", "config", type=click.Path(dir_okay=False), help=f"TOML file instead of {CONFIG_FILE}.")
@click.option("--daemon", "daemonize", is_flag=True, help="Run in the background; returns when the daemon is up.")
@click.option("--check-config", is_flag=True, help="Check the configuration, print it with its origins, and exit.")
@click.option("--check", "check", is_flag=True, help="Try Kafka and Redis as the daemon would, and exit.")
@click.option("--log-level", type=click.Choice(LEVELS, case_sensitive=False), help="Least level that is logged.")
@click.option("--option", "-o", "overrides", multiple=True, metavar="NAME=VALUE", callback=_overrides,
              help="Set an option; wins over the file and the environment. May be given again.")
@click.version_option(version(), prog_name="yadtqd")
def main(config: str | None, daemonize: bool, check_config: bool, check: bool, log_level: str | None,
         overrides: dict[str, str]) -> None:
    """Supervise the YADTQ workers of this host.

    Signals: TERM and INT drain and stop (a second one stops at once), HUP reads the configuration again and restarts
    the workers one by one, USR1 writes the daemon's state to the log.
    """
    overrides = overrides | ({"log_level": log_level.upper()} if log_level else {})
    config = config or os.environ.get("YADTQ_CONFIG")
    config = os.path.abspath(config) if config else None    # a daemon changes its folder, and reads it again later

    named = config

    def load() -> Settings:
        return load_settings(named, overrides)

    try:
        settings = load()
        if check_config:
            click.echo(describe(settings), nl=False)
            sys.exit(DaemonExit.OK)
        if check:
            sys.exit(_check(settings))
        config = config or (CONFIG_FILE if os.path.exists(CONFIG_FILE) else None)
        listener = take_listener()
        if daemonize:
            sys.exit(_in_background(settings, config, load))
        sys.exit(_supervise(settings, config, load, PidFile(settings.pid_file), listener=listener))
    except YADTQError as error:
        click.echo(f"yadtqd: {error}", err=True)
        sys.exit(exit_status(error))


def _check(settings: Settings) -> DaemonExit:
    from yadtqd.check import findings

    libraries = logging.getLogger("yadtq.kafka")
    libraries.disabled = True               # what they say while they try is said better below
    well = True
    try:
        for finding in findings(settings):
            click.echo(f"{'ok  ' if finding.well else 'BAD '} {finding.text}")
            well = well and finding.well
    finally:
        libraries.disabled = False
    return DaemonExit.OK if well else DaemonExit.FAILED


def load_settings(config: str | None, overrides: dict[str, str]) -> Settings:
    """The configuration with `-o name=value` as arguments; ConfigurationError lists all mistakes."""
    from yadtq.config import OPTIONS
    typed: dict[str, Any] = {}
    mistakes = []
    for name, text in overrides.items():
        try:
            typed[name] = OPTIONS[name].read(text, text=True) if name in OPTIONS else text
        except ValueError as wrong:
            mistakes.append(f"argument: {name}: {wrong}")
    try:
        settings = Settings.load(config, **typed)
    except ConfigurationError as error:
        mistakes.append(error.message)
    if mistakes:
        raise ConfigurationError("\n".join(mistakes))
    return _absolute(settings)


def _absolute(settings: Settings) -> Settings:
    """Paths that mean the same after a daemon has changed its folder."""
    paths = {name: os.path.abspath(value) for name in ("control_socket", "pid_file", "log_file")
             if (value := getattr(settings, name)) and not os.path.isabs(value)}
    return settings.replace(**paths) if paths else settings


def exit_status(error: YADTQError) -> DaemonExit:
    """The exit status of an error that ends the daemon."""
    if isinstance(error, AlreadyRunning):
        return DaemonExit.ALREADY_RUNNING
    return DaemonExit.CONFIGURATION if isinstance(error, ConfigurationError) else DaemonExit.FAILED


def _in_background(settings: Settings, config: str | None, load: Callable[[], Settings]) -> int:
    pid_file = PidFile(settings.pid_file)
    try:
        logged = _with_log_file(settings)
        return launch(lambda pipe: _supervise(logged, config, lambda: _with_log_file(load()), pid_file, pipe),
                      logged.log_file, [pid_file.fd])
    except ConfigurationError:
        pid_file.remove()
        raise


def _with_log_file(settings: Settings) -> Settings:
    """A daemon has no terminal: it logs to a file beside its pid file when none is configured."""
    return settings if settings.log_file else settings.replace(
        log_file=str(Path(settings.pid_file).with_suffix(".log")))


def _supervise(settings: Settings, config: str | None, load: Callable[[], Settings], pid_file: PidFile,
               pipe: ReadyPipe | None = None, listener: socket.socket | None = None) -> int:
    logs.setup(settings, process="supervisor")
    faulthandler.enable()       # the watchdog's SIGABRT, and a crash in C code, leave a stack in the log
    pid_file.write()
    try:
        _say_where(settings, listener)
        log.info("yadtqd %s starts on %s: Kafka at %s, Redis at %s", version(), settings.host_name,
                 ", ".join(settings.bootstrap), settings.redis_where)
        preload()
        supervisor = Supervisor(
            settings, roles(), load_settings=load, apply_logging=lambda new: logs.setup(new, process="supervisor"),
            make_control=lambda supervisor: _control(supervisor, listener), on_ready=pipe.up if pipe else None,
            lock_fds=[pid_file.fd, *([pipe.fd] if pipe else [])], config_file=config)
        return supervisor.run()
    except YADTQError as error:
        log.critical("yadtqd can't run: %s", error)
        if pipe:
            pipe.failed(exit_status(error), str(error))
        return exit_status(error)
    except Exception as error:
        log.critical("the supervisor failed", exc_info=True)
        if pipe:
            pipe.failed(DaemonExit.FAILED, f"{type(error).__name__}: {error}")
        return DaemonExit.FAILED
    finally:
        log.info("yadtqd is gone")
        pid_file.remove()
        logs.settle()


def _say_where(settings: Settings, listener: socket.socket | None) -> None:
    """Make the folder of the control socket, unless systemd has made the socket; tell when that is another one."""
    if listener is None:
        prepare_folder(Path(settings.control_socket).parent, "control_socket")
    elif (path := path_of(listener)) != settings.control_socket:
        log.warning("systemd listens at %s: control_socket = %s counts for yadtqctl only, and finds nobody",
                    path, settings.control_socket)


def _control(supervisor: Supervisor, listener: socket.socket | None) -> Control:
    from yadtqd.control_server import ControlServer
    return ControlServer(supervisor.settings, supervisor, listener)


if __name__ == "__main__":
    main()
