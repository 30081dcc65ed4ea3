"""The supervisor: the loop that keeps a host's membership, workers and other roles alive and in step.

Runs in the one thread of the process `yadtqd`. Owns the epoll, the signals and the shared memory; the children are the
fleet's. It never opens a connection to Kafka or Redis, never imports numpy or users' modules, never starts a thread and
never blocks except in `epoll.poll`: it survives because it does almost nothing.
"""
from __future__ import annotations

import contextlib
import gc
import logging
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

from yadtq import log as logs
from yadtq.errors import ControlError, YADTQError
from yadtqd import strays
from yadtqd.child import Role, become_subreaper
from yadtqd.deadlines import Limits
from yadtqd.exits import DaemonExit
from yadtqd.fleet import Fleet
from yadtqd.notify import Notifier
from yadtqd.ownership import Ownership
from yadtqd.restart_policy import RestartPolicy
from yadtqd.rolling import Recycling, RollingRestart
from yadtqd.shared import Partition, Shared
from yadtqd.snapshot import reasons, snapshot
from yadtqd.status_line import Rate, status_line
from yadtqd.wakeup import Wakeup
from yadtqd.watch import START_LOOK_NS, Watcher
from yadtqd.worker_handle import WORKER
from yadtqd.worker_state import WorkerState

if TYPE_CHECKING:
    from yadtq.config import Settings

log = logging.getLogger(__name__)

TICK_NS = 250_000_000
CLOSE_S = 5.0           # for membership's last commit, once all workers are gone
CLOSE_AT_ONCE_S = 1.0   # the same after a second SIGTERM
READY_AFTER_S = 15.0    # a daemon whose Kafka is away is up all the same, and says what it waits for
# What a reload can't change, because it is in use or names what this daemon is:
FIXED = ("assignment", "control_socket", "host_name", "kafka_group", "kafka_task_topic", "pid_file")


class Control(Protocol):
    """The part of the control server that the loop needs."""

    def register(self, epoll: select.epoll) -> None: ...  # noqa: D102
    def filenos(self) -> list[int]: ...  # noqa: D102
    def handle(self, fd: int, events: int) -> bool: ...  # noqa: D102
    def tick(self, now: float) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class Phase(IntEnum):
    """How far the daemon is in its life; only ever goes up."""

    RUN = 0
    DRAIN = 1       # workers finish what they have in hand
    CLOSE = 2       # the other roles follow: membership commits for the last time


class Supervisor:
    """Supervises one host: `Supervisor(settings, roles).run()` returns the exit status of the daemon.

    `roles` maps the names of yadtqd.roles to what runs in the child; those missing are not started. `load_settings`
    reads the configuration again (a reload), `apply_logging` puts its log options into effect, `make_control` makes the
    control server, `on_ready` is called once when the daemon is up with what it still waits for; `lock_fds` are
    descriptors that no child may inherit. All public methods return at once.
    """

    def __init__(self, settings: Settings, roles: Mapping[str, Role], *,
                 load_settings: Callable[[], Settings] | None = None,
                 apply_logging: Callable[[Settings], None] | None = None,
                 make_control: Callable[[Supervisor], Control] | None = None,
                 on_ready: Callable[[str], None] | None = None,
                 notifier: Notifier | None = None, lock_fds: Sequence[int] = (),
                 config_file: str | None = None) -> None:
        self.settings, self.config_file = settings, config_file
        self._load_settings, self._apply_logging, self._on_ready = load_settings, apply_logging, on_ready
        self._lock_fds = list(lock_fds)
        self._phase, self._ready, self._reloading, self._cut_short = Phase.RUN, False, False, False
        self._reasons: list[str] = []
        self._rate = Rate()
        self._started_ns = self._told_ns = time.monotonic_ns()
        self._next_look_ns = 0
        self.shared = Shared.create()
        self.shared.log_level = logging.getLevelNamesMapping()[settings.log_level]
        self._epoll = select.epoll()
        self._wakeup = Wakeup()
        self._notifier = notifier or Notifier()
        self._fleet = Fleet(settings, self.shared, roles, self._epoll, self._private_fds)
        self._ownership = Ownership(self._fleet, self.shared, settings)
        self._watcher = Watcher(self._fleet, self.shared, _limits(settings))
        self._rolling = RollingRestart(self._fleet)
        self._recycling = Recycling(self._fleet)
        self._epoll.register(self._wakeup.fd, select.EPOLLIN)
        self._epoll.register(self.shared.changed_fd, select.EPOLLIN)
        self._control = make_control(self) if make_control else None
        if self._control:
            self._control.register(self._epoll)
        for name in sorted(set(roles) - {WORKER}, key=lambda role: (role != "membership", role)):
            self._fleet.add(name, name)

    def run(self) -> int:
        """Supervise until told to stop; the daemon's exit status."""
        become_subreaper()
        if self.settings.assignment == "static":
            self._ownership.take_static()
        gc.collect()
        gc.freeze()     # pages that the collector would write to would no longer be shared with the children
        gc.disable()
        try:
            while not self._finished():
                self._wait_and_dispatch()
                now_ns = time.monotonic_ns()
                self._obey_signals(now_ns)
                self._follow_ownership(now_ns)
                self._watch(now_ns)
                self._keep_limits(now_ns)
                self._start_due(now_ns)
                self._roll(now_ns)
                self._wind_down(now_ns)
                self._tell(now_ns)
        finally:
            self._close()
        killed = self._cut_short or self._fleet.killed_while_draining
        return DaemonExit.DRAIN_CUT_SHORT if killed else DaemonExit.OK

    # ---- the loop's steps
    def _finished(self) -> bool:
        return self._phase is Phase.CLOSE and not any(h.alive for h in self._fleet)

    def _wait_and_dispatch(self) -> None:
        """Sleep until a child dies, membership, an operator or a signal has something to say, or something is due."""
        timeout_s = min(max((self._next_look_ns - time.monotonic_ns()) / 1e9, 0.0), TICK_NS / 1e9)
        for fd, events in self._epoll.poll(timeout_s):
            if fd == self.shared.changed_fd:
                self.shared.take_wakeup()
            elif self._fleet.owns(fd):
                self._fleet.reap(fd, time.monotonic_ns())
            elif fd != self._wakeup.fd:
                self._serve_control(fd, events)
        self._next_look_ns = time.monotonic_ns() + TICK_NS      # unless one of the steps wants to look earlier

    def _serve_control(self, fd: int, events: int) -> None:
        try:
            if self._control is None or not self._control.handle(fd, events):
                with contextlib.suppress(OSError, ValueError):
                    self._epoll.unregister(fd)      # nobody's: it would wake the loop for ever
        except Exception:
            log.exception("the control socket failed")      # an operator's command must not end the workers

    def _obey_signals(self, now_ns: int) -> None:
        for signum in self._wakeup.take():
            if signum in (signal.SIGTERM, signal.SIGINT):
                log.info("%s: %s", signal.Signals(signum).name, "drain" if self._phase is Phase.RUN else "stop at once")
                self.drain() if self._phase is Phase.RUN else self.stop()
            elif signum == signal.SIGHUP:
                self._reload_as_told()
            elif signum == signal.SIGUSR1:
                log.info("state: %s", self.snapshot())
            elif signum == signal.SIGCHLD:
                strays.sweep(self._fleet.sweepable())

    def _reload_as_told(self) -> None:
        try:
            self.reload()
        except YADTQError as error:
            log.debug("no reload: %s", error)           # it is in the log
        except Exception:
            log.exception("the reload failed")          # a bad file must not end the workers

    def _follow_ownership(self, now_ns: int) -> None:
        if self._phase is Phase.RUN:
            self._ownership.follow(now_ns)
            if self._ownership.lease_held:
                self._look_again_at(now_ns + int(self.shared.lease_left_s() * 1e9))

    def _watch(self, now_ns: int) -> None:
        deadline_ns = self._watcher.look(now_ns)
        if deadline_ns is not None:
            self._look_again_at(deadline_ns)

    def _keep_limits(self, now_ns: int) -> None:
        for handle in self._fleet:
            if handle.state is WorkerState.STOPPING and not handle.killed_for:
                if now_ns >= handle.kill_at_ns:
                    self._fleet.kill(handle, "its drain limit")
                else:
                    self._look_again_at(handle.kill_at_ns)

    def _start_due(self, now_ns: int) -> None:
        for handle in self._fleet:
            if handle.alive or self._phase is Phase.CLOSE:
                continue
            if handle.role == WORKER and not handle.wanted:
                self._fleet.remove(handle)
            elif self._fleet.may_start(handle, now_ns):
                self._fleet.start(handle, now_ns)
                self._look_again_at(now_ns + START_LOOK_NS)
            elif handle.next_start_ns > now_ns:
                self._look_again_at(handle.next_start_ns)

    def _look_again_at(self, at_ns: int) -> None:
        self._next_look_ns = min(self._next_look_ns, at_ns)

    def _roll(self, now_ns: int) -> None:
        if self._phase is Phase.RUN:
            self._rolling.step(now_ns, self.settings.drain_timeout_s)
            self._recycling.step(now_ns)
            if self._reloading and not self._rolling.under_way:
                self._reloading = False
                self._notifier.ready()
                log.info("the reload is done")

    def _wind_down(self, now_ns: int) -> None:
        if self._phase is Phase.DRAIN and not any(h.alive for h in self._fleet.workers()):
            self._phase = Phase.CLOSE
            for handle in self._fleet.roles():
                self._fleet.stop(handle, CLOSE_AT_ONCE_S if self._cut_short else CLOSE_S, "the daemon stops", now_ns)

    def _tell(self, now_ns: int) -> None:
        self._notifier.turn(now_ns, busy=self._reloading or self._phase is not Phase.RUN)
        if self._control:
            self._control.tick(now_ns / 1e9)
        if not self._ready and self._is_up(now_ns):
            self._ready = True
            self._notifier.ready()
            log.info("yadtqd is up%s", f", but {'; '.join(self._reasons)}" if self._reasons else "")
            if self._on_ready:
                self._on_ready("; ".join(self._reasons))
        if now_ns - self._told_ns >= TICK_NS or not self._ready:
            self._told_ns = now_ns
            self._tell_reasons()
            self._notifier.status(lambda: self._status_line(now_ns), now_ns)

    def _is_up(self, now_ns: int) -> bool:
        workers = self._fleet.workers()
        if self.shared.joined and self._ownership.lease_held and all(h.state is WorkerState.RUNNING for h in workers):
            return True
        return now_ns - self._started_ns > READY_AFTER_S * 1e9

    def _tell_reasons(self) -> None:
        now = reasons(self._fleet, self.shared, self.settings, lease_held=self._ownership.lease_held)
        for reason in now:
            if reason not in self._reasons:
                log.warning("degraded: %s", reason)
        if self._reasons and not now:
            log.info("no longer degraded")
        self._reasons = now

    def _status_line(self, now_ns: int) -> str:
        workers, owned = self._fleet.workers(), self.shared.partitions.owned()
        running = sum(h.state is WorkerState.RUNNING for h in workers)
        lag = sum(max(self.shared.partitions[number].lag, 0) for number in owned)
        rate = self._rate.per_s(self._fleet.ended(), now_ns)
        state = self._state() + (", reloading" if self._reloading else "")
        return status_line(state, running, len(workers), owned, lag, rate, self._reasons)

    def _state(self) -> str:
        if self._phase is not Phase.RUN:
            return "STOPPING" if self._cut_short or self._phase is Phase.CLOSE else "DRAINING"
        return "STARTING" if not self._ready else "DEGRADED" if self._reasons else "RUNNING"

    # ---- what operators ask for
    def snapshot(self) -> dict[str, Any]:
        """Everything that is known, as plain JSON-able data (the keys are those of `yadtqctl status --json`)."""
        now_ns = time.monotonic_ns()
        daemon = {"state": self._state(), "reloading": self._reloading, "reasons": list(self._reasons),
                  "config_file": self.config_file,
                  "uptime_s": round((now_ns - self._started_ns) / 1e9, 3),
                  "log_level": logging.getLevelName(self.shared.log_level),
                  "done_gone": self._fleet.done_gone, "failed_gone": self._fleet.failed_gone}
        return snapshot([*self._fleet.workers(), *self._fleet.roles()], self.shared, self.settings, daemon, now_ns)

    def restart(self, name: str | None = None, *, rolling: bool = True) -> list[str]:
        """Drain and replace one child, or all workers (`rolling`: one by one); the names. ControlError if unknown."""
        if self._phase is not Phase.RUN:
            raise ControlError("the daemon is stopping")
        if name is not None and name not in self._fleet.handles:
            raise ControlError(f"there is no {name!r}; there are: {', '.join(self._fleet.handles) or 'none'}")
        handles = self._fleet.workers() if name is None else [self._fleet.handles[name]]
        names = [handle.name for handle in handles]
        if rolling:
            self._rolling.add(names)
        else:
            for handle in handles:
                self._fleet.forgive(handle)
                self._fleet.stop(handle, self.settings.drain_timeout_s, "it is restarted", time.monotonic_ns())
        return names

    def pause(self, partition: int) -> None:
        """Fetch nothing more from a partition of this host; ControlError if it is not this host's."""
        self._owned(partition).paused = 1

    def resume(self, partition: int) -> None:
        """Fetch from it again."""
        self._owned(partition).paused = 0

    def _owned(self, partition: int) -> Partition:
        owned = self.shared.partitions.owned()
        if partition not in owned:
            raise ControlError(f"this host does not own partition {partition}; it owns {list(owned)}")
        log.info("partition %d is paused or resumed by an operator", partition)
        return self.shared.partitions[partition]

    def drain(self) -> None:
        """Finish what runs within `drain_timeout_s`, start nothing new, then exit."""
        self._begin_stop(self.settings.drain_timeout_s)

    def stop(self) -> None:
        """Exit now: what runs is given up and runs again later."""
        self._cut_short = True
        self._begin_stop(0.0)
        now_ns = time.monotonic_ns()
        for handle in self._fleet.roles():
            if handle.state is WorkerState.STOPPING:
                self._fleet.stop(handle, CLOSE_AT_ONCE_S, "", now_ns)

    def _begin_stop(self, limit_s: float) -> None:
        now_ns = time.monotonic_ns()
        if self._phase is Phase.RUN:
            self._phase = Phase.DRAIN
            self.shared.draining = 1
            self._notifier.stopping()
            self._rolling.cancel()
        self._ownership.give_up()
        for handle in self._fleet.workers():
            self._fleet.stop(handle, limit_s, "the daemon stops", now_ns)

    def reload(self) -> None:
        """Read the configuration again and restart all children one by one; a bad one is logged and changes nothing."""
        if self._phase is not Phase.RUN or self._load_settings is None:
            raise ControlError("the daemon is stopping" if self._load_settings else "there is no configuration to read")
        try:
            new = self._load_settings()
        except YADTQError as error:
            log.error("the configuration stays as it was: %s", error)  # noqa: TRY400 (it says where the mistake is)
            raise
        kept = {name: getattr(self.settings, name) for name in FIXED
                if getattr(new, name) != getattr(self.settings, name)}
        if kept:
            log.warning("a change of %s needs a restart of the daemon", ", ".join(kept))
            new = new.replace(**kept)
        self._reloading = True
        self._notifier.reloading()
        self._take(new)
        self._rolling.add([handle.name for handle in (*self._fleet.roles(), *self._fleet.workers())])
        log.info("the configuration was read again; all children are restarted one by one")

    def _take(self, settings: Settings) -> None:
        if self._apply_logging:
            self._apply_logging(settings)
        self.settings = self._fleet.settings = self._ownership.settings = settings
        self._fleet.policy = RestartPolicy(settings.max_worker_retries, settings.retry_window_s, settings.cool_down_s)
        self._watcher.limits = _limits(settings)
        self.shared.log_level = logging.getLevelNamesMapping()[settings.log_level]
        self.shared.reload_seq += 1
        if settings.assignment == "static":
            self._ownership.take_static()

    def set_log_level(self, level: str) -> None:
        """Log from this level on, here and in all children; ControlError if there is no such level."""
        number = logging.getLevelNamesMapping().get(level.upper())
        if not number:
            raise ControlError(f"there is no log level {level!r}")
        self.shared.log_level = number
        logs.set_level(level.upper())

    # ---- the end
    def _private_fds(self) -> list[int]:
        """What children must not have: a copy of a socket would keep it open, a copy of the lock would keep it held."""
        control = self._control.filenos() if self._control else []
        notify = self._notifier.fileno()
        return [self._epoll.fileno(), *self._wakeup.filenos(), *self._lock_fds, *control,
                *([notify] if notify is not None else [])]

    def _close(self) -> None:
        for handle in self._fleet:
            if handle.child is not None:    # only after an unexpected error: nobody may outlive the supervisor
                self._fleet.kill(handle, "the supervisor failed")
        deadline = time.monotonic() + CLOSE_S
        while any(h.child is not None for h in self._fleet) and time.monotonic() < deadline:
            self._wait_and_dispatch()
        while strays.sweep(self._fleet.sweepable()) and time.monotonic() < deadline:
            time.sleep(0.005)
        if self._control:
            self._control.close()
        self._notifier.close()
        self._wakeup.close()
        self._fleet.close()
        self._epoll.close()
        self.shared.close()
        gc.enable()
        gc.unfreeze()


def _limits(settings: Settings) -> Limits:
    return Limits.of(settings.heartbeat_interval * settings.missed_heartbeats_threshold, settings.progress_timeout_s)
