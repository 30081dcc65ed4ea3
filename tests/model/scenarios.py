"""The scenarios of the core model: what the protocol must survive, what each rule is for, and what can't be promised.

SHORT runs with the tests; FULL takes minutes, and belongs to `python -m tests.model --full`.
"""
from __future__ import annotations

from typing import NamedTuple

from tests.model.delivery import Budget as B
from tests.model.delivery import Scenario as Sc
from tests.model.rules import without

# With all rules on, nothing breaks.
SHORT = [
    Sc("basic", B(crash=1, freeze=1, unknown=1)),
    Sc("repeated calls", B(crash=1, repeat=1), retries=1, letters=True),
    Sc("retry", B(freeze=1, crash=1), retries=1),
    Sc("retry, copies", B(crash=1, copies=1), retries=1),
    Sc("retry, redis crash", B(crash=1, redis=1), retries=1),
    Sc("retry, two redis crashes", B(redis=2), retries=1),
    Sc("redis crash, two tasks", B(redis=1), tasks=2, window=2),
    Sc("dead letter", B(crash=1, freeze=1), may_fail=True, letters=True),
    Sc("dead letter replayed", B(crash=1, replay=1), may_fail=True, letters=True),
    Sc("chain", B(crash=1, unknown=1), chain=True),
    Sc("cancel", B(crash=1), retries=1, cancel=True),
    Sc("cancel, window", B(crash=1), cancel=True, tasks=2, window=2),
    Sc("cancel, expiry", B(crash=1, expire=2), retries=1, cancel=True),
    Sc("cancel, copies elsewhere", B(copies=1), partitions=2, scattered=True, cancel=True),
    Sc("expires", B(crash=1, freeze=1), deadline=True),
    Sc("expiry", B(crash=1, freeze=1, expire=1)),
    Sc("hand-over", B(freeze=1, hand_over=1), retries=1),
    Sc("clear", B(crash=1), clear=True),
    Sc("clear, retry", clear=True, retries=1),
    Sc("wipe", B(crash=1, wipe=1), retries=1),
]

FULL = [
    Sc("two faults of each kind", B(crash=2, freeze=2)),
    Sc("two tasks", B(crash=1, freeze=1), tasks=2, window=2),
    Sc("two tasks, redis crash", B(crash=1, redis=1), tasks=2, window=2),
    Sc("retry, unknown", B(crash=1, freeze=1, unknown=1), retries=1),
    Sc("retry twice", B(crash=1, freeze=1), retries=2),
    Sc("retry, copies, unknown", B(crash=1, copies=1, unknown=1), retries=1),
    Sc("retry, redis crash, zombie", B(freeze=1, redis=1), retries=1),
    Sc("retry, two tasks", B(freeze=1), retries=1, tasks=2, window=2),
    Sc("repeated calls, redis crash", B(crash=1, redis=1, repeat=1), retries=1, letters=True),
    Sc("copies elsewhere", B(copies=1, crash=1, freeze=1), partitions=2, scattered=True),
    Sc("copies elsewhere, retry", B(copies=1, crash=1), partitions=2, scattered=True, retries=1),
    Sc("copies elsewhere, expires", B(copies=1, crash=1), partitions=2, scattered=True, deadline=True, letters=True),
    Sc("dead letter, redis crash", B(crash=1, redis=1, unknown=1), may_fail=True, letters=True),
    Sc("dead letter replayed, redis crash", B(crash=1, redis=1, replay=1), may_fail=True, letters=True),
    Sc("dead letter replayed, zombie", B(freeze=1, replay=1), retries=1, letters=True),
    Sc("dead letter replayed, expiry", B(crash=1, replay=1, expire=2), may_fail=True, letters=True),
    Sc("dead letter replayed, cleared", B(replay=1), may_fail=True, letters=True, clear=True),
    Sc("dead letter replayed, copies elsewhere", B(copies=1, replay=1), partitions=2, scattered=True, may_fail=True,
       letters=True),
    Sc("dead letter replayed, cancelled", B(crash=1, replay=1), may_fail=True, letters=True, cancel=True),
    Sc("chain, zombie", B(crash=1, freeze=1), chain=True),
    Sc("chain, redis crash", B(crash=1, redis=1), chain=True),
    Sc("chain, retry", B(crash=1, freeze=1), chain=True, retries=1),
    Sc("cancel, zombie", B(crash=1, freeze=1), retries=1, cancel=True),
    Sc("cancel, redis crash, zombie", B(freeze=1, redis=1), retries=1, cancel=True),
    Sc("cancel, repeated calls", B(crash=1, repeat=1), retries=1, cancel=True),
    Sc("expires, redis crash, letters", B(crash=1, redis=1), deadline=True, letters=True, retries=1),
    Sc("expires, cancel", B(crash=1, freeze=1), deadline=True, cancel=True, retries=1),
    Sc("expiry, retry", B(crash=1, freeze=1, expire=2), retries=1),
    Sc("expiry, two tasks", B(crash=1, freeze=1, expire=1), tasks=2, window=2),
    Sc("expiry, unknown", B(crash=1, expire=2, unknown=1), retries=1),
    Sc("hand-over, two tasks", B(crash=1, hand_over=1), tasks=2, window=2),
    Sc("clear, zombie", B(freeze=1), clear=True),
    Sc("clear, cancel", B(crash=1), clear=True, cancel=True, retries=1),
    Sc("clear, repeated calls", B(repeat=1), clear=True, retries=1),
    Sc("clear, retry, crash", B(crash=1), clear=True, retries=1),
    Sc("wipe, zombie", B(freeze=1, wipe=1), retries=1),
    Sc("wipe, expiry", B(freeze=1, wipe=1, expire=1)),
    Sc("chain, wipe", B(crash=1, wipe=1), chain=True),
]


class Lack(NamedTuple):
    """A rule that is missing, and a scenario in which that shows."""

    rules: tuple[str, ...]
    scenario: Sc

    @property
    def broken(self) -> Sc:
        return self.scenario._replace(rules=without(*self.rules))


# With one rule off, something breaks. Each of tests/model/rules.py is here at least once.
LACKS = [
    Lack(("settle",), Sc("retry", B(crash=1), retries=1)),
    Lack(("settle",), Sc("chain", B(crash=1), chain=True)),
    Lack(("settle",), Sc("dead letter", B(crash=1), may_fail=True, letters=True)),
    Lack(("by_attempt",), Sc("retry, copies", B(copies=1), retries=1)),
    Lack(("claim_writes",), Sc("cancel", cancel=True)),
    Lack(("claim_writes",), Sc("copies elsewhere", B(copies=1), partitions=2, scattered=True)),
    Lack(("ask_claimed",), Sc("cancel", cancel=True)),
    Lack(("home",), Sc("copies elsewhere", B(copies=1), partitions=2, scattered=True)),
    Lack(("first_wins", "fence"), Sc("basic", B(freeze=1))),
    Lack(("by_life",), Sc("dead letter replayed", B(replay=1), may_fail=True, letters=True)),
    Lack(("stale_stops", "fenced_commit"), Sc("basic", B(freeze=1))),
    Lack(("fenced_commit",), Sc("expiry", B(freeze=1, expire=1))),
    Lack(("known_durable",), Sc("retry, redis crash", B(redis=1, crash=1), retries=1)),
    Lack(("rewrite_first", "copies_wait"), Sc("retry, two redis crashes", B(redis=2), retries=1)),
    Lack(("claim_again",), Sc("cancel, redis crash", B(redis=1), cancel=True)),
    Lack(("ttl_after_commit",), Sc("expiry", B(crash=1, expire=1))),
    Lack(("ttl_after_commit",), Sc("cancel, expiry", B(expire=1), cancel=True)),
    Lack(("submit_limit", "ttl_after_commit"), Sc("expiry", B(expire=1))),
    Lack(("submit_limit",), Sc("dead letter replayed, expiry", B(replay=1, expire=1), may_fail=True, letters=True)),
    Lack(("hand_over_waits",), Sc("hand-over", B(hand_over=1), retries=1)),
    Lack(("clear_number",), Sc("clear", clear=True)),
    Lack(("ends_read_first",), Sc("clear", clear=True)),
    Lack(("lease",), Sc("cancel", B(freeze=1), cancel=True)),
    Lack(("lease",), Sc("retry", B(freeze=1), retries=1)),
    Lack(("fence",), Sc("expiry", B(freeze=1, expire=1))),
    Lack(("kafka_epochs",), Sc("expiry, wipe", B(freeze=1, wipe=1, expire=1))),
    Lack(("commit_last",), Sc("basic", B(crash=1))),
    Lack(("record_first",), Sc("dead letter", B(crash=1), may_fail=True, letters=True)),
]

# More than is promised, each with whether it holds all the same.
LIMITS = [
    (True, Sc("a result that was read survives a crash of Redis while its worker lives", B(redis=1), steadfast=True)),
    (False, Sc("... and if the worker dies as well", B(redis=1, crash=1), steadfast=True)),
    (False, Sc("a confirmed cancellation survives a crash of Redis", B(redis=1), cancel=True, steadfast=True,
               about=("CANCELLED",))),
    (False, Sc("a confirmed cancellation survives a wiped Redis", B(wipe=1), cancel=True, steadfast=True,
               about=("CANCELLED",))),
]
