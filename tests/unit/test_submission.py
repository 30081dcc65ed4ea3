"""What a client checks and encodes before anything is sent."""
from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtq import task
from yadtq.codec import decode
from yadtq.errors import ArgumentNotEncodable, InvalidTask, PayloadTooLarge
from yadtq.names import SHARDS, shard_of
from yadtq.partitioning import Partitioner
from yadtq.records import SubmitEntry
from yadtq.submission import ENTRY_KEYS, Preparer, Stamp
from yadtq.task import decode_message, submitted_ms

STAMP = Stamp(clear_numbers=list(range(SHARDS)), partitions=4, now_ms=1_760_000_000_000)


@task("test_submission.declared")
def declared(x: int) -> int:
    return x


def preparer(limit: int = 900_000) -> Preparer:
    return Preparer(limit, Partitioner())


def test_a_plain_entry_becomes_a_message():
    one = preparer().prepare({"task": "addition", "args": [1, 2.5]}, STAMP)
    message = decode_message(one.value)
    assert message == one.message
    assert (message.task, decode(message.args), message.kwargs) == ("addition", [1, 2.5], b"")
    assert (message.key, message.n) == (None, 0)
    assert message.g == shard_of(message.id)                # its own shard's clear number
    assert message.submitted_ms == STAMP.now_ms
    assert submitted_ms(message.id) > 0
    assert (one.partition, one.key) == (0, None)
    assert one.entry() == SubmitEntry(message.id, "addition", message.g, STAMP.now_ms, 0)


def test_everything_that_can_be_said_of_a_task_arrives():
    entry = {"task": declared, "args": (1,), "kwargs": {"round_to": 2}, "key": "k", "timeout_s": 2, "grace_s": 0,
             "expires_s": 1.5, "max_retries": 3, "retry_backoff_s": 5, "task_id": "order-17", "group": "import 17"}
    assert set(entry) == ENTRY_KEYS - {"delay_s", "due"}     # those are in test_delayed_submission
    one = preparer().prepare(entry, STAMP)
    message = decode_message(one.value)
    assert (message.id, message.task, message.key) == ("order-17", "test_submission.declared", "k")
    assert decode(message.kwargs) == {"round_to": 2}
    assert (message.timeout_s, message.grace_s, message.max_retries, message.retry_backoff_s) == (2.0, 0.0, 3, 5.0)
    assert message.expires_ms == STAMP.now_ms + 1500
    assert one.key == b"k"
    assert message.group == one.entry().group == "import 17"


@pytest.mark.parametrize("group", ["", 17, "a\nb", "a\0b", "x" * 201, "\ud800"])
def test_a_group_that_could_not_be_shown_is_refused(group):
    with pytest.raises(InvalidTask, match="a group is"):
        preparer().prepare({"task": "addition", "group": group}, STAMP)


def test_stamping_anew_changes_the_clear_number_alone():
    one = preparer().prepare({"task": "addition", "args": [1]}, STAMP)
    other = one.stamped(99)
    assert other.message.g == 99
    assert decode_message(other.value) == other.message
    assert (other.message.id, other.partition, other.message.args) == (one.message.id, one.partition, one.message.args)


@pytest.mark.parametrize(("entry", "said"), [
    ({}, "needs a name"),
    ({"args": [1]}, "needs a name"),
    ({"task": ""}, "no name of a task type"),
    ({"task": "with space"}, "no name of a task type"),
    ({"task": "x" * 129}, "128 characters"),
    ({"task": None}, "no name of a task type"),
    ({"task": ["addition"]}, "no name of a task type"),
    ({"task": lambda: 0}, "nor a function declared with @task"),
    ({"task": "addition", "args": "12"}, "list or tuple"),
    ({"task": "addition", "args": 12}, "one argument is [argument]"),
    ({"task": "addition", "kwargs": [("a", 1)]}, "keys are strings"),
    ({"task": "addition", "kwargs": {1: 2}}, "keys are strings"),
    ({"task": "addition", "key": 5}, "a key is a string"),
    ({"task": "addition", "key": ""}, "a key is a string"),
    ({"task": "addition", "key": "\ud800"}, "not valid Unicode"),
    ({"task": "addition", "arg": [1]}, "did you mean 'args'"),
    ({"task": "addition", "colour": "red"}, "known are"),
    ({"task": "addition", "task_id": "a b"}, "no task id"),
    ({"task": "addition", "task_id": 7}, "no task id"),
    ({"task": "addition", "timeout_s": 0}, "above 0"),
    ({"task": "addition", "timeout_s": math.nan}, "above 0"),
    ({"task": "addition", "timeout_s": True}, "above 0"),
    ({"task": "addition", "grace_s": -1}, "0 or more"),
    ({"task": "addition", "expires_s": "5"}, "above 0"),
    ({"task": "addition", "max_retries": -1}, "whole number"),
    ({"task": "addition", "max_retries": 1.0}, "whole number"),
])
def test_a_mistake_is_refused_with_a_sentence(entry, said):
    with pytest.raises(InvalidTask) as refused:
        preparer().prepare(entry, STAMP)
    assert said in refused.value.message


def test_what_cannot_be_encoded_is_named_by_its_path():
    with pytest.raises(ArgumentNotEncodable) as refused:
        preparer().prepare({"task": "addition", "args": [1, {"x": [object()]}]}, STAMP)
    assert refused.value.path == "args[1]['x'][0]"
    with pytest.raises(ArgumentNotEncodable) as refused:
        preparer().prepare({"task": "addition", "kwargs": {"f": print}}, STAMP)
    assert refused.value.path == "kwargs['f']"


@pytest.mark.parametrize("entry", [
    {"task": "addition", "args": ["x" * 2000]},
    {"task": "addition", "kwargs": {"x": "x" * 2000}},
    {"task": "addition", "args": ["x" * 800], "kwargs": {"x": "x" * 800}},      # each fits, both don't
])
def test_what_is_too_large_is_told_with_its_size_and_the_limit(entry):
    with pytest.raises(PayloadTooLarge) as refused:
        preparer(limit=1000).prepare(entry, STAMP)
    assert refused.value.limit == 1000 < refused.value.size
    assert "1,000" in refused.value.message


def test_a_batch_says_which_entries_are_refused_and_keeps_the_others():
    prepared, refused = preparer().prepare_many(
        [{"task": "addition", "args": [1]}, {"task": "bad name"}, "addition", {"task": "addition", "task_id": "a"},
         {"task": "addition", "task_id": "a"}], STAMP)
    assert [one is None for one in prepared] == [False, True, True, False, True]
    assert sorted(refused) == [1, 2, 4]
    assert "appears twice" in refused[4].message
    again, none_refused = preparer().prepare_many([{"task": "addition", "task_id": "a"}] * 2, STAMP, repeats=True)
    assert not none_refused
    assert len(again) == 2


@given(st.lists(st.dictionaries(st.sampled_from([*sorted(ENTRY_KEYS), "other"]),
                                st.none() | st.text() | st.integers() | st.lists(st.integers()) | st.floats(),
                                max_size=4), max_size=4))
def test_whatever_a_batch_holds_it_is_prepared_or_refused(entries):
    prepared, refused = preparer().prepare_many(entries, STAMP)
    assert len(prepared) == len(entries)
    for index, one in enumerate(prepared):
        assert (one is None) == (index in refused)
        if one is not None:
            assert decode_message(one.value).task == entries[index]["task"]
