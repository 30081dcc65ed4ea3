"""The roles of the daemon's children by name: what the supervisor runs in a process that it has just forked.

The modules are imported in the child (the supervisor preloads them, so that costs nothing): a role that can't be
imported is a failure of that child, never of the supervisor.
"""
from __future__ import annotations

import importlib
import logging

from yadtq import log as logs
from yadtqd.child import ChildContext, Role
from yadtqd.worker_handle import WORKER

MODULES = {"membership": "yadtqd.membership", "worker": "yadtqd.worker", "isolator": "yadtqd.isolator",
           "janitor": "yadtqd.janitor", "scheduler": "yadtqd.scheduler"}


def roles() -> dict[str, Role]:
    """All roles: membership, worker, isolator, janitor, scheduler."""
    return dict.fromkeys(MODULES, _run)


def _run(ctx: ChildContext) -> int:
    worker = f"{ctx.settings.host_name}/{ctx.name}" if ctx.role == WORKER else ""
    logs.setup(ctx.settings, process=ctx.name, worker=worker)
    logs.set_level(logging.getLevelName(ctx.shared.log_level))      # an operator may have changed it since the start
    return int(importlib.import_module(MODULES[ctx.role]).run(ctx))
