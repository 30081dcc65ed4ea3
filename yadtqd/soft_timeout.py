"""Soft time-out and cancel: an exception raised inside a handler that runs in the main thread, and nowhere else.

Owns the worker's SIGUSR1 and SIGALRM. The supervisor knows the deadline of the task in the slot; when it has passed it
writes the task's number into SOFT_FOR and sends SIGUSR1. The signal handler here raises only if
`live == seq == SOFT_FOR`, and sets `live = 0` first, so a signal that comes late, early or twice hits no other task
and never escapes from `Guard.call`. It costs a task nothing: no timer is set for it, except for deadlines below two
ticks of the supervisor, which it could not keep. A cancel goes the same way, but for the number, which stands in
CANCEL_FOR, and the sender, which is a thread of this worker.

An exception that appears between any two byte codes can leave broken what is half done. So it is put off, for a moment,
while logging, threading, queue, the import system or a context manager's entry or exit is at work; and the worker is
recycled after any of them (`Guard.fired`).
"""
from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from yadtq.running import Cancelled, SoftTimeout

if TYPE_CHECKING:
    from yadtqd.slot import Slot

TICK_S = 0.25                # the supervisor's; it may notice a deadline so late
OWN_TIMER_BELOW_S = 2 * TICK_S
_PUT_OFF_S = 0.01
_PUT_OFF_AT_MOST_S = 0.3     # one that sits in Event.wait() is in threading all the time: it is hit after all
_FRAGILE_MODULES = frozenset({"logging", "threading", "queue", "importlib._bootstrap",
                              "importlib._bootstrap_external",
                              "_frozen_importlib", "_frozen_importlib_external"})
_FRAGILE_NAMES = frozenset({"__enter__", "__exit__"})


class Guard:
    """Runs handlers in the main thread so that a soft time-out or a cancel can interrupt them.

        guard = Guard(slot); guard.install()
        value = guard.call(seq, 0.0, handler, args, kwargs)     # raises SoftTimeout, Cancelled

    `seq` is the number under which the task stands in the slot. `own_timer_s` above 0 sets a timer of the process.
    """

    def __init__(self, slot: Slot) -> None:
        self._cells = slot.cells
        kind = type(slot)
        self._live_at, self._seq_at, self._soft_for_at = kind.live.index, kind.seq.index, kind.soft_for.index
        self._slot, self._cancel_for_at = slot, kind.cancel_for.index
        self._alarm_for = 0            # number of the task for which the process's own timer was set
        self._put_off_for = 0
        self._put_off_since = 0.0
        self.fired = False             # one of the two was raised: this process runs no further handler
        self.cancelled = False         # ... and it was the cancel

    def install(self) -> None:
        """Take the two signals; only in the main thread."""
        signal.signal(signal.SIGUSR1, self._on_signal)
        signal.signal(signal.SIGALRM, self._on_signal)

    def cancel(self, seq: int, hard_ns: int) -> None:
        """From another thread: end the task with this number, and let the supervisor do it at `hard_ns` (monotonic)
        if it has not ended by then. Harmless when it has ended meanwhile."""
        self._slot.cancel_hard_ns = hard_ns     # first: who sees the number must see its deadline
        self._slot.cancel_for = seq
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def call(self, seq: int, own_timer_s: float, handler: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """handler(*args, **kwargs); raises what it raises, and SoftTimeout or Cancelled."""
        if own_timer_s > 0:
            return self._call_timed(seq, own_timer_s, handler, args, kwargs)
        cells, live_at = self._cells, self._live_at
        try:
            cells[live_at] = seq
            return handler(*args, **kwargs)
        finally:
            cells[live_at] = 0         # a signal right before this line still raises: inside the caller's except

    def _call_timed(self, seq: int, timer_s: float, handler: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        try:
            self._alarm_for = seq
            signal.setitimer(signal.ITIMER_REAL, timer_s)
            return self.call(seq, 0.0, handler, args, kwargs)
        finally:
            self._alarm_for = 0
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        cells = self._cells
        live = cells[self._live_at]
        cancel = live == cells[self._cancel_for_at]
        if live == 0 or live != cells[self._seq_at] or not (
                cancel or live in (cells[self._soft_for_at], self._alarm_for)):
            return
        if self._put_off(live, frame):
            self._alarm_for = live
            signal.setitimer(signal.ITIMER_REAL, _PUT_OFF_S)
            return
        cells[self._live_at] = 0
        self.fired, self.cancelled = True, cancel
        raise Cancelled if cancel else SoftTimeout

    def _put_off(self, seq: int, frame: FrameType | None) -> bool:
        if not _is_fragile(frame):
            return False
        now = time.monotonic()
        if self._put_off_for != seq:
            self._put_off_for, self._put_off_since = seq, now
        return now - self._put_off_since < _PUT_OFF_AT_MOST_S


def _is_fragile(frame: FrameType | None) -> bool:
    """Would an exception raised here, in this frame or one that it was called from, break what it interrupts?"""
    while frame is not None and frame.f_code is not Guard.call.__code__:
        module = frame.f_globals.get("__name__", "")
        if (module in _FRAGILE_MODULES or frame.f_code.co_name in _FRAGILE_NAMES
                or module.startswith(("logging.", "importlib."))):
            return True
        frame = frame.f_back
    return False
