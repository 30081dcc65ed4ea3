"""The other end of the control socket: one blocking call with a deadline, for yadtqctl and for tests."""
from __future__ import annotations

import contextlib
import itertools
import socket
import time
from typing import Any

from yadtq.errors import (
    AccessDenied,
    ControlError,
    ControlProtocolError,
    ControlTimeout,
    DaemonNotRunning,
    by_code,
)
from yadtqd import control_protocol as protocol


class ControlClient:
    """A connection to the yadtqd at the unix socket `path`.

    `timeout_s` bounds each call. Raises DaemonNotRunning, AccessDenied, ControlTimeout, or what the daemon answered.

        with ControlClient("/run/yadtq/yadtqd.sock") as control:
            print(control.call("status")["daemon"]["state"])
    """

    def __init__(self, path: str, timeout_s: float = 5.0) -> None:
        self.path, self.timeout_s = path, timeout_s
        self._ids = itertools.count(1)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._reader = protocol.FrameReader(protocol.MAX_RESPONSE)
        self._sock.settimeout(timeout_s)
        try:
            self._sock.connect(path)
        except OSError as error:
            self._sock.close()
            raise self._typed(error) from error

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def call(self, command: str, **args: Any) -> Any:
        """What the daemon answers to `command`."""
        request = protocol.Request(command=command, id=next(self._ids), args=args)
        deadline = time.monotonic() + self.timeout_s
        try:
            self._sock.settimeout(self.timeout_s)
            self._send(protocol.encode_frame(request, protocol.MAX_REQUEST))
            response = self._receive(deadline)
        except OSError as error:
            raise self._typed(error) from error
        if response.ok:
            return response.result
        kind = by_code(response.code)
        if kind is not None and issubclass(kind, ControlError):
            raise kind(response.message)
        raise ControlError(f"{response.code}: {response.message}")

    def _send(self, frame: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):        # refused before we asked: the reason waits to be read
            self._sock.sendall(frame)

    def _receive(self, deadline: float) -> protocol.Response:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._sock.settimeout(left)
            data = self._sock.recv(65536)
            if not data:
                raise DaemonNotRunning(f"the yadtqd at {self.path} closed the connection")
            for body in self._reader.feed(data):
                return protocol.decode_response(body)

    def _typed(self, error: OSError) -> ControlError:
        if isinstance(error, ControlError):
            return error
        if isinstance(error, TimeoutError):
            return ControlTimeout(f"the yadtqd at {self.path} did not answer within {self.timeout_s:g} s")
        if isinstance(error, PermissionError):
            return AccessDenied(f"this user may not use {self.path}; be root, or in the group of the socket")
        if isinstance(error, (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, BrokenPipeError)):
            return DaemonNotRunning(f"no yadtqd answers at {self.path}: {error.strerror or error}")
        return ControlProtocolError(f"{self.path}: {error}")
