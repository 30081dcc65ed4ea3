"""The rules of the delivery protocol, each as a switch. All on is the protocol; the checker shows what each is for.

Numbers are those of docs/protocol.md. `without("lease")` is the protocol with one rule less; what a missing rule means
for an operation in Redis stands in tests/model/spoiled.py, for everything else where the switch is looked at.
"""
from __future__ import annotations

from typing import NamedTuple


class Rules(NamedTuple):
    """One switch a rule; off means that the system behaves as one would write it without having thought of that."""

    # operations in Redis
    claim_writes: bool = True       # a claim leaves its token in the record (off: it only reads)
    by_attempt: bool = True         # a claim compares attempts (off: only "has it ended or not")
    home: bool = True               # a copy in another partition than the claimant's is skipped (off: it runs too)
    first_wins: bool = True         # the first end stays
    ask_claimed: bool = True        # cancelling a claimed task is a wish (off: it is confirmed at once)
    submit_limit: bool = True       # a submission that comes after its time limit creates no record
    fence: bool = True              # 1: each operation compares the partition's epoch
    clear_number: bool = True       # each operation compares the clear number
    by_life: bool = True            # a replayed dead letter begins a new life (off: it has ended, says the record)
    # workers and membership
    kafka_epochs: bool = True       # 1: epochs are Kafka's offsets (off: a counter in Redis)
    fenced_commit: bool = True      # 2: Kafka refuses the commit of one who no longer owns the partition
    stale_stops: bool = True        # 3: told STALE, a worker stops (off: it drops the task, i.e. commits past it)
    lease: bool = True              # 4: a look at the lease before each start and each publish
    record_first: bool = True       # 5: record, then publish (off: the other way round)
    commit_last: bool = True        # 5: commit only what is recorded and published
    settle: bool = True             # 5: the claim of what has ended says "publish again" (off: "finished, skip it")
    known_durable: bool = True      # 6: commit only what Redis has on disk
    rewrite_first: bool = True      # 6: after a restart of Redis nothing is claimed before all ends are written again
    copies_wait: bool = True        # 6: a copy of what is in hand waits until that is known durable (off: has ended)
    claim_again: bool = True        # 6: after a restart of Redis, what is claimed and not started is claimed again
    ttl_after_commit: bool = True   # 7: a record goes only when no copy of its message can come again
    hand_over_waits: bool = True    # a planned hand-over waits until the old workers are reaped
    ends_read_first: bool = True    # clear_all_tasks reads the end offsets before it raises the clear number


ALL = Rules()


def without(*names: str) -> Rules:
    """The protocol less these rules."""
    return ALL._replace(**dict.fromkeys(names, False))
