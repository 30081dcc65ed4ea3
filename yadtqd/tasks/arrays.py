"""Addition to root on numpy arrays, element by element: dtype kept, nothing wrapped around in silence.

Runs in a worker's processor, in the call that brought an array. The only module of the shipped tasks that imports
numpy, and so it is imported only then. Integer arrays are computed in their own dtype when the range of the operands
shows that no element can overflow, and otherwise with Python's integers and then checked: numpy wraps around unasked.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yadtq.errors import (
    DivisionByZero,
    DomainError,
    OperandTypeError,
    ResultOverflow,
    ShapeMismatch,
)
from yadtqd.tasks.operands import MAX_ELEMENTS, Number, Work, check_number, each_element, is_array

Array = NDArray[Any]
Range = tuple[int, int]     # the smallest and the largest element
FloatOperation = Callable[[Work, Sequence[Array]], Array]


def compute(work: Work, operation: str, operands: Sequence[Any], round_to: int | None) -> Any:
    """The result of `operation` ("addition" to "root"): an array, or a numpy scalar when no operand is more than one.

    Arrays and lists are broadcast as numpy does it. A number takes the dtype of the arrays beside it (an int array with
    a float becomes float64); a list counts as an array of int64 or float64.
    """
    values = [as_operand(work, index, operand) for index, operand in enumerate(operands)]
    shape = _common_shape(work, values)
    dtype = _common_dtype(work, values)
    if dtype.kind in "iu" and operation in _INTEGER:
        result = _INTEGER[operation](work, values, dtype)
    else:
        floats = dtype if dtype.kind == "f" else np.dtype(np.float64)
        result = _with_floats(work, _FLOAT[operation], values, floats)
    result = np.broadcast_to(rounded_array(work, np.asarray(result), round_to), shape)
    if any(isinstance(operand, np.ndarray | list | tuple) for operand in operands):
        return np.array(result)
    return result[()]


def as_operand(work: Work, index: int, operand: Any) -> Array | int | float:
    """An operand as an array, or as Python's number if it is one; raises for what can't be worked with."""
    if isinstance(operand, list | tuple):
        return _array_of_list(work, index, operand)
    if not is_array(operand):
        check_number(work, index, operand)
        return operand  # type: ignore[no-any-return]
    if isinstance(operand, np.ndarray) and type(operand) is not np.ndarray:
        raise work.error(OperandTypeError, index, f"is of type {type(operand).__name__}, not a plain numpy array")
    array = np.asarray(operand)
    if array.dtype.kind not in "iuf":
        raise work.error(OperandTypeError, index, f"is an array of {array.dtype}, not of integers or floats")
    if array.dtype.kind == "f":
        refuse(work, DomainError, index, ~np.isfinite(array),
               "is not finite, and only finite numbers can be worked with")
    return array


def refuse(work: Work, kind: Any, index: int | None, bad: Any, text: str) -> None:
    """Raises an error that names the first place where `bad` holds, if there is one."""
    bad = np.asarray(bad, dtype=bool)
    if not bad.any():
        return
    work.path.extend(int(i) for i in np.argwhere(bad)[0])
    raise work.error(kind, index, text)


def _array_of_list(work: Work, index: int, operand: Sequence[Any]) -> Array:
    kinds = set()

    def leaf(elements: Sequence[Any]) -> Any:
        number = elements[0].item() if isinstance(elements[0], np.generic) else elements[0]
        check_number(work, index, number)
        kinds.add(type(number))
        return number

    numbers = each_element(work, [operand], leaf)
    dtype = np.dtype(np.float64 if float in kinds else np.int64)
    try:
        return np.array(numbers, dtype=dtype)
    except OverflowError:
        raise work.error(ResultOverflow, index, f"has an integer that does not fit {dtype}, as which a list beside an "
                         "array counts") from None
    except ValueError:
        raise work.error(ShapeMismatch, index, "has rows of different lengths, and can't be used beside "
                         "an array") from None


def _common_shape(work: Work, values: Sequence[Any]) -> tuple[int, ...]:
    shapes = [np.shape(value) for value in values]
    shape: tuple[int, ...] = shapes[0]
    for index, other in enumerate(shapes[1:], 1):
        try:
            shape = np.broadcast_shapes(shape, other)
        except ValueError:
            raise work.error(ShapeMismatch, index, f"has the shape {other}, which does not go with {shape}") from None
    size = reduce(lambda total, length: total * length, shape, 1)
    if size > max(MAX_ELEMENTS, *(np.size(value) for value in values)):
        raise work.error(ResultOverflow, None, f"the result would have {size:,} elements; {MAX_ELEMENTS:,} are "
                         "the limit")
    return shape


def _common_dtype(work: Work, values: Sequence[Any]) -> np.dtype[Any]:
    dtypes = [value.dtype for value in values if isinstance(value, np.ndarray)]
    dtype = np.result_type(*dtypes)
    if dtype.kind == "f" and all(each.kind in "iu" for each in dtypes):
        raise work.error(OperandTypeError, None, "unsigned 64-bit integers and signed ones have no common integer "
                         "type; convert one of the arrays")
    if dtype.kind in "iu" and any(type(value) is float for value in values):
        return np.dtype(np.float64)
    return dtype


def rounded_array(work: Work, array: Array, round_to: int | None) -> Array:
    """The array with its elements rounded to so many places; integers stay integers of their dtype."""
    if round_to is None or (array.dtype.kind in "iu" and round_to >= 0):
        return array
    if array.dtype.kind in "iu":
        # By way of Python's integers: rounding 127 to 130 must not become -126.
        places = np.frompyfunc(lambda number: round(int(number), round_to), 1, 1)
        return _narrowed(work, np.asarray(places(array), dtype=object), array.dtype)
    with np.errstate(all="ignore"):
        result = np.asarray(np.round(array, round_to))
    if round_to >= 0:  # where scaling left the range of the dtype, there were no decimals to lose
        return np.where(np.isfinite(result), result, array).astype(array.dtype)
    refuse(work, ResultOverflow, None, np.isinf(result), f"the rounded result is too large for {array.dtype}")
    return np.nan_to_num(result, nan=0.0)  # a power of ten beyond the dtype gives nan: far more than any element


# ---- integers --------------------------------------------------------------------------------------------------------
def _range_of(value: Array | int) -> Range:
    if isinstance(value, np.ndarray):
        return (int(value.min()), int(value.max())) if value.size else (0, 0)
    return value, value


def _fits(span: Range, dtype: np.dtype[Any]) -> bool:
    limits = np.iinfo(dtype)
    return int(limits.min) <= span[0] and span[1] <= int(limits.max)


def _narrowed(work: Work, exact: Array, dtype: np.dtype[Any]) -> Array:
    limits = np.iinfo(dtype)
    too_large = np.asarray((exact < int(limits.min)) | (exact > int(limits.max)), dtype=bool)
    refuse(work, ResultOverflow, None, too_large, f"the result does not fit {dtype}; convert the arrays to a larger "
           "integer type or to floats")
    return exact.astype(dtype)


def _folded(ufunc: Callable[..., Any], spans: Callable[[Range, Range], Range]) -> Callable[..., Array]:
    """Integer addition, subtraction or multiplication, given how the range of the result follows from the operands'."""
    def fold(work: Work, values: Sequence[Any], dtype: np.dtype[Any]) -> Array:
        ranges = [_range_of(value) for value in values]
        span = ranges[0]
        safe = all(_fits(each, dtype) for each in ranges)
        for each in ranges[1:]:
            span = spans(span, each)
            safe = safe and _fits(span, dtype)
        if safe:
            return np.asarray(reduce(ufunc, (np.asarray(value).astype(dtype) for value in values)))
        exact = (np.asarray(value, dtype=object) for value in values)
        return _narrowed(work, np.asarray(reduce(ufunc, exact), dtype=object), dtype)
    return fold


def _product_range(one: Range, other: Range) -> Range:
    corners = [a * b for a in one for b in other]
    return min(corners), max(corners)


def _integer_power(work: Work, values: Sequence[Any], dtype: np.dtype[Any]) -> Array:
    base, exponent = values
    refuse(work, DomainError, 1, np.asarray(exponent) < 0, "is negative: a negative power of an integer array is not "
           "made of integers; make the base an array of floats")
    (low, high), (_, most) = _range_of(base), _range_of(exponent)
    largest = max(abs(low), abs(high))
    if most <= 64 and _fits((-(largest**most), largest**most), dtype) and _fits((low, high), dtype):
        return np.asarray(np.power(np.asarray(base).astype(dtype), np.asarray(exponent).astype(dtype)))
    bases, exponents = np.asarray(base, dtype=object), np.asarray(exponent, dtype=object)
    refuse(work, ResultOverflow, None, ((bases > 1) | (bases < -1)) & (exponents > 64),
           f"the result does not fit {dtype}; no integer type holds it")
    # Above 64 only powers of -1, 0 and 1 are left, and these know but odd and even.
    exponents = np.where(exponents > 64, 64 + exponents % 2, exponents)
    return _narrowed(work, np.asarray(bases**exponents, dtype=object), dtype)


_INTEGER: dict[str, Callable[..., Array]] = {
    "addition": _folded(np.add, lambda a, b: (a[0] + b[0], a[1] + b[1])),
    "subtraction": _folded(np.subtract, lambda a, b: (a[0] - b[1], a[1] - b[0])),
    "multiplication": _folded(np.multiply, _product_range),
    "power": _integer_power,
}


# ---- floats ----------------------------------------------------------------------------------------------------------
def _with_floats(work: Work, operation: FloatOperation, values: Sequence[Any], dtype: np.dtype[Any]) -> Array:
    with np.errstate(all="ignore"):  # what is not finite is found below, and named
        floats = [as_floats(work, index, value, dtype) for index, value in enumerate(values)]
        result = np.asarray(operation(work, floats)).astype(dtype)
    refuse(work, ResultOverflow, None, ~np.isfinite(result), f"the result is too large for {dtype}")
    return result


def as_floats(work: Work, index: int, value: Array | int | float, dtype: np.dtype[Any]) -> Array:
    """An operand as an array of `dtype`; raises ResultOverflow where a number is too large for it."""
    try:
        with np.errstate(all="ignore"):
            array = np.asarray(value).astype(dtype)
    except OverflowError:
        array = np.asarray(np.inf)
    refuse(work, ResultOverflow, index, ~np.isfinite(array), f"is too large for {dtype}")
    return array


def _divide(work: Work, values: Sequence[Array]) -> Array:
    for index, divisor in enumerate(values[1:], 1):
        refuse(work, DivisionByZero, index, divisor == 0, "is zero, and nothing can be divided by zero")
    return np.asarray(reduce(np.divide, values))


def _power(work: Work, values: Sequence[Array]) -> Array:
    base, exponent = values
    refuse(work, DivisionByZero, None, (base == 0) & (exponent < 0), "zero can't be raised to a negative power")
    refuse(work, DomainError, None, (base < 0) & (exponent != np.rint(exponent)),
           "a negative number has no real power with an exponent that is not whole")
    return np.asarray(np.power(base, exponent))


def _root(work: Work, values: Sequence[Array]) -> Array:
    radicand = values[0]
    degree = values[1] if len(values) == 2 else np.asarray(2, dtype=radicand.dtype)
    refuse(work, DomainError, 1, degree == 0, "is zero, and there is no root of degree zero")
    refuse(work, DivisionByZero, None, (radicand == 0) & (degree < 0), "zero has no root of a negative degree")
    refuse(work, DomainError, None, (radicand < 0) & (np.fmod(np.abs(degree), 2) != 1),
           "a negative number has a real root only of an odd degree")
    size, times = np.abs(radicand).astype(np.float64), np.abs(degree).astype(np.float64)
    found = np.where(times == 2, np.sqrt(size), np.where(times == 3, np.cbrt(size), size ** (1 / times)))
    whole = np.rint(found)
    found = np.where(whole**times == size, whole, found)  # 243 has the fifth root 3, not 3.0000000000000004
    return np.asarray(np.copysign(np.where(degree < 0, 1 / found, found), radicand))


_FLOAT: dict[str, FloatOperation] = {
    "addition": lambda _, values: np.asarray(reduce(np.add, values)),
    "subtraction": lambda _, values: np.asarray(reduce(np.subtract, values)),
    "multiplication": lambda _, values: np.asarray(reduce(np.multiply, values)),
    "division": _divide,
    "power": _power,
    "root": _root,
}


# ---- matrices --------------------------------------------------------------------------------------------------------
def multiply_matrices(work: Work, operands: Sequence[Any], round_to: int | None) -> Array:
    """The product of two-dimensional arrays (or lists of rows) whose shapes are known to fit, from left to right."""
    values = [as_operand(work, index, operand) for index, operand in enumerate(operands)]
    dtype = _common_dtype(work, values)
    with np.errstate(all="ignore"):
        if dtype.kind == "f":
            floats = [as_floats(work, index, value, dtype) for index, value in enumerate(values)]
            result = np.asarray(reduce(np.matmul, floats))
            refuse(work, ResultOverflow, None, ~np.isfinite(result), f"the result is too large for {dtype}")
        else:
            integers = [np.asarray(value) for value in values]
            result = reduce(lambda a, b: _narrowed(work, integer_product(a, b), dtype), integers)
    return rounded_array(work, result, round_to)


def integer_product(a: Array, b: Array) -> Array:
    """The exact product of two integer matrices, by the fastest way that their elements allow.

    Up to 2**53 float64 holds integers exactly, and BLAS is an order of magnitude faster on it than numpy is on int64.
    """
    largest = a.shape[1] * max(map(abs, _range_of(a))) * max(map(abs, _range_of(b)))
    if largest < 2**53:
        return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)
    if largest < 2**63:
        return np.asarray(a.astype(np.int64) @ b.astype(np.int64))
    return np.asarray(a.astype(object) @ b.astype(object))


def product_of_lists(a: Sequence[Sequence[Number]], b: Sequence[Sequence[Number]]) -> list[list[Number]] | None:
    """The product of two lists of rows, both of ints or both of floats; None where numpy would not be exact."""
    left, right = np.array(a), np.array(b)
    if left.dtype.kind == right.dtype.kind == "f":
        with np.errstate(all="ignore"):
            return (left @ right).tolist()  # type: ignore[no-any-return]
    if left.dtype != np.int64 or right.dtype != np.int64:
        return None  # integers beyond 64 bits: Python multiplies those itself
    return integer_product(left, right).tolist()  # type: ignore[no-any-return]
