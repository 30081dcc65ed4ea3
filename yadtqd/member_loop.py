"""The loop of a process that is a live member of a group of Kafka's: what membership and the scheduler do alike.

Owns the way from start to end: connect, turn after turn, wait and try again when Kafka is away, for as long as it
takes; end at once when only another configuration helps; say goodbye after SIGTERM. One thread, whose progress feeds
the child's heartbeat. What a turn does is the role's own.
"""
from __future__ import annotations

import logging
import signal
import time
from typing import TYPE_CHECKING

from yadtq.errors import KafkaConnectionError
from yadtqd.beater import Beater, patience_s
from yadtqd.exits import Exit
from yadtqd.group_member import FatalMembership
from yadtqd.slot import WAITS_FOR_KAFKA
from yadtqd.worker_state import WorkerState

if TYPE_CHECKING:
    from yadtqd.child import ChildContext
    from yadtqd.group_member import GroupMember

log = logging.getLogger(__name__)

RETRY_S = 0.3
REFUSED_S = 1.0             # when somebody has to change something first


class MemberLoop:
    """A role derives from it, and has `_member`."""

    _member: GroupMember

    def __init__(self, ctx: ChildContext) -> None:
        self._ctx, self._settings, self._slot = ctx, ctx.settings, ctx.slot
        self._stopping = False

    def run(self) -> int:
        """Until SIGTERM; then the last commit is made and the place in the group is kept (static member)."""
        signal.signal(signal.SIGTERM, self._stop)
        self._slot.state = WorkerState.STARTING
        beater = Beater(self._slot, patience_s(self._settings))
        beater.start()
        while not self._stopping:
            beater.came_round()
            try:
                if self._member.consumer is None:
                    self._connect()
                self._turn()
            except FatalMembership as error:
                log.critical("%s", error)
                return Exit.STOP_FATAL_CONFIG
            except KafkaConnectionError as error:
                self._slot.waiting_for = WAITS_FOR_KAFKA
                log.warning("%s: %s", self._member.who, error)
                time.sleep(RETRY_S if error.retryable else REFUSED_S)
        self._say_goodbye()
        return Exit.OK

    def _stop(self, *_: object) -> None:
        self._stopping = True

    # ---- the role's own ---------------------------------------------------------------------------------------------
    def _connect(self) -> None:
        raise NotImplementedError

    def _turn(self) -> None:
        raise NotImplementedError

    def _say_goodbye(self) -> None:
        raise NotImplementedError
