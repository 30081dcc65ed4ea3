"""numpy arrays and scalars as bytes: dtype, shape and the elements in C order. Imported by `codec` when it meets one.

Pure functions, for any thread. Never handles objects, records or anything else whose bytes alone do not say what they
mean on another machine, and never allocates more than the bytes that are there.
"""
from __future__ import annotations

import math
import re
from typing import Any

import msgspec
import numpy as np

# Numbers and bools of fixed size, strings, bytes, and times with their unit; as dtype.str writes them. No long double:
# its 16 bytes mean different things on different machines.
_DTYPE = re.compile(r"[<>|](b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,8}|"
                    r"[mM]8(\[\d*(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?)")
_MAX_ITEM_BYTES = 16_777_216        # of one element: numpy allocates one even where there is none




_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[str, tuple[int, ...], memoryview]).decode


def dump(value: Any) -> tuple[bytes, bool]:
    """An array or a numpy scalar as bytes, and whether it is a scalar. Raises ValueError for what can't be encoded."""
    scalar = isinstance(value, np.generic)
    if not scalar and type(value) is not np.ndarray:
        kind = type(value)
        hint = "; pass numpy.asarray(...) if a plain array will do" if isinstance(value, np.ndarray) else ""
        raise ValueError(f"a value of type {kind.__module__}.{kind.__qualname__} can't be encoded{hint}")
    array = np.asarray(value)
    if not _DTYPE.fullmatch(array.dtype.str):
        raise ValueError(f"an array of dtype {array.dtype} can't be encoded; numbers, bools, strings, bytes, "
                         "datetime64 and timedelta64 can")
    return _pack((array.dtype.str, array.shape, array.tobytes())), scalar


def load(payload: memoryview) -> Any:
    """The array that `dump` was given, writable and aligned. Raises ValueError for bytes that it never made."""
    spelled, shape, data = _unpack(payload)
    if not _DTYPE.fullmatch(spelled):
        raise ValueError(f"{spelled[:40]!r} is no dtype that travels")
    dtype = np.dtype(spelled)
    size = math.prod(shape)
    if len(shape) > 32 or min(shape, default=0) < 0 or max(shape, default=0) >= 1 << 48:
        raise ValueError("an array's shape is impossible")
    if dtype.itemsize > _MAX_ITEM_BYTES or size * dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} has {len(data)} bytes of elements")
    if size == 0:
        return np.empty(shape, dtype)
    return np.frombuffer(data, dtype).reshape(shape).copy()
