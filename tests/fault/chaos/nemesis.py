"""Breaks things as the plan says, mends them, and sees how long it takes until all is well again.

One thread per lane. Every fault goes into the history with the time that it lasted; a recovery that does not come
within its limit is a failure of the run. Signals go to pids that the daemons name, never to a process by its name.
"""
from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.fault.chaos.plan import HOSTS, Step
from tests.fault.chaos.stage import Stage
from tests.support.daemon import Daemon
from tests.support.history import Fault, Journal, Submitted, now
from yadtq import YADTQClient
from yadtq.errors import ControlError, TaskSubmissionTimeout, YADTQError
from yadtq.task import new_task_id
from yadtqd.control_client import ControlClient

LONG_HANDLER_S = 1.0            # the load's usual handlers take 0.2 s at most
RECOVERY_S = 90.0               # the longest that anything may take to be well again
PROBES = 12                     # tasks that have to be accepted
PARTITIONS = 4
LOOK_S = 0.02
_UP = "RUNNING"
Recovery = tuple[float, str]    # seconds (-1: was not looked at) and a note


class NotRecovered(Exception):
    """All was not well again in time."""


class Nemesis:
    """`run()` returns when the plan is over; `failures` then says what did not recover."""

    def __init__(self, stage: Stage, steps: Iterable[Step], burst: Callable[[int], None],
                 say: Callable[[str], None]) -> None:
        self.stage, self.burst, self.say = stage, burst, say
        self.lanes: dict[str, list[Step]] = {}
        for step in steps:
            self.lanes.setdefault(step.lane, []).append(step)
        self.journal = Journal(stage.history / "nemesis.events")
        self.failures: list[str] = []
        self._down: set[str] = set()            # hosts that the server lane has taken away
        self._victim = ""                       # the worker that the process lane has in hand, as host/worker
        self._client: YADTQClient | None = None

    def run(self, abort: threading.Event) -> None:
        """Do all steps."""
        begun = time.monotonic()
        threads = [threading.Thread(target=self._lane, args=(steps, begun, abort), name=lane, daemon=True)
                   for lane, steps in self.lanes.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def heal(self) -> None:
        """Whatever is broken is mended."""
        for link in self.stage.proxy.ports:
            self.stage.proxy.set(link, "pass")
        for server in (*self.stage.kafka, self.stage.redis):
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.pid, signal.SIGCONT)
            if not server.running:
                server.start()
        for daemon in self.stage.daemons.values():
            if daemon.process is not None and daemon.process.poll() is None:
                _signal([daemon.pid, *daemon.family()], signal.SIGCONT)
            else:
                daemon.start()
        if self._client is not None:
            self._client.close(1)

    def _lane(self, steps: list[Step], begun: float, abort: threading.Event) -> None:
        for step in steps:
            if abort.wait(max(0.0, begun + step.at_s - time.monotonic())):
                return
            since = now()
            do = getattr(self, f"_{step.kind}")
            try:
                recovered_s, note = do(step)
            except NotRecovered as error:
                self.failures.append(f"{step}: {error}")
                recovered_s, note = -1.0, f"NOT RECOVERED: {error}"
            except Exception as error:
                recovered_s, note = -1.0, f"could not be done: {error!r:.200}"
            if note != "skipped":
                self.journal.write(Fault(kind=step.kind, target=step.target, begun=since, at=now(),
                                         recovered_s=recovered_s, note=note))
            after = f", well again after {recovered_s:.2f} s" if recovered_s >= 0 else ""
            self.say(f"{time.monotonic() - begun:7.1f} s  {step.kind} of {step.target}{after} {note}")

    # ---- one process of a host --------------------------------------------------------------------------------------
    def _worker(self, step: Step) -> tuple[Daemon, dict[str, Any]] | None:
        """The worker of the plan, or another of its host; None while there is none."""
        host, _, name = step.target.partition("/")
        daemon = self.stage.daemons[host]
        if host in self._down:
            return None
        found = [w for w in daemon.workers() if w["state"] == _UP and w["pid"]]
        return next(((daemon, w) for w in found if w["name"] == name), (daemon, found[0]) if found else None)

    @contextlib.contextmanager
    def _in_hand(self, daemon: Daemon, worker: dict[str, Any]) -> Iterator[None]:
        """This worker does not do its work, and the other lane's faults are not the reason."""
        self._victim = f"{daemon.name}/{worker['name']}"
        try:
            yield
        finally:
            self._victim = ""

    def _replaced(self, daemon: Daemon, old: dict[str, Any], since: float) -> Recovery:
        def well() -> bool:
            if daemon.name in self._down:
                return True
            workers = daemon.workers()
            return bool(workers) and all(w["name"] != old["name"] or (w["pid"] != old["pid"] and w["state"] == _UP)
                                         for w in workers)
        with self._in_hand(daemon, old):
            took_s = _until(well, since, f"{old['name']} replaced")
        return (-1.0, "the host went meanwhile") if daemon.name in self._down else (took_s, "")

    def _worker_kill(self, step: Step) -> Recovery:
        victim = self._worker(step)
        if victim is None:
            return -1.0, "skipped"
        since = time.monotonic()
        _signal([victim[1]["pid"]], signal.SIGKILL)
        return self._replaced(*victim, since)

    def _worker_pause(self, step: Step) -> Recovery:
        victim = self._worker(step)
        if victim is None:
            return -1.0, "skipped"
        with self._in_hand(*victim), _stopped([victim[1]["pid"]]):
            time.sleep(step.for_s)
        return -1.0, ""

    def _worker_freeze(self, step: Step) -> Recovery:
        victim = self._worker(step)
        if victim is None:
            return -1.0, "skipped"
        since = time.monotonic()
        with _stopped([victim[1]["pid"]]):
            return self._replaced(*victim, since)

    def _worker_restart(self, step: Step) -> Recovery:
        victim = self._worker(step)
        if victim is None:
            return -1.0, "skipped"
        since = time.monotonic()
        with ControlClient(victim[0].socket, timeout_s=5) as control:
            control.call("restart", worker=victim[1]["name"])
        return self._replaced(*victim, since)

    def _role(self, step: Step, role: str) -> dict[str, Any] | None:
        if step.target in self._down:
            return None
        try:
            roles = self.stage.daemons[step.target].status()["roles"]
        except ControlError:
            return None
        return next((r for r in roles if r["name"] == role and r["pid"]), None)

    def _kill_role(self, step: Step, role: str) -> Recovery:
        victim = self._role(step, role)
        if victim is None:
            return -1.0, "skipped"
        since = time.monotonic()
        _signal([victim["pid"]], signal.SIGKILL)

        def well() -> bool:
            found = self._role(step, role)
            return step.target in self._down or (found is not None and found["pid"] != victim["pid"]
                                                 and found["state"] == _UP)
        return _until(well, since, f"{role} replaced"), ""

    def _membership_kill(self, step: Step) -> Recovery:
        return self._kill_role(step, "membership")

    def _isolator_kill(self, step: Step) -> Recovery:
        return self._kill_role(step, "isolator")

    def _janitor_kill(self, step: Step) -> Recovery:
        return self._kill_role(step, "janitor")

    def _scheduler_kill(self, step: Step) -> Recovery:
        return self._kill_role(step, "scheduler")

    def _membership_pause(self, step: Step) -> Recovery:
        victim = self._role(step, "membership")
        if victim is None:
            return -1.0, "skipped"
        with _stopped([victim["pid"]]):
            time.sleep(step.for_s)
        return -1.0, ""

    # ---- a whole host -----------------------------------------------------------------------------------------------
    def _supervisor_kill(self, step: Step) -> Recovery:
        daemon = self.stage.daemons[step.target]
        self._down.add(step.target)
        try:
            owned = self.stage.owned(step.target)
            since = time.monotonic()
            daemon.kill()
            took_s, note = self._taken_over(step.target, owned, since, step.for_s)
            daemon.start()
            self._wait_up(daemon)
        finally:
            self._down.discard(step.target)
        return took_s, note

    def _taken_over(self, gone: str, owned: list[int], since: float, for_s: float) -> Recovery:
        """Leave the host away for its time; when did the other one consume what it had?"""
        other = next(host for host in HOSTS if host != gone)
        until, took_s = since + for_s, -1.0
        while (left_s := until - time.monotonic()) > 0:
            if took_s < 0 and owned and set(owned) <= set(self.stage.owned(other)):
                took_s = time.monotonic() - since
            time.sleep(min(LOOK_S, left_s))
        return took_s, "consumed elsewhere" if took_s >= 0 else f"was away for {for_s:g} s"

    def _wait_up(self, daemon: Daemon) -> None:
        def well() -> bool:
            assert daemon.process is not None
            if daemon.process.poll() is not None:
                raise NotRecovered(f"{daemon.name} exited with {daemon.process.returncode}")
            return sum(len(self.stage.owned(host)) for host in HOSTS) == 4 and bool(self.stage.owned(daemon.name))
        _until(well, time.monotonic(), f"{daemon.name} consumes")

    def _supervisor_drain(self, step: Step) -> Recovery:
        daemon = self.stage.daemons[step.target]
        self._down.add(step.target)
        try:
            since = time.monotonic()
            status = daemon.end(60)
            took_s = time.monotonic() - since
            time.sleep(step.for_s)
            daemon.start()
            self._wait_up(daemon)
        finally:
            self._down.discard(step.target)
        return -1.0, f"drained in {took_s:.1f} s with exit status {status}"

    def _supervisor_pause(self, step: Step) -> Recovery:
        daemon = self.stage.daemons[step.target]
        with _stopped([daemon.pid]):
            time.sleep(step.for_s)
        return -1.0, ""

    def _host_freeze(self, step: Step) -> Recovery:
        daemon = self.stage.daemons[step.target]
        self._down.add(step.target)
        try:
            with _stopped([daemon.pid, *daemon.family()]):
                time.sleep(step.for_s)
            since = time.monotonic()
            self._wait_up(daemon)
        finally:
            self._down.discard(step.target)
        return time.monotonic() - since, ""

    # ---- servers ----------------------------------------------------------------------------------------------------
    def _kafka_kill(self, step: Step) -> Recovery:
        return self._broker(step, "kill")

    def _kafka_stop(self, step: Step) -> Recovery:
        return self._broker(step, "stop")

    def _broker(self, step: Step, how: str) -> Recovery:
        broker = self.stage.kafka[int(step.target)]
        getattr(broker, how)()
        time.sleep(step.for_s)
        broker.start()
        return self._kafka_is_back()

    def _kafka_freeze(self, step: Step) -> Recovery:
        broker = self.stage.kafka[int(step.target)]
        broker.freeze()
        time.sleep(step.for_s)
        broker.thaw()
        return self._kafka_is_back()

    def _kafka_is_back(self) -> Recovery:
        took_s = self._probe()
        if not self.stage.kafka.wait_in_sync(RECOVERY_S):
            raise NotRecovered(f"replicas are out of sync: {self.stage.kafka.out_of_sync()}")
        return took_s, ""

    def _redis_kill(self, step: Step) -> Recovery:
        self.stage.redis.kill()
        return self._redis_comes_back(step)

    def _redis_stop(self, step: Step) -> Recovery:
        self.stage.redis.stop()
        return self._redis_comes_back(step)

    def _redis_comes_back(self, step: Step) -> Recovery:
        time.sleep(step.for_s)
        self.stage.redis.start()
        return self._probe(), ""

    def _redis_freeze(self, step: Step) -> Recovery:
        self.stage.redis.freeze()
        time.sleep(step.for_s)
        self.stage.redis.thaw()
        return self._probe(), ""

    # ---- the network ------------------------------------------------------------------------------------------------
    def _net_drop(self, step: Step) -> Recovery:
        return self._net(step, "drop")

    def _net_delay(self, step: Step) -> Recovery:
        return self._net(step, "delay", 0.1)

    def _net_half_open(self, step: Step) -> Recovery:
        return self._net(step, "half_open")

    def _net_reset(self, step: Step) -> Recovery:
        return self._net(step, "reset")

    def _net(self, step: Step, mode: str, delay_s: float = 0.0) -> Recovery:
        links = self.stage.links(step.target)
        for link in links:
            self.stage.proxy.set(link, mode, delay_s)
        time.sleep(step.for_s)
        for link in links:
            self.stage.proxy.set(link, "pass")
        return self._probe(), ""

    def _burst(self, step: Step) -> Recovery:
        self.burst(2000)
        time.sleep(step.for_s)
        return -1.0, ""

    # ---- is all well? -----------------------------------------------------------------------------------------------
    def _probe(self) -> float:
        """How long from now until a submission is accepted and every partition's worker has ended a task.

        It is enough if a worker is within a long handler, or is what the other lane broke and measures.
        """
        since = time.monotonic()
        before = {key: done for key, (done, _, _) in self._done().items()}
        self._submit_probes(since)

        def well() -> bool:
            workers = self._done()
            consumed = sum(count for _, count, _ in workers.values())
            return ((consumed == PARTITIONS or bool(self._down))
                    and all(done > before.get(key, 0) or excused for key, (done, _, excused) in workers.items()))
        return _until(well, since, "every partition's worker has ended a task")

    def _done(self) -> dict[tuple[str, str], tuple[int, int, bool]]:
        """By host and running worker: the tasks it has ended, how many partitions it consumes, whether it can't end
        one soon for reasons of its own."""
        found = {}
        for host, daemon in self.stage.daemons.items():
            for worker in daemon.workers() if host not in self._down else []:
                if worker["state"] == _UP and worker["partitions"]:
                    excused = (f"{host}/{worker['name']}" == self._victim
                               or (worker["task_for_s"] or 0.0) > LONG_HANDLER_S)
                    found[host, worker["name"]] = (worker["done"] + worker["failed"], len(worker["partitions"]),
                                                   excused)
        return found

    def _submit_probes(self, since: float) -> None:
        entries = [{"task": "chaos.run", "args": [id_], "task_id": id_}
                   for id_ in (new_task_id() for _ in range(PROBES))]
        while time.monotonic() - since < RECOVERY_S:
            called = now()
            outcome, ids = "accepted", [entry["task_id"] for entry in entries]
            try:
                if self._client is None:
                    self._client = YADTQClient(settings=self.stage.settings("load"))
                self._client.submit_tasks(entries, submit_timeout_s=5)
            except TaskSubmissionTimeout as error:
                outcome, ids = "unknown", list(error.task_ids)
            except YADTQError:
                time.sleep(LOOK_S)
                continue
            self.journal.write(*(Submitted(id=id_, kind="probe", called=called, at=now(), outcome=outcome,
                                           expect=("SUCCESS",)) for id_ in ids))
            if outcome == "accepted":
                return
        raise NotRecovered(f"nothing was accepted within {RECOVERY_S:g} s")


def _until(well: Callable[[], bool], since: float, what: str) -> float:
    """Seconds from `since` until all is well."""
    while not well():
        if time.monotonic() - since > RECOVERY_S:
            raise NotRecovered(f"not within {RECOVERY_S:g} s: {what}")
        time.sleep(LOOK_S)
    return time.monotonic() - since


def _signal(pids: Iterable[int], signum: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


@contextlib.contextmanager
def _stopped(pids: list[int]) -> Any:
    """Processes are frozen while in here; a pid that went meanwhile, and may be another's, gets no signal."""
    begun = {pid: _started(pid) for pid in pids}
    _signal(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal([pid for pid in reversed(pids) if begun[pid] and _started(pid) == begun[pid]], signal.SIGCONT)


def _started(pid: int) -> str:
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
