"""Sharing the partitions out among the hosts of a group: fair, few moves, never two at once, and quick with many."""
from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtq.config import Settings
from yadtq.transport.connection import import_kafka
from yadtqd.group_member import GroupMember
from yadtqd.holding import Holding
from yadtqd.sharing import grant, share

names = st.integers(0, 12).map("h{:02}".format)
counts = st.integers(0, 40)


@st.composite
def groups(draw: st.DrawFn) -> tuple[int, dict[str, list[int]]]:
    """A number of partitions, and who holds which; nothing is held twice."""
    count = draw(counts)
    members = draw(st.lists(names, min_size=1, max_size=12, unique=True))
    owners = draw(st.lists(st.sampled_from([*members, None]), min_size=count, max_size=count))
    return count, {member: [p for p, owner in enumerate(owners) if owner == member] for member in members}


def test_examples() -> None:
    assert share(5, {"a": [], "b": []}) == {"a": [0, 1, 2], "b": [3, 4]}
    assert share(4, {"a": [0, 1, 2, 3], "b": []}) == {"a": [0, 1], "b": [2, 3]}
    assert grant({"a": [0, 1], "b": [2, 3]}, {"a": [0, 1, 2, 3], "b": []}) == {"a": [0, 1], "b": []}
    assert grant({"a": [0, 1], "b": [2, 3]}, {"a": [0, 1, 3], "b": []}) == {"a": [0, 1], "b": [2]}
    assert share(3, {}) == {}


def test_what_a_member_names_last_goes_first() -> None:
    assert share(2, {"a": [1, 0], "b": []}) == {"a": [1], "b": [0]}


@given(groups())
def test_everything_is_shared_out_evenly_and_with_the_fewest_moves(group: tuple[int, dict[str, list[int]]]) -> None:
    count, holds = group
    hands = share(count, holds)
    assert sorted(p for hand in hands.values() for p in hand) == list(range(count))
    sizes = sorted(len(hand) for hand in hands.values())
    assert sizes[-1] - sizes[0] <= 1
    moved = sum(len(set(held) - set(hands[member])) for member, held in holds.items())
    least, more = divmod(count, len(holds))
    dues = [least + 1] * more + [least] * (len(holds) - more)
    richest = sorted((len(held) for held in holds.values()), reverse=True)
    assert moved == sum(max(0, has - due) for has, due in zip(richest, dues, strict=True))


@given(groups())
def test_nobody_is_granted_what_another_holds_and_two_rounds_are_enough(
        group: tuple[int, dict[str, list[int]]]) -> None:
    count, holds = group
    first = grant(share(count, holds), holds)
    for member, hand in first.items():
        for other, held in holds.items():
            assert other == member or not set(hand) & set(held)
    second = grant(share(count, first), first)          # all have let go what they were to
    assert sorted(p for hand in second.values() for p in hand) == list(range(count))
    assert all(set(first[member]) <= set(second[member]) for member in first)
    assert share(count, second) == second


@given(groups(), st.data())
def test_what_two_claim_neither_gets_at_once(group: tuple[int, dict[str, list[int]]], data: st.DataObject) -> None:
    count, holds = group
    if len(holds) < 2 or not count:
        return
    contested = data.draw(st.integers(0, count - 1))
    holds = {member: sorted({*held, contested}) for member, held in holds.items()}
    assert all(contested not in hand for hand in grant(share(count, holds), holds).values())


@given(st.lists(st.sets(names, min_size=1), min_size=1, max_size=6), counts)
def test_hosts_come_and_go_and_only_what_must_moves(memberships: list[set[str]], count: int) -> None:
    hands: dict[str, list[int]] = {}
    for members in memberships:
        holds = {member: hands.get(member, []) for member in members}
        orphans = count - sum(map(len, holds.values()))
        before, hands = holds, share(count, holds)
        moved = sum(len(set(held) - set(hands[member])) for member, held in before.items())
        newcomers = sum(len(hands[member]) for member in members if not before[member])
        assert moved <= newcomers
        assert orphans + moved == sum(len(set(hands[m]) - set(before[m])) for m in members)


def test_a_thousand_hosts_take_a_fraction_of_a_second() -> None:
    hands = share(4000, {f"h{n}": [] for n in range(1000)})
    del hands["h0"]
    began = time.process_time()
    after = grant(share(4000, hands), hands)
    assert time.process_time() - began < 0.5            # the library's own takes five seconds
    assert sum(map(len, after.values())) == 4000


# ---- in kafka-python ------------------------------------------------------------------------------------------------
class Cluster:
    def __init__(self, partitions: int) -> None:
        self._partitions = set(range(partitions))

    def topics(self) -> set[str]:
        return {"t"}

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return self._partitions if topic == "t" else None


def joined(name: str, assignor: Any, topics: tuple[str, ...] = ("t",)) -> Any:
    """A member as the leader sees it: what it sent, over the wire."""
    from kafka.protocol.consumer.metadata import ConsumerProtocolSubscription

    sent = assignor.metadata(topics).encode()
    return SimpleNamespace(member_id=name, metadata=ConsumerProtocolSubscription.decode(sent))


def test_a_leader_with_either_assignor_understands_both() -> None:
    import_kafka()
    from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

    from yadtqd.group_assignor import GroupAssignor

    ours, theirs, new = GroupAssignor("t", lambda: [0, 1, 3]), CooperativeStickyAssignor(), GroupAssignor("t", list)
    assert ours.name == theirs.name
    assert ours.version == theirs.version
    for leader in (ours, theirs):
        members = [joined("a", ours), joined("b", new), joined("c", theirs)]
        given = {name: answer.encode() for name, answer in leader.assign(Cluster(5), members).items()}
        hands = {name: hand(data) for name, data in given.items()}
        assert set(hands["a"]) < {0, 1, 3}              # one is to go, and nobody has it yet
        assert len(hands["a"]) == 2
        assert not {p for name in "bc" for p in hands[name]} & {0, 1, 3}


def test_another_number_makes_the_group_arrange_itself_anew() -> None:
    import_kafka()
    from yadtqd.group_assignor import GroupAssignor

    assignor = GroupAssignor("t", lambda: [1])
    before = assignor.metadata({"t"}).encode()
    assert assignor.metadata({"t"}).encode() == before
    assignor.asks += 1
    assert assignor.metadata({"t"}).encode() != before


def hand(data: bytes) -> list[int]:
    from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment

    return [tp.partition for tp in ConsumerProtocolAssignment.decode(data).partitions()]


def test_members_with_other_topics_are_left_to_the_library() -> None:
    import_kafka()
    from yadtqd.group_assignor import GroupAssignor

    leader = GroupAssignor("t", list)
    given = leader.assign(Cluster(4), [joined("a", leader), joined("b", leader, ("t", "u"))])
    assert sorted(len(hand(answer.encode())) for answer in given.values()) == [2, 2]


# ---- what a member holds --------------------------------------------------------------------------------------------
def test_what_was_revoked_is_held_until_it_is_released() -> None:
    holding = Holding()
    holding.note("assigned", [3, 1, 2])
    assert holding.tell() == [1, 2, 3]
    assert not holding.take_revoked()
    holding.note("revoked", [1, 2])
    assert holding.take_revoked()
    assert not holding.take_revoked()
    assert holding.tell() == [3, 1, 2]                  # what is to go last
    holding.release([1])
    assert not holding.to_tell                          # not before the other one is let go too
    holding.release([2])
    assert holding.to_tell
    assert holding.tell() == [3]
    assert not holding.to_tell
    assert list(holding.events) == [("assigned", [1, 2, 3]), ("revoked", [1, 2])]


def test_what_is_released_while_the_group_is_being_told_is_told_again() -> None:
    holding = Holding()
    holding.note("assigned", [1, 2])
    holding.note("revoked", [2])
    assert holding.tell() == [1, 2]                     # the join is under way
    holding.release([2])
    assert holding.to_tell


def test_what_comes_back_before_it_was_released_stays() -> None:
    holding = Holding()
    holding.note("assigned", [1])
    holding.tell()
    holding.note("revoked", [1])
    holding.note("assigned", [1])
    holding.release([1])
    assert not holding.to_tell
    assert holding.tell() == [1]


def test_who_has_lost_its_place_holds_nothing_of_what_it_was_about_to_let_go_either() -> None:
    holding = Holding()
    holding.note("assigned", [1, 2])
    holding.note("revoked", [2])
    holding.note("lost", [1])
    assert holding.tell() == []
    holding.release([2])
    assert not holding.to_tell
    assert holding.events[-1] == ("lost", [1, 2])       # so that nothing more is committed of 2


@pytest.mark.parametrize("lost", [True, False])
def test_a_place_that_is_lost_while_joining_is_noticed_when_the_member_says_what_it_holds(lost: bool) -> None:
    member: Any = GroupMember(Settings(), "g", "t", who="test", reads=False, longest_turn_s=9)
    assert member._holds() == []                        # before it has ever joined
    member.stable_turns = 9
    member._holding.note("assigned", [1])
    member._holding.note("revoked", [1])
    assigned: list[Any] = []
    member.consumer = SimpleNamespace(
        _coordinator=SimpleNamespace(_generation=SimpleNamespace(is_lost=lambda: lost)),
        _subscription=SimpleNamespace(assign_from_subscribed=assigned.append))
    assert member._holds() == ([] if lost else [1])
    assert assigned == ([[]] if lost else [])
    assert member.events[-1] == (("lost", [1]) if lost else ("revoked", [1]))


def test_a_new_process_tells_what_it_was_given_and_keeps_what_an_earlier_one_was_letting_go() -> None:
    """The earlier one may have died over a hand-over, of which the group waited to hear."""
    holding = Holding()
    holding.keep([5])
    assert holding.tell() == [5]
    holding.note("assigned", [1])
    assert not holding.to_tell
    holding.release([5])
    assert holding.to_tell
    assert holding.tell() == [1]
    assert not holding.to_tell
    fresh = Holding()
    assert fresh.tell() == []
    assert not fresh.to_tell
    fresh.note("assigned", [1])
    assert fresh.to_tell
    assert fresh.tell() == [1]
    assert not fresh.to_tell
    fresh.note("assigned", [2])
    assert not fresh.to_tell                            # what is added the group knows, it said so itself
