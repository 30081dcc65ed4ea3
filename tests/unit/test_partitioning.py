"""Where a submission goes: in turn, by key, by its own id, and again where it went before."""
from __future__ import annotations

from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st

from yadtq.partitioning import Partitioner, partition_of_key


def test_without_key_partitions_are_taken_in_turn():
    partitioner = Partitioner(start=2)
    assert [partitioner.choose(None, None, 4) for _ in range(6)] == [2, 3, 0, 1, 2, 3]


@given(st.text(min_size=1), st.integers(1, 1000))
def test_a_key_always_means_the_same_partition(key: str, partitions: int):
    chosen = partition_of_key(key, partitions)
    assert 0 <= chosen < partitions
    assert chosen == crc32(key.encode()) % partitions == Partitioner().choose(key, None, partitions)


def test_the_documented_hash_never_changes():
    assert [partition_of_key(key, 12) for key in ("a", "customer-17", "ключ")] == [3, 11, 6]


def test_a_given_id_is_hashed_so_that_its_repetition_goes_the_same_way():
    assert {Partitioner(start=n).choose(None, "order-1", 7) for n in range(20)} == {partition_of_key("order-1", 7)}


def test_what_has_an_unknown_outcome_goes_where_it_went_before():
    partitioner = Partitioner()
    elsewhere = (partition_of_key("order-1", 4) + 1) % 4
    partitioner.keep("order-1", elsewhere)
    assert partitioner.choose(None, "order-1", 4) == partitioner.choose("some key", "order-1", 4) == elsewhere
    partitioner.settled(["order-1"])
    assert partitioner.choose(None, "order-1", 4) == partition_of_key("order-1", 4)


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(Partitioner, "KEPT", 3)
    partitioner = Partitioner()
    for n in range(5):
        partitioner.keep(f"id{n}", 0)
    assert list(partitioner._kept) == ["id2", "id3", "id4"]
