"""The codec: what goes in comes out, types and all; the rest is refused with its path; hostile bytes do no harm."""
from __future__ import annotations

import collections
import contextlib
import enum
import math
import os
import subprocess
import sys
import tracemalloc
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from yadtq.codec import MAX_DEPTH, decode, encode
from yadtq.errors import ArgumentNotEncodable, InvalidMessage, PayloadTooLarge

LIMIT = 900_000


def around(value: object) -> Any:
    return decode(encode(value, limit=LIMIT))


def same(a: Any, b: Any) -> bool:
    """Equal, of the same types at every level, NaN being equal to NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) and same(p, q) for (x, p), (y, q)
                                        in zip(a.items(), b.items(), strict=True))
    if isinstance(a, set | frozenset):
        return (len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
                and all(any(same(x, y) for x in a) for y in b))
    if isinstance(a, float):
        return repr(a) == repr(b)
    return bool(a == b)


OFFSETS = st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m)))
ATOMS = (st.none() | st.booleans() | st.integers() | st.integers(-2**200, 2**200) | st.floats() | st.text()
         | st.binary() | st.decimals(allow_nan=False) | st.uuids() | st.dates() | st.timedeltas()
         | st.times(timezones=st.none() | OFFSETS) | st.datetimes(timezones=st.none() | OFFSETS)
         | st.complex_numbers(allow_nan=False))
HASHABLE = st.recursive(ATOMS, lambda inner: st.lists(inner, max_size=3).map(tuple)
                        | st.frozensets(inner, max_size=3), max_leaves=5)
NUMBERS = st.sampled_from([f"{order}{kind}" for order in "<>" for kind in
                           ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16", "U3",
                            "S3", "M8[ns]", "M8[25s]", "M8", "m8[us]", "m8[D]")]).map(np.dtype)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Arrays of all dtypes and shapes (0-d and empty ones too), some in Fortran order or with holes in between."""
    dtype = draw(NUMBERS)
    shape = draw(st.lists(st.integers(0, 4), max_size=4).map(tuple))
    count = math.prod(shape)
    if dtype.kind == "b":
        raw = bytes(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    elif dtype.kind == "U":
        words = draw(st.lists(st.text("aß€", max_size=3), min_size=count, max_size=count))
        raw = np.array(words, dtype).tobytes() if words else b""
    else:
        raw = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    array = np.frombuffer(raw, dtype).reshape(shape) if count else np.empty(shape, dtype)
    layout = draw(st.sampled_from(["C", "F", "transposed", "strided"]))
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "transposed":
        return array.T
    return array[::2] if layout == "strided" and array.ndim else array


VALUES = st.recursive(
    ATOMS | arrays() | arrays().filter(lambda a: a.size > 0).map(lambda a: a.flat[0]),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=3).map(tuple) | st.sets(HASHABLE, max_size=3)
    | st.frozensets(HASHABLE, max_size=3) | st.dictionaries(HASHABLE, inner, max_size=3), max_leaves=8)


@given(VALUES)
@example([2**63, 2**64 - 1, 2**64, -2**63, -2**63 - 1, {2**64: 1}])
@example({"a": {1: [], None: {}, 2.5: (), b"": set()}})
@example([True, 1, 1.0, -0.0, math.nan, math.inf])
@example([np.float64(1.5), np.bool_(True), np.str_("x"), np.bytes_(b"x"), np.datetime64("NaT", "s")])
def test_what_goes_in_comes_out(value: object) -> None:
    assert same(around(value), value)


@given(st.lists(st.integers() | st.text(st.characters(exclude_categories=()))) | st.dictionaries(st.text(
    st.characters(exclude_categories=())), st.integers()))
def test_any_text_and_int_come_out_or_are_refused_with_a_path(value: object) -> None:
    try:
        assert around(value) == value
    except ArgumentNotEncodable:
        assert any(0xD800 <= ord(letter) < 0xE000 for part in value for letter in str(part))  # type: ignore[attr-defined]


def test_bytearray_and_special_decimals() -> None:
    assert same(around([bytearray(b"xy")]), [bytearray(b"xy")])
    for text in ("NaN", "-Infinity", "sNaN", "1E+999999", "-0.00"):
        assert str(around(Decimal(text))) == text


@pytest.mark.parametrize("array", [
    np.arange(6, dtype=">i2").reshape(2, 3), np.asfortranarray(np.eye(3)), np.array(7), np.empty((0, 3), "f4"),
    np.arange(10)[::3], np.array(["a", "bcd"]), np.zeros((2, 0, 4), "M8[s]"), np.arange(4, dtype="f2")[::-1],
    np.empty(0, "U"), np.frombuffer(b"12345678", "<f8")])
def test_arrays_keep_dtype_and_shape_and_can_be_written(array: np.ndarray[Any, Any]) -> None:
    out = around(array)
    assert (out.dtype.str, out.shape) == (array.dtype.str, array.shape)
    np.testing.assert_array_equal(out, array)
    assert out.flags.writeable
    assert out.flags.aligned
    assert out.flags.c_contiguous


def test_a_time_zone_becomes_its_offset() -> None:
    from zoneinfo import ZoneInfo
    berlin = datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Etc/GMT-2"))
    assert around(berlin) == berlin
    assert around(berlin).utcoffset() == timedelta(hours=2)


# ---- refused --------------------------------------------------------------------------------------------------------
class Colour(enum.IntEnum):
    RED = 1


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(("value", "path", "said"), [
    ([1, 2, {"x": [object()]}], "args[2]['x'][0]", "object can't be encoded"),
    ([lambda: 1], "args[0]", "code does not travel"),
    ([(1, {2: print})], "args[0][1][2]", "code does not travel"),
    ([{frozenset([object])}], "args[0]{...}{...}", "can't be encoded"),
    ([{object: 1}], "args[0][key <type>]", "can't be encoded"),
    ([Colour.RED], "args[0]", "come back as int; pass int(...)"),
    ([Point(1, 2)], "args[0]", "come back as tuple; pass tuple(...)"),
    ([collections.OrderedDict()], "args[0]", "pass dict(...)"),
    ([Fraction(1, 2)], "args[0]", "fractions.Fraction can't be encoded"),
    ([memoryview(b"x")], "args[0]", "memoryview can't be encoded"),
    (["ok", "\ud800"], "args[1]", "lone surrogate at index 0"),
    ([{"\udfff": 1}], "args[0][key '\\udfff']", "surrogate"),
    ([np.array([1, None])], "args[0]", "dtype object"), ([np.zeros(2, "i4,f8")], "args[0]", "dtype [("),
    ([np.ma.masked_array([1], [True])], "args[0]", "numpy.asarray"),
    ([np.longdouble(1)], "args[0]", "can't be encoded"),
    ([np.rec.array([(1,)])], "args[0]", "numpy.asarray"), ([np.float64], "args[0]", "code does not travel"),
    ([1j, np.random.default_rng()], "args[1]", "can't be encoded"),
])
def test_what_is_refused_says_where_and_why(value: object, path: str, said: str) -> None:
    with pytest.raises(ArgumentNotEncodable) as caught:
        encode(value, limit=LIMIT, name="args")
    assert caught.value.path == path
    assert said in caught.value.message
    assert caught.value.message.startswith(f"{path}: ")


def test_what_is_nested_too_deeply_or_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    twin: dict[str, Any] = {}
    twin["x"] = (1, [twin])
    for value in (endless, twin, nested(MAX_DEPTH + 2)):
        with pytest.raises(ArgumentNotEncodable, match="levels deep, or contains itself") as caught:
            encode(value, limit=LIMIT)
        assert len(caught.value.path) < 200
    assert around(nested(MAX_DEPTH)) == nested(MAX_DEPTH)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_what_is_too_large_names_size_and_limit() -> None:
    with pytest.raises(PayloadTooLarge, match=r"args takes 1,003 bytes encoded; the limit is 1,000") as caught:
        encode("x" * 1000, limit=1000, name="args")
    assert (caught.value.size, caught.value.limit) == (1003, 1000)
    assert len(encode("x" * 997, limit=1000)) == 1000


def test_a_huge_array_is_refused_before_it_is_copied() -> None:
    array = np.zeros(50_000_000, "u1")
    tracemalloc.start()
    with pytest.raises(PayloadTooLarge, match=r"args\[1\] takes 50,000,000 bytes"):
        encode([0, array], limit=LIMIT, name="args")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


# ---- hostile bytes --------------------------------------------------------------------------------------------------
@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_an_invalid_message(data: bytes) -> None:
    with contextlib.suppress(InvalidMessage):
        decode(data)


@given(st.integers(0, 25), st.binary(max_size=60) | VALUES.map(lambda v: encode(v, limit=LIMIT)))
def test_any_extension_is_a_value_or_an_invalid_message(code: int, payload: bytes) -> None:
    with contextlib.suppress(InvalidMessage):
        decode(msgspec.msgpack.encode({"x": [msgspec.msgpack.Ext(code, payload)]}))


@given(VALUES, st.data())
def test_damaged_values_are_values_or_invalid_messages(value: object, data: st.DataObject) -> None:
    good = bytearray(encode(value, limit=LIMIT))
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] = data.draw(st.integers(0, 255))
    for damaged in (bytes(good), bytes(good[:at])):
        with contextlib.suppress(InvalidMessage):
            decode(damaged)


def array_of(dtype: str, shape: object, data: bytes) -> bytes:
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(20, msgspec.msgpack.encode([dtype, shape, data])))


@pytest.mark.parametrize("data", [
    array_of("<f8", [10**12], b""), array_of("<f8", [2**31, 2**31, 2**31, 4], b""), array_of("<f8", [-1], b""),
    array_of("<f8", [-1, -1], bytes(8)), array_of("<f8", [0, 2**62], b""), array_of("|O", [1], bytes(8)),
    array_of("O", [1], bytes(8)), array_of("<f8,<i4", [1], bytes(12)), array_of("(1000000,)<i8", [0], b""),
    array_of("<U0", [10**9], b""), array_of("|S999999999", [0], b""), array_of("<f16", [1], bytes(16)),
    array_of("<f8", [1] * 40, bytes(8)), array_of("<f8", "x", bytes(8)), array_of("<M8[7x]", [1], bytes(8)),
    b"\x91" * 200_000 + b"\x90", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"", b"\x90\x90", b"\x81\x90",
    b"\xc7\x00\x63", b"\xdf\x7f\xff\xff\xff"])
def test_hostile_bytes_are_refused_and_take_no_memory(data: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(InvalidMessage):
        decode(data)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_extensions_nested_without_end_are_refused() -> None:
    data = b"\x90"
    for _ in range(3000):
        data = msgspec.msgpack.encode(msgspec.msgpack.Ext(2, data))
    with pytest.raises(InvalidMessage):
        decode(data)


def test_the_size_is_looked_at_before_the_bytes() -> None:
    with pytest.raises(InvalidMessage, match="11 bytes is larger than 10"):
        decode(b"\x90" * 11, limit=10)
    assert decode(b"\xa9123456789", limit=10) == "123456789"


# ---- the format -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("value", "golden"), [
    ([1, -1, 1.5, "ä", b"\0", None, True], "9701ffcb3ff8000000000000a2c3a4c40100c0c3"),
    (2**64, "c70901010000000000000000"), (-2**63 - 1, "c70901ff7fffffffffffffff"), ((1, 2), "c70302920102"),
    ({3}, "d5039103"), (frozenset({3}), "d5049103"), ({(1,): 2}, "c7060592d502910102"), (bytearray(b"x"), "d40678"),
    (1 + 2j, "d8073ff00000000000004000000000000000"), (Decimal("1.50"), "d608312e3530"),
    (UUID(int=1), "d80900000000000000000000000000000001"), (date(2026, 7, 1), "c70a0a323032362d30372d3031"),
    (time(1, 2), "d70b30313a30323a3030"), (timedelta(1, 2, 3), "c70c0c000000010000000200000003"),
    (datetime(2026, 7, 1), "c7130d323032362d30372d30315430303a30303a3030"),
    (np.array([[1], [2]], ">i2"), "c70e1493a33e6932920201c40400010002"),
    (np.float32(1.5), "c70c1593a33c663490c4040000c03f"), ({"a": [1]}, "81a1619101")])
def test_golden_bytes(value: object, golden: str) -> None:
    assert encode(value, limit=LIMIT).hex() == golden
    assert same(decode(bytes.fromhex(golden)), value)


def test_numpy_is_not_imported_for_plain_values() -> None:
    code = ("import sys; from yadtq.codec import encode, decode; decode(encode([1, (2, 2**70), {3: 's'}], limit=99)); "
            "assert 'numpy' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=dict(os.environ))


@pytest.mark.parametrize("value", [np.eye(2), {"a": [np.float32(1)]}], ids=["array", "scalar"])
def test_an_array_where_numpy_is_missing_is_told_as_such(value: object) -> None:
    code = ("import sys; sys.modules['numpy'] = None; from yadtq import codec, errors\n"
            "assert codec.decode(codec.encode([1, 2**70], limit=99)) == [1, 2**70]\n"
            f"try: codec.decode({encode(value, limit=LIMIT)!r})\n"
            "except errors.NumpyMissing as error: assert 'pip install' in str(error)\n"
            "else: sys.exit('no error')")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=dict(os.environ))
