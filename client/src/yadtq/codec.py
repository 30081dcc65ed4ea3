"""Encodes the values of tasks (arguments and results), so that what went in comes out: msgpack with typed extensions.

Plain values (None, bool, int, float, str, bytes, list, dict) go to msgspec as they are; what msgpack would blur or
can't hold travels as an extension. What is neither is refused with its path: nothing is stored as something else or
pickled. Pure functions, used by clients and workers in any thread; numpy is imported only when an array is met.

    int     of any size                     tuple, set, frozenset, bytearray   come back as such
    float   NaN and infinities too          complex, Decimal, UUID             exact
    dict    any keys that are encodable     date, time, timedelta, datetime    a time zone becomes its offset from UTC
    numpy   arrays and scalars of numbers, bools, strings, bytes, datetime64 and timedelta64; dtype and byte order kept,
            memory order becomes C

Example:
    >>> decode(encode([2**70, (1, 2), {"x": 0.5}], limit=1000))
    [1180591620717411303424, (1, 2), {'x': 0.5}]
"""
from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain
from types import NoneType
from typing import Any
from uuid import UUID

import msgspec

from yadtq.errors import ArgumentNotEncodable, InvalidMessage, NumpyMissing, PayloadTooLarge

MAX_DEPTH = 100                 # of nesting: what is deeper contains itself, or belongs in bytes
_MAX_PATH = 160                 # characters of a path in an error
MAX_BYTES = 16_777_216          # of what `decode` takes unless told otherwise: the most that max_payload_bytes may be

# Extension codes are part of the wire format: never reuse one, never change what one holds.
_INT, _TUPLE, _SET, _FROZENSET, _DICT, _BYTEARRAY, _COMPLEX, _DECIMAL = 1, 2, 3, 4, 5, 6, 7, 8
_UUID, _DATE, _TIME, _TIMEDELTA, _DATETIME, _ARRAY, _NUMPY_SCALAR = 9, 10, 11, 12, 13, 20, 21

_SCALARS = frozenset({NoneType, bool, int, float, str, bytes})
_CONTAINERS = frozenset({list, dict})
_PLAIN = _SCALARS | _CONTAINERS
_HOSTILE = (ValueError, TypeError, ArithmeticError, LookupError, RecursionError, MemoryError, struct.error)
_pack = msgspec.msgpack.Encoder().encode
_Ext = msgspec.msgpack.Ext


def encode(value: object, *, limit: int, name: str = "value") -> bytes:
    """`value` as bytes, at most `limit` of them; `name` begins the path in errors (`args[2]['x'][0]`).

    Raises ArgumentNotEncodable with the path of what can't be encoded, and PayloadTooLarge.
    """
    try:
        data = _pack(value if _is_plain(value, MAX_DEPTH) else _Walk(limit, strict=False).wire(value, MAX_DEPTH))
    except (OverflowError, UnicodeEncodeError):         # an int beyond 64 bits or a lone surrogate: look closely
        data = _strictly(value, limit, name)
    except _Refused as refused:
        raise refused.error(name) from None
    if len(data) > limit:
        raise too_large(name, len(data), limit)
    return data


def decode(data: bytes | bytearray | memoryview, *, limit: int = MAX_BYTES) -> Any:
    """The value that `encode` was given. Raises InvalidMessage, and nothing else, for bytes that `encode` never made.

    Raises NumpyMissing for an array where numpy is not installed.
    `limit` (bytes) is checked first: hostile bytes can become seventy times their size in memory.
    """
    if len(data) > limit:
        raise InvalidMessage(f"a value of {len(data):,} bytes is larger than {limit:,}")
    try:
        return _unpack(data)
    except _HOSTILE as error:                           # TypeError: a list as the key of a dict; MemoryError: a shape
        raise InvalidMessage(f"{len(data):,} bytes are no encoded value: {error}") from None


def too_large(name: str, size: int, limit: int) -> PayloadTooLarge:
    """The error about an encoded value that is larger than the limit."""
    return PayloadTooLarge(f"{name} takes {size:,} bytes encoded; the limit is {limit:,} (max_payload_bytes)",
                           size=size, limit=limit)


# ---- encoding -------------------------------------------------------------------------------------------------------
def _is_plain(value: Any, depth: int) -> bool:
    """Whether msgpack holds the value as it is, but for too large ints; looks at a list's types in one go, in C."""
    kind = type(value)
    if kind is list:
        items = value
    elif kind is dict:
        if not _SCALARS.issuperset(map(type, value)):
            return False
        items = value.values()
    else:
        return kind in _SCALARS
    kinds = set(map(type, items))
    if kinds <= _SCALARS:
        return True
    if depth == 0 or not kinds <= _PLAIN:
        return False
    for item in items:                                  # noqa: SIM110 (a generator here would double the time)
        if type(item) in _CONTAINERS and not _is_plain(item, depth - 1):
            return False
    return True


def _strictly(value: object, limit: int, name: str) -> bytes:
    try:
        return _pack(_Walk(limit, strict=True).wire(value, MAX_DEPTH))
    except _Refused as refused:
        raise refused.error(name) from None


class _Refused(Exception):
    """A value inside can't be encoded; its path is put together on the way out, so that it costs nothing else."""

    def __init__(self, reason: str, size: int = 0, limit: int = 0) -> None:
        super().__init__(reason)
        self.reason, self.size, self.limit = reason, size, limit
        self.path: list[str] = []

    def error(self, name: str) -> ArgumentNotEncodable | PayloadTooLarge:
        path = name + "".join(reversed(self.path))
        if len(path) > _MAX_PATH:
            path = f"{path[:_MAX_PATH // 2]}...{path[-_MAX_PATH // 2:]}"
        if self.size:
            return too_large(path, self.size, self.limit)
        return ArgumentNotEncodable(f"{path}: {self.reason}", path=path)


class _Walk:
    """Turns a value into what msgspec encodes exactly. `strict` looks at each int and str too, which is slower."""

    __slots__ = ("limit", "strict")

    def __init__(self, limit: int, *, strict: bool) -> None:
        self.limit, self.strict = limit, strict

    def wire(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in _SCALARS:
            return self._scalar(value, kind) if self.strict else value
        if (simple := _SIMPLE.get(kind)) is not None:
            return simple(value)
        if kind.__module__.partition(".")[0] == "numpy":
            return self._numpy(value)
        if depth == 0:
            raise _Refused(f"is nested more than {MAX_DEPTH} levels deep, or contains itself")
        if kind is list:
            return value if not self.strict and _is_plain(value, depth) else self._items(value, depth)
        if kind is dict:
            return self._dict(value, depth)
        if (code := _SEQUENCES.get(kind)) is not None:
            return _Ext(code, _pack(self._items(value, depth)))
        raise _Refused(_why_not(value))

    def _scalar(self, value: Any, kind: type) -> Any:
        if kind is int and not -0x8000000000000000 <= value <= 0xFFFFFFFFFFFFFFFF:
            return _Ext(_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
        if kind is str and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise _Refused(f"is no valid text: a lone surrogate at index {error.start}") from None
        return value

    def _items(self, items: Any, depth: int) -> list[Any]:
        done: list[Any] = []
        try:
            for item in items:
                done.append(self.wire(item, depth - 1))
        except _Refused as refused:
            refused.path.append(f"[{len(done)}]" if isinstance(items, list | tuple) else "{...}")
            raise
        return done

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        plain_keys = _SCALARS.issuperset(map(type, value))
        if plain_keys and self.strict:                  # a large int as a key needs the long form as well
            plain_keys = all(type(key) is not int or -0x8000000000000000 <= key <= 0xFFFFFFFFFFFFFFFF for key in value)
        pairs: list[Any] = []
        for key, item in value.items():
            try:
                pairs.append(self.wire(key, depth - 1))
                pairs.append(self.wire(item, depth - 1))
            except _Refused as refused:
                shown = repr(key)[:60] if type(key) in _SCALARS else f"<{type(key).__name__}>"
                refused.path.append(f"[{shown}]" if len(pairs) % 2 else f"[key {shown}]")
                raise
        return dict(zip(pairs[::2], pairs[1::2], strict=True)) if plain_keys else _Ext(_DICT, _pack(pairs))

    def _numpy(self, value: Any) -> Any:
        from yadtq import codec_numpy
        size = getattr(value, "nbytes", 0)
        if isinstance(size, int) and size > self.limit:                 # before it is copied three times
            raise _Refused("", size=size, limit=self.limit)
        try:
            payload, scalar = codec_numpy.dump(value)
        except ValueError as error:
            raise _Refused(str(error)) from None
        return _Ext(_NUMPY_SCALAR if scalar else _ARRAY, payload)


def _timedelta(value: timedelta) -> bytes:
    return struct.pack(">iii", value.days, value.seconds, value.microseconds)


def _iso(value: date | datetime | time) -> bytes:
    return value.isoformat().encode()


_SEQUENCES: dict[type, int] = {tuple: _TUPLE, set: _SET, frozenset: _FROZENSET}
_SIMPLE: dict[type, Callable[[Any], Any]] = {
    bytearray: lambda value: _Ext(_BYTEARRAY, bytes(value)),
    complex: lambda value: _Ext(_COMPLEX, struct.pack(">dd", value.real, value.imag)),
    Decimal: lambda value: _Ext(_DECIMAL, str(value).encode()),
    UUID: lambda value: _Ext(_UUID, value.bytes),
    date: lambda value: _Ext(_DATE, _iso(value)),
    time: lambda value: _Ext(_TIME, _iso(value)),
    datetime: lambda value: _Ext(_DATETIME, _iso(value)),
    timedelta: lambda value: _Ext(_TIMEDELTA, _timedelta(value)),
}


def _why_not(value: object) -> str:
    """What to do with a value of a type that can't be encoded: subclasses of those that can get a hint."""
    kind = type(value)
    said = f"a value of type {kind.__module__}.{kind.__qualname__} can't be encoded".replace("builtins.", "")
    for base in chain(_SEQUENCES, (datetime,), _SIMPLE, (list, dict, bool, int, float, str, bytes)):
        if issubclass(kind, base):
            return f"{said}, since it would come back as {base.__name__}; pass {base.__name__}(...) if that will do"
    if callable(value):
        return f"{said}; code does not travel, only data does"
    return f"{said}; pass numbers, strings, bytes, lists, dicts or numpy arrays"


# ---- decoding -------------------------------------------------------------------------------------------------------
def _dict_of(data: memoryview) -> dict[Any, Any]:
    items = iter(_unpack(data))
    return dict(zip(items, items, strict=True))


def _array_of(data: memoryview) -> Any:
    try:
        from yadtq import codec_numpy
    except ModuleNotFoundError:                         # an optional dependency of the client
        raise NumpyMissing from None
    return codec_numpy.load(data)


_LOADERS: dict[int, Callable[[memoryview], Any]] = {
    _INT: lambda data: int.from_bytes(data, "big", signed=True),
    _TUPLE: lambda data: tuple(_unpack(data)),
    _SET: lambda data: set(_unpack(data)),
    _FROZENSET: lambda data: frozenset(_unpack(data)),
    _DICT: _dict_of,
    _BYTEARRAY: bytearray,
    _COMPLEX: lambda data: complex(*struct.unpack(">dd", data)),
    _DECIMAL: lambda data: Decimal(str(data, "ascii")),
    _UUID: lambda data: UUID(bytes=bytes(data)),
    _DATE: lambda data: date.fromisoformat(str(data, "ascii")),
    _TIME: lambda data: time.fromisoformat(str(data, "ascii")),
    _TIMEDELTA: lambda data: timedelta(*struct.unpack(">iii", data)),
    _DATETIME: lambda data: datetime.fromisoformat(str(data, "ascii")),
    _ARRAY: _array_of,
    _NUMPY_SCALAR: lambda data: _array_of(data)[()],
}


def _extension(code: int, data: memoryview) -> Any:
    loader = _LOADERS.get(code)
    if loader is None:
        raise ValueError(f"extension {code} is unknown; a newer YADTQ may have made it")
    return loader(data)


_unpack: Callable[[bytes | bytearray | memoryview], Any] = msgspec.msgpack.Decoder(ext_hook=_extension).decode
