"""Sharing a host's partitions out among its workers."""
from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from yadtqd.placement import MOST_WORKERS, place

partitions = st.sets(st.integers(0, 40), max_size=40)
limits = st.integers(0, 9)


def test_examples():
    assert place([3, 1], {}) == {1: (1,), 3: (3,)}
    assert place([0, 1, 2, 3, 4], {}, 2) == {0: (0, 2, 4), 1: (1, 3)}
    assert place([], {0: (1,)}, 2) == {}
    assert place([1, 2, 3], {0: (0, 1), 1: (2, 3)}, 2) == {0: (1,), 1: (2, 3)}     # one lost: its worker only
    assert place([2, 3], {0: (0, 1), 1: (2, 3)}, 2) == {0: (3,), 1: (2,)}          # none idle beside a busy one
    assert len(place(range(MOST_WORKERS + 5), {})) == MOST_WORKERS


def sequence(owned_sets, limit):
    now = {}
    for owned in owned_sets:
        before, now = now, place(owned, now, limit)
        yield owned, before, now


@given(st.lists(partitions, min_size=1, max_size=8), limits)
def test_every_partition_has_one_worker_and_none_is_idle_or_overloaded(owned_sets, limit):
    for owned, _, now in sequence(owned_sets, limit):
        hands = [p for hand in now.values() for p in hand]
        assert sorted(hands) == sorted(owned)
        assert len(now) == (min(limit, len(owned)) if limit else len(owned))
        sizes = [len(hand) for hand in now.values()]
        assert all(sizes)
        assert max(sizes, default=0) - min(sizes, default=0) <= 2


@given(partitions, limits, st.integers(0, 40))
def test_one_partition_that_comes_or_goes_disturbs_its_own_worker_only(owned, limit, moved):
    before = place(owned, {}, limit)
    after = place(owned ^ {moved}, before, limit)
    disturbed = [w for w in before if w in after and after[w] != before[w]]
    # Exactly one worker may change, besides one that appears or goes; one more if a worker would be idle otherwise.
    idle_made = len(after) == len(before) and any(p == (moved,) for p in before.values()) and moved in owned
    assert len(disturbed) <= (2 if idle_made else 1)


@given(partitions, st.integers(1, 9))
def test_the_same_partitions_again_change_nothing(owned, limit):
    now = place(owned, {}, limit)
    assert place(owned, now, limit) == now


@given(partitions, st.integers(1, 9), st.integers(1, 9))
def test_another_limit_keeps_what_it_can(owned, limit, other):
    before = place(owned, {}, limit)
    after = place(owned, before, other)
    kept = sum(len(set(before.get(w, ())) & set(hand)) for w, hand in after.items())
    if other <= limit and owned:
        assert kept >= max(len(h) for h in before.values())     # at least one worker keeps all that it had


def test_many_partitions_and_workers_take_no_more_than_a_moment():
    """The supervisor does nothing else meanwhile."""
    began = time.process_time()
    before = place(range(9000), {}, 3000)
    place(range(4500, 10_000), before, 3000)
    assert time.process_time() - began < 1
