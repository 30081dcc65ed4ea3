"""Lanes, against the simplest thing that could be right: a list of what has not ended, in order."""
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from yadtq.task import TaskMessage
from yadtqd.held import Held
from yadtqd.lanes import Lanes, Parked


def held(offset: int, key: str | None, partition: int = 0) -> Held:
    message = TaskMessage(id=f"{partition}-{offset}", task="t", args=b"", submitted_ms=0, key=key)
    return Held(partition, offset, message, 1)


steps = st.lists(st.tuples(st.sampled_from(["enter", "again", "leave"]), st.sampled_from([None, "a", "b"]),
                           st.integers(0, 1), st.integers(0, 5)), max_size=60)


@given(steps)
def test_one_at_a_time_and_in_order(chosen: list[tuple[str, str | None, int, int]]) -> None:
    lanes, known = Lanes(), list[Held]()
    for number, (what, key, partition, which) in enumerate(chosen):
        if what == "enter":
            known.append(held(number, key, partition))
        if not known:
            continue
        one = known[-1] if what == "enter" else known[which % len(known)]
        before = [o for o in known if (o.message.key, o.partition) == (one.message.key, one.partition)]
        if what == "leave":
            turn = lanes.leave(one)
            if one.message.key is not None and before[0] is one:
                assert turn is (before[1] if len(before) > 1 else None)
                known.remove(one)
            else:
                assert turn is None
        else:
            assert lanes.enter(one) == (one.message.key is None or before[0] is one)
        keyed = [(o.message.key, o.partition) for o in known if o.message.key is not None]
        assert lanes.waiting == len(keyed) - len(set(keyed))


@given(st.lists(st.integers(0, 50)), st.integers(0, 50))
def test_what_is_parked_comes_when_it_is_due(due: list[int], now: int) -> None:
    parked = Parked()
    for offset, at in enumerate(due):
        parked.put(held(offset, "k"), at)
    assert parked.left_s(now) == (max(0, min(due) - now) / 1000 if due else float("inf"))
    taken = [(due[one.offset], one.offset) for one in parked.take_due(now)]
    assert taken == sorted((at, offset) for offset, at in enumerate(due) if at <= now)
    assert len(parked) == len(due) - len(taken)
