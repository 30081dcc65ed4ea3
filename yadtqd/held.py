"""A task in a worker's hands, from the fetch of its record until the committed position has passed it.

Owns no behaviour: it is the data that the consumer, the processor, the result writer and the bookkeeper hand to each
other. Comments say which thread writes a field. One exists per fetched record, so it is small and has no dictionary.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from yadtqd.offset_tracker import NOT_SETTLED

if TYPE_CHECKING:
    from yadtq.result_backend import FinishEntry
    from yadtq.task import TaskMessage
    from yadtqd.follow_ups import FollowUp


class Held:
    """One fetched task record.

    `suspect`: an earlier worker had claimed it and did not end it, and it is not known to be innocent of that worker's
    death, so it runs in a process of its own.
    """

    __slots__ = ("cancelled", "claim_round", "end", "follow", "in_lane", "is_copy", "lone", "looked_ns", "message",
                 "next_copy", "offset", "partition", "seen", "settled_at", "size", "suspect")

    def __init__(self, partition: int, offset: int, message: TaskMessage, size: int) -> None:
        self.partition = partition
        self.offset = offset
        self.message = message
        self.size = size                              # bytes that it keeps in memory, its end included
        self.settled_at: float = NOT_SETTLED          # result writer, consumer; bookkeeper resets it
        self.end: FinishEntry | None = None           # processor: how it ended here; kept to be written again
        self.follow: FollowUp | None = None           # processor: what to publish once the end is recorded
        self.claim_round = -1                         # the ledger's round in which Redis was asked about it
        self.looked_ns = 0                            # consumer, processor: when Redis was last asked about a cancel
        self.cancelled = False                        # bookkeeper: a cancel was asked for while it runs
        self.suspect = False                          # consumer, from the claim's answer
        self.seen = 0                                 # consumer: crashes counted against it
        self.lone = 0                                 # consumer: lone runs whose end nobody saw
        self.in_lane = False                          # lanes: it has its place in the lane of its key
        self.is_copy = False                          # ledger: it waited for another record of the same id
        self.next_copy: Held | None = None            # ledger: another record of the same id, which waits
