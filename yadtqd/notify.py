"""Tells systemd how the daemon is: READY, STATUS, WATCHDOG, RELOADING, STOPPING, EXTEND_TIMEOUT_USEC.

Used by the supervisor's one thread. The messages are sdnotify's; the socket is made non-blocking, because a full queue
of systemd's would otherwise block the loop, and NOTIFY_SOCKET is taken out of the environment, because children must
not speak for the daemon. Without systemd everything here does nothing.
"""
from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable

import sdnotify

log = logging.getLogger(__name__)

EXTEND_EVERY_NS = 500_000_000
EXTEND = "EXTEND_TIMEOUT_USEC=10000000"     # ten seconds: a machine that is out of breath is no reason to be killed
STATUS_EVERY_NS = 1_000_000_000
STATUS_LENGTH = 1000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class Notifier:
    """The connection to systemd; `active` is False when nobody listens."""

    def __init__(self) -> None:
        self._waiting: dict[str, str] = {}      # while systemd's queue is full: the latest of each kind, in order
        self._notifier: sdnotify.SystemdNotifier | None = None
        self._status, self._status_at_ns, self._extended_ns, self._petted_ns = "", 0, 0, 0
        self.watchdog_ns = _watchdog_ns()
        if os.environ.get("NOTIFY_SOCKET"):
            try:
                self._notifier = sdnotify.SystemdNotifier(debug=True)  # type: ignore[no-untyped-call]
                self._notifier.socket.setblocking(False)
            except OSError as error:
                log.warning("systemd's notification socket can't be used: %s", error)
        for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
            os.environ.pop(name, None)

    @property
    def active(self) -> bool:
        """Whether systemd listens."""
        return self._notifier is not None

    def fileno(self) -> int | None:
        """The socket, for children to close."""
        return self._notifier.socket.fileno() if self._notifier is not None else None

    def ready(self) -> None:
        """The daemon is up, or done with its reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The daemon drains."""
        self._send("STOPPING=1")

    def status(self, make: Callable[[], str], now_ns: int) -> None:
        """One line for `systemctl status`, made and sent at most once a second, and only when it changed.

        Texts of others in it (names of tasks) can't add lines, which systemd would take for other messages.
        """
        if self._notifier is None or now_ns - self._status_at_ns < STATUS_EVERY_NS:
            return
        self._status_at_ns = now_ns
        if (text := _CONTROL.sub(" ", make())[:STATUS_LENGTH]) != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def turn(self, now_ns: int, *, busy: bool) -> None:
        """Called at each turn of the loop: the watchdog hears of exactly this, and what takes long (`busy`: a drain, a
        reload) asks for more time."""
        if self.watchdog_ns and now_ns - self._petted_ns >= self.watchdog_ns // 4:
            self._petted_ns = now_ns
            self._send("WATCHDOG=1")
        if busy and now_ns - self._extended_ns >= EXTEND_EVERY_NS:
            self._extended_ns = now_ns
            self._send(EXTEND)
        self._flush()

    def close(self) -> None:
        """Give back the socket."""
        if self._notifier is not None:
            self._flush()
            self._notifier.socket.close()
            self._notifier = None

    def _send(self, message: str) -> None:
        if self._notifier is not None:
            kind = message.partition("=")[0]
            self._waiting.pop(kind, None)
            self._waiting[kind] = message
            self._flush()

    def _flush(self) -> None:
        for kind, message in list(self._waiting.items()):
            assert self._notifier is not None
            try:
                self._notifier.notify(message)  # type: ignore[no-untyped-call]
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("systemd took no notification: %s", error)
            del self._waiting[kind]


def _watchdog_ns() -> int:
    """The interval of systemd's watchdog, 0 when there is none or it is meant for another process."""
    try:
        if int(os.environ.get("WATCHDOG_PID") or os.getpid()) != os.getpid():
            return 0
        return int(os.environ.get("WATCHDOG_USEC") or 0) * 1000
    except ValueError:
        return 0
