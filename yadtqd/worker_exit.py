"""How a worker ends at once, from any of its threads.

A worker that has been replaced must do nothing more: its main thread may sit in a handler for minutes, so the thread
that learns of it ends the process. Nothing is lost by that: what is not committed comes again.
"""
from __future__ import annotations

import logging
import os
from typing import NoReturn

from yadtqd.exits import Exit

log = logging.getLogger(__name__)


def end_now(status: Exit, reason: str) -> NoReturn:
    """End this process with a word in the log; runs no `finally`, flushes nothing but the log."""
    level = logging.WARNING if status in {Exit.STALE, Exit.LOST_LEASE, Exit.SOFT_RECYCLE} else logging.CRITICAL
    log.log(level, "this worker ends (%s): %s", status.name, reason)
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(status)
