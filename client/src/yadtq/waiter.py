"""Brings the ends of tasks to whoever waits for them, pushed by Redis instead of polled.

Owns one background thread and one subscription of a client, both made at the first wait. Who begins to wait enters its
ids in the table, then registers them in Redis (`watch`: one atomic look that answers the end or notes the client); the
thread hands over what is pushed, looks again at everything after a reconnect (what was pushed meanwhile is lost), and
at each id every RECHECK_S as a second net. It never decodes results, and never runs an application's code except the
`deliver` of a sink, which only hands over.
"""
from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from yadtq.errors import ClientClosed, TaskNotFound, YADTQError
from yadtq.records import ENDED, Push, TaskRecordRaw
from yadtq.store_watch import StoreWatch
from yadtq.wait_table import RETRY_S, Outcome, Sink, WaitTable

if TYPE_CHECKING:
    from yadtq.result_backend import ResultBackend, Subscription

log = logging.getLogger(__name__)

WATCH_BATCH = 1000      # ids a call: bounds what one reply holds in memory
TICK_S = 1.0            # the thread looks up this often though nothing comes, e.g. to see that it was stopped
LOOK_S = 1.0            # the least time that a look at Redis is given, though its caller waits for less
UNPUSHED_S = 0.5        # how often a task is looked at whose end can't be pushed (too many clients wait for it)
SUBSCRIBE_S = 5.0       # how long a first wait waits for the subscription before it relies on the next look


class Waiter:
    """The waits of one client in one process; made anew after a fork."""

    def __init__(self, backend: ResultBackend, store: StoreWatch, client_id: str, call_s: float,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._backend, self._store, self._client_id, self._clock = backend, store, client_id, clock
        self._call_s = call_s
        self.table = WaitTable()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._subscribed = threading.Event()
        self._stopping = threading.Event()
        self._subscription: Subscription | None = None      # the thread's; others only wake it
        self._away_since: float | None = None       # Redis did not answer since then

    # ---- the threads that wait --------------------------------------------------------------------------------------
    def begin(self, ids: Sequence[str], sink: Sink, timeout_s: float | None = None) -> None:
        """Wait for these tasks: `sink` is told of each end, perhaps before this returns. Raises ClientClosed only.

        The first look at Redis may take `timeout_s` (LOOK_S at least); then the waiter's thread goes on trying.
        """
        self.begin_many([(ids, sink)], timeout_s)

    def begin_many(self, waits: Sequence[tuple[Sequence[str], Sink]], timeout_s: float | None = None) -> None:
        """Several waits with one look at Redis, each with a sink of its own."""
        look_s = None if timeout_s is None else max(timeout_s, LOOK_S)
        self._start()
        now = self._clock()
        for some, sink in waits:
            self.table.add(some, sink, now)
        if self._stopping.is_set():                 # closed meanwhile: perhaps before these were in the table
            self.table.abandon(_closed())
            return
        ids = waits[0][0] if len(waits) == 1 else list(dict.fromkeys(chain.from_iterable(some for some, _ in waits)))
        if not self._subscribed.is_set() and not self._subscribed.wait(min(SUBSCRIBE_S, look_s or SUBSCRIBE_S)):
            self.table.look_again(ids)              # Redis is away: the thread goes on trying
            return
        for start in range(0, len(ids), WATCH_BATCH):
            try:
                self._watch(ids[start:start + WATCH_BATCH], look_s)
            except YADTQError as error:
                log.debug("watch failed, the waiter's thread repeats it: %s", error)
                self.table.look_again(ids[start:])
                self._wake()
                return

    def stop(self, ids: Sequence[str], sink: Sink) -> None:
        """Wait no longer for these tasks."""
        self.table.discard(ids, sink)

    def look_again(self) -> None:
        """Have everything that is waited for looked at now."""
        self.table.look_again()
        self._wake()

    def away_s(self) -> float:
        """For how long Redis has not answered the waiter (seconds; 0.0 when it does)."""
        since = self._away_since
        return 0.0 if since is None else self._clock() - since

    def close(self, timeout_s: float) -> None:
        """End the thread; who still waits is told ClientClosed."""
        self._stopping.set()
        self._wake()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)
        self.table.abandon(_closed())

    def _wake(self) -> None:
        subscription = self._subscription
        if subscription is not None:
            subscription.wake()

    # ---- the waiter's thread ----------------------------------------------------------------------------------------
    def _start(self) -> None:
        if self._stopping.is_set():
            raise ClientClosed
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="yadtq-waiter", daemon=True)
                    thread.start()
                    self._thread = thread

    def _run(self) -> None:
        subscription: Subscription | None = None
        while not self._stopping.is_set():
            try:
                if subscription is None:
                    self._store.look()              # so that a later look can tell what has changed
                    self._subscription = subscription = self._backend.subscribe(self._client_id)
                    self._subscribed.set()
                    self.table.look_again()
                self._turn(subscription)
                self._away_since = None
            except YADTQError as error:
                if self._away_since is None:
                    self._away_since = self._clock()
                    log.warning("waiting for results: %s", error)
                self._stopping.wait(RETRY_S)
            except Exception:                       # a bug here must not leave everybody waiting in silence
                log.exception("the waiter's thread failed, and goes on")
                self._stopping.wait(RETRY_S)
        if subscription is not None:
            subscription.close()

    def _turn(self, subscription: Subscription) -> None:
        pushes = subscription.get(self.table.next_due(self._clock(), TICK_S))
        if pushes is None:                          # reconnected: what was pushed in between is lost
            self.table.look_again()
        else:
            for push in pushes:
                self.table.ended(push.id, outcome_of_push(push))
        ids = self.table.due(self._clock(), WATCH_BATCH)
        if ids:
            try:
                self._watch(ids)
            except YADTQError:
                self.table.look_again(ids)
                raise

    def _watch(self, ids: Sequence[str], timeout_s: float | None = None) -> None:
        missing = []
        answers = self._backend.watch(ids, self._client_id, timeout_s=self._limited(timeout_s))
        for task_id, answer in zip(ids, answers, strict=True):
            if answer is None:
                missing.append(task_id)
            elif isinstance(answer, str):
                self.table.present(task_id)
            elif answer.state in ENDED:
                self.table.ended(task_id, outcome_of_record(answer))
            else:                                   # too many clients wait for this one: nobody will push it to us
                self.table.present(task_id, ask_at=self._clock() + UNPUSHED_S)
        if missing:
            self._store.look(self._limited(timeout_s))
            now = self._clock()
            for task_id in missing:
                self.table.missing(task_id, now, self._store.why_missing(task_id))

    def _limited(self, timeout_s: float | None) -> float | None:
        return None if timeout_s is None else min(timeout_s, self._call_s)


def _closed() -> ClientClosed:
    return ClientClosed("the client was closed while somebody waited for a result")


def outcome_of_push(push: Push) -> Outcome:
    """The outcome that a push tells."""
    if push.state == "CLEARED":
        return Outcome(lost=TaskNotFound(f"the task {push.id} was cleared by clear_all_tasks"))
    return Outcome(push.state, push.result, push.error, must_read=push.state == "OK" and push.result is None)


def outcome_of_record(record: TaskRecordRaw) -> Outcome:
    """The outcome that an ended record tells."""
    if record.expired:
        return Outcome(lost=TaskNotFound(f"the task {record.id} ended as {record.state}, and its result has expired"))
    return Outcome(record.state, record.result, record.error)
