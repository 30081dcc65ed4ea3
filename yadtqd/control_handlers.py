"""What each control command does: checks its arguments, calls the supervisor, returns what is answered.

Runs in the supervisor's one thread, between two events of its loop: every handler returns at once and changes state
only through the supervisor's own methods. It knows nothing of sockets or frames.
"""
from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from yadtq.errors import ControlError, YADTQError

log = logging.getLogger(__name__)
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class Supervised(Protocol):
    """The part of the supervisor that the control commands need."""

    def snapshot(self) -> dict[str, Any]: ...  # noqa: D102
    def restart(self, name: str | None = None) -> list[str]: ...  # noqa: D102
    def pause(self, partition: int) -> None: ...  # noqa: D102
    def resume(self, partition: int) -> None: ...  # noqa: D102
    def drain(self) -> None: ...  # noqa: D102
    def reload(self) -> None: ...  # noqa: D102
    def stop(self) -> None: ...  # noqa: D102
    def set_log_level(self, level: str) -> None: ...  # noqa: D102


class Handlers:
    """The commands by name. `call` is the only entry; a method named `do_<command>` is a command."""

    def __init__(self, supervisor: Supervised) -> None:
        self._supervisor = supervisor
        self.commands: dict[str, Callable[..., Any]] = {
            name.removeprefix("do_"): method for name, method in inspect.getmembers(self, callable)
            if name.startswith("do_")}

    def call(self, command: str, args: Mapping[str, Any]) -> Any:
        """What `command` answers; ControlError when it is unknown, its arguments are wrong, or it was refused."""
        handler = self.commands.get(command)
        if handler is None:
            raise ControlError(f"there is no command {command!r}; there are: {', '.join(sorted(self.commands))}")
        wanted = inspect.signature(handler).parameters
        unknown = sorted(set(args) - set(wanted))
        missing = [name for name, p in wanted.items() if p.default is p.empty and name not in args]
        if unknown or missing:
            raise ControlError(f"{command} takes {', '.join(wanted) or 'no arguments'}"
                               + (f"; unknown: {', '.join(unknown)}" if unknown else "")
                               + (f"; missing: {', '.join(missing)}" if missing else ""))
        try:
            return handler(**args)
        except YADTQError:
            raise
        except Exception as error:
            log.exception("control command %s failed", command)
            raise ControlError(f"{command} failed: {type(error).__name__}: {error}") from error

    def do_ping(self) -> dict[str, Any]:
        """Whether the daemon answers, and who it is."""
        daemon = self._supervisor.snapshot()["daemon"]
        return {name: daemon[name] for name in ("pid", "host", "version", "state")}

    def do_status(self) -> dict[str, Any]:
        """Everything the supervisor knows."""
        return self._supervisor.snapshot()

    def do_restart(self, worker: str | None = None) -> dict[str, Any]:
        """Drain and replace one worker, or all of them one by one."""
        _want(worker is None or isinstance(worker, str), "worker is the name of one, such as w0")
        return {"restarting": self._supervisor.restart(worker)}

    def do_pause(self, partition: int) -> None:
        """Fetch nothing more from a partition until it is resumed."""
        self._supervisor.pause(_partition(partition))

    def do_resume(self, partition: int) -> None:
        """Fetch from a paused partition again."""
        self._supervisor.resume(_partition(partition))

    def do_drain(self) -> None:
        """Finish what runs, start nothing new, then exit."""
        self._supervisor.drain()

    def do_reload(self) -> None:
        """Read the configuration again and restart the workers one by one."""
        self._supervisor.reload()

    def do_stop(self) -> None:
        """Exit now: what runs is given up and runs again later."""
        self._supervisor.stop()

    def do_logs(self, level: str | None = None) -> dict[str, Any]:
        """Tell the log level, or set it in the daemon and all its workers."""
        if level is not None:
            _want(isinstance(level, str) and level.upper() in LEVELS, f"the level is one of {', '.join(LEVELS)}")
            self._supervisor.set_log_level(level.upper())
        return {"level": self._supervisor.snapshot()["daemon"]["log_level"]}


def _partition(value: object) -> int:
    _want(isinstance(value, int) and not isinstance(value, bool) and value >= 0, "partition is a number from 0")
    assert isinstance(value, int)
    return value


def _want(true: bool, otherwise: str) -> None:
    if not true:
        raise ControlError(otherwise)
