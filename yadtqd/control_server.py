"""The daemon's end of the control socket: connections, their limits and their rights.

Lives in the supervisor's one thread and epoll; never blocks. Owns the listening unix socket (mode 0660) and the
connections. Invariants, whatever a peer does:

- at most CLIENTS connections; one more is told so and closed;
- a frame that has begun must end within FRAME_S, an answer must be taken within FRAME_S, an idle connection is closed
  after IDLE_S: a slow peer costs one connection, for a while;
- a peer is served only if it is root, has the daemon's own user, or belongs to the socket's group;
- a peer that speaks rubbish gets one answer with CONTROL_PROTOCOL_ERROR and is closed;
- one readiness event reads at most READ bytes and runs at most PIPELINED commands.
"""
from __future__ import annotations

import contextlib
import errno
import grp
import logging
import os
import select
import socket
import stat
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

from yadtq.errors import (
    AccessDenied,
    AlreadyRunning,
    ConfigurationError,
    ControlError,
    ControlProtocolError,
    YADTQError,
)
from yadtqd import control_protocol as protocol
from yadtqd.control_handlers import Handlers, Supervised

if TYPE_CHECKING:
    from yadtq.config import Settings

log = logging.getLogger(__name__)

CLIENTS = 32
FRAME_S = 5.0            # a person's shell sends a frame in microseconds; ten times the worst pause of a busy host
IDLE_S = 300.0           # `yadtqctl top` asks every second
READ = 64 * 1024         # bytes taken per readiness event
PIPELINED = 8            # requests in one read; a status takes about a millisecond, and workers must be watched
GROUP = "yadtq"          # operators; the socket is given to it where it exists
SO_PEERGROUPS = 59       # Linux; not in the socket module


class _Connection:
    """One peer: what it has sent of a frame, what it has yet to take."""

    def __init__(self, sock: socket.socket, now: float) -> None:
        self.sock = sock
        self.reader = protocol.FrameReader(protocol.MAX_REQUEST)
        self.out = b""
        self.closing = False
        self.deadline = now + IDLE_S


class ControlServer:
    """Serves the commands of control_handlers at `settings.control_socket`, or on `listener` from socket activation."""

    def __init__(self, settings: Settings, supervisor: Supervised, listener: socket.socket | None = None) -> None:
        self._path = None if listener is not None else Path(settings.control_socket)
        self._handlers = Handlers(supervisor)
        self._listener = listener if listener is not None else listen(Path(settings.control_socket))
        self._listener.setblocking(False)
        self._gid = Path(self._listener.getsockname()).stat().st_gid     # the file's: the descriptor has its maker's
        self._inode = None if self._path is None else self._path.stat().st_ino
        self._connections: dict[int, _Connection] = {}
        self._epoll: select.epoll | None = None

    def register(self, epoll: select.epoll) -> None:
        """Take part in the supervisor's loop."""
        self._epoll = epoll
        epoll.register(self._listener.fileno(), select.EPOLLIN)

    def filenos(self) -> list[int]:
        """All descriptors that a forked child must close."""
        return [self._listener.fileno(), *self._connections]

    def handle(self, fd: int, events: int) -> bool:
        """Deal with one epoll event; False when the descriptor is not one of the control socket's."""
        now = time.monotonic()
        if fd == self._listener.fileno():
            self._accept(now)
            return True
        connection = self._connections.get(fd)
        if connection is None:
            return False
        try:
            if events & select.EPOLLIN and not connection.closing:
                self._read(connection, now)
            self._write(connection, now)
            if events & (select.EPOLLERR | select.EPOLLHUP):
                self._close(connection)
        except OSError:
            self._close(connection)
        return True

    def tick(self, now: float) -> None:
        """Close connections that are past their deadline; `now` is time.monotonic()."""
        for connection in [c for c in self._connections.values() if now > c.deadline]:
            self._close(connection)

    def close(self) -> None:
        """Answer what was asked already, close all, and take the socket's file away if it is still this server's."""
        for connection in list(self._connections.values()):
            with contextlib.suppress(OSError):
                self._read(connection, time.monotonic())
                self._write(connection, time.monotonic())
            self._close(connection)
        self._listener.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()

    # ---- one connection ---------------------------------------------------------------------------------------------
    def _accept(self, now: float) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                log.warning("no file descriptor left for a control connection")
            return
        sock.setblocking(False)
        connection = _Connection(sock, now)
        self._connections[sock.fileno()] = connection
        assert self._epoll is not None
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        if not _allowed(sock, self._gid):
            self._refuse(connection, AccessDenied(f"only root, this daemon's user and the group "
                                                  f"{_group_name(self._gid)} may use this socket"), now)
        elif len(self._connections) > CLIENTS:
            self._refuse(connection, ControlError(f"{CLIENTS} control connections are open already"), now)

    def _refuse(self, connection: _Connection, error: YADTQError, now: float) -> None:
        connection.closing = True
        self._answer(connection, protocol.Response(id=0, ok=False, code=error.code, message=error.message))
        with contextlib.suppress(OSError):
            self._write(connection, now)
        if not connection.out:
            self._close(connection)

    def _read(self, connection: _Connection, now: float) -> None:
        try:
            data = connection.sock.recv(READ)
        except BlockingIOError:
            return
        if not data:
            connection.closing = True
            return
        was_in_frame = connection.reader.in_frame
        try:
            bodies = connection.reader.feed(data)
            if len(bodies) > PIPELINED or len(connection.out) > protocol.MAX_RESPONSE:
                raise ControlProtocolError(f"more than {PIPELINED} requests at once; read the answers first")
            for body in bodies:
                self._serve(connection, body)
        except ControlProtocolError as error:
            self._answer(connection, protocol.Response(id=0, ok=False, code=error.code, message=error.message))
            connection.closing = True
        if not connection.reader.in_frame:
            connection.deadline = now + IDLE_S
        elif not was_in_frame:
            connection.deadline = now + FRAME_S

    def _serve(self, connection: _Connection, body: bytes) -> None:
        request = protocol.decode_request(body)
        try:
            result = self._handlers.call(request.command, request.args)
            response = protocol.Response(id=request.id, ok=True, result=result)
        except YADTQError as error:
            response = protocol.Response(id=request.id, ok=False, code=error.code, message=error.message)
        if request.command not in ("ping", "status"):
            log.info("control: %s %s by uid %d", request.command, dict(request.args) or "", _peer(connection.sock)[0])
        self._answer(connection, response)

    def _answer(self, connection: _Connection, response: protocol.Response) -> None:
        try:
            connection.out += protocol.encode_frame(response, protocol.MAX_RESPONSE)
        except ControlProtocolError as error:
            short = protocol.Response(id=response.id, ok=False, code=error.code, message=error.message)
            connection.out += protocol.encode_frame(short, protocol.MAX_RESPONSE)

    def _write(self, connection: _Connection, now: float) -> None:
        if connection.out:
            with contextlib.suppress(BlockingIOError):
                sent = connection.sock.send(connection.out)
                connection.out = connection.out[sent:]
                connection.deadline = now + (FRAME_S if connection.out else IDLE_S)
        if connection.closing and not connection.out:
            self._close(connection)
            return
        assert self._epoll is not None
        wanted = select.EPOLLOUT if connection.out else select.EPOLLIN    # no new request while an answer waits
        self._epoll.modify(connection.sock.fileno(), wanted)

    def _close(self, connection: _Connection) -> None:
        fd = connection.sock.fileno()
        if fd >= 0 and self._connections.pop(fd, None) is not None:
            connection.sock.close()      # closing takes it out of the epoll set: no child holds a copy


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`, mode 0660; a stale file of a dead daemon is replaced, a living one's never."""
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        if path.exists():
            _take_over(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old = os.umask(0o117)
        try:
            sock.bind(str(path))
        finally:
            os.umask(old)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the control socket {path} can't be made: {error}; set control_socket") from error
    with contextlib.suppress(KeyError, PermissionError):
        os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
    sock.listen(CLIENTS)
    return sock


def _take_over(path: Path) -> None:
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise ConfigurationError(f"{path} exists and is no socket; set control_socket to another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise AlreadyRunning(f"something holds the control socket {path}: {error}") from error
    raise AlreadyRunning(f"another yadtqd answers at {path}")


def _peer(sock: socket.socket) -> tuple[int, int]:
    """(uid, gid) of the process at the other end."""
    _, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return uid, gid


def _allowed(sock: socket.socket, group: int) -> bool:
    try:
        uid, gid = _peer(sock)
        if uid in (0, os.geteuid()) or gid == group:
            return True
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * 256)
        return group in struct.unpack(f"{len(raw) // 4}I", raw)
    except OSError:
        return False


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
