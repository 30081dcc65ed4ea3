"""Sizes as people write them."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtq.errors import InvalidTaskType
from yadtq.sizes import parse_size, size_text
from yadtq.tasks import TaskType, task


@pytest.mark.parametrize(("text", "size"), [
    ("512M", 512 << 20), ("512 m", 512 << 20), ("512MiB", 512 << 20), ("512MB", 512_000_000), ("2GiB", 2 << 30),
    ("1.5G", 3 << 29), ("64k", 65536), ("64kB", 64000), ("1T", 1 << 40), ("1000", 1000), ("1000B", 1000), (77, 77),
    ("0.5kiB", 512), (" 3 G ", 3 << 30)])
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("wrong", ["", "M", "-5M", "5 X", "5MM", "1e9", "512M!", "five", 1.5, None, True, b"5M",
                                   "\u0661M"])
def test_what_is_no_size(wrong: object) -> None:
    with pytest.raises(ValueError, match="it is"):
        parse_size(wrong)


@given(st.integers(0, 2**50))
def test_every_number_of_bytes_survives_as_text(size: int) -> None:
    assert parse_size(str(size)) == parse_size(f"{size}B") == size
    shown = parse_size(size_text(size).replace("bytes", ""))
    assert abs(shown - size) <= size / 1000


@pytest.mark.parametrize(("limit", "said"), [
    ("5 parsecs", "it is no size"), ("10M", "at least 64 MiB"), (1, "at least 64 MiB"), (1.5, "a number of bytes or"),
    ([], "a number of bytes or")])
def test_a_memory_limit_that_can_not_work_is_refused_when_declared(limit: object, said: str) -> None:
    with pytest.raises(InvalidTaskType, match=said):
        task("size.refused", isolated=True, memory_limit=limit)(lambda: None)  # type: ignore[call-overload]


def test_a_memory_limit_is_kept_in_bytes() -> None:
    @task("size.kept", isolated=True, memory_limit="1GiB")
    def kept() -> None: ...

    declared = kept.__yadtq__  # type: ignore[attr-defined]
    assert isinstance(declared, TaskType)
    assert declared.memory_limit == 1 << 30
