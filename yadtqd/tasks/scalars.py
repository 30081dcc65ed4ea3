"""Addition to root on Python's own numbers: ints exactly, floats as Python computes them.

Pure functions, run in a worker's processor for each number or each element of a list. The size of an integer is bounded
before it is computed. Operands come checked (`operands.check_number`); results are checked by the caller
(`Work.keep`), and an OverflowError of float arithmetic is left to the caller too.
"""
from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import reduce

from yadtq.errors import DivisionByZero, DomainError, ResultOverflow
from yadtqd.tasks.operands import MAX_INTEGER_BITS, Number, Work


def add(numbers: Sequence[Number], _work: Work) -> Number:
    """The sum, from left to right (not `sum`, which compensates for rounding only since Python 3.12)."""
    return reduce(operator.add, numbers)


def subtract(numbers: Sequence[Number], _work: Work) -> Number:
    """The first less all others."""
    return reduce(operator.sub, numbers)


def multiply(numbers: Sequence[Number], work: Work) -> Number:
    """The product, from left to right."""
    product = numbers[0]
    for number in numbers[1:]:
        if type(product) is int and type(number) is int:
            bits = product.bit_length() + number.bit_length()
            if bits > MAX_INTEGER_BITS + 1:  # a product has the bits of its factors together, or one less
                raise work.too_large(bits)
        product = product * number
    return product


def divide(numbers: Sequence[Number], work: Work) -> Number:
    """The first by all others: an int where ints divide evenly, else the float nearest to the true quotient."""
    for index, divisor in enumerate(numbers[1:], 1):
        if divisor == 0:
            raise work.error(DivisionByZero, index, "is zero, and nothing can be divided by zero")
    if all(type(number) is int for number in numbers):
        divisor = numbers[1] if len(numbers) == 2 else multiply(numbers[1:], work)
        quotient, remainder = divmod(numbers[0], divisor)
        return quotient if remainder == 0 else numbers[0] / divisor
    return reduce(operator.truediv, numbers)


def power(numbers: Sequence[Number], work: Work) -> Number:
    """The first to the power of the second."""
    base, exponent = numbers
    if exponent < 0 and base == 0:
        raise work.error(DivisionByZero, 0, "is zero and can't be raised to a negative power")
    if type(base) is int and type(exponent) is int:
        return _integer_power(base, exponent, work)
    if base < 0 and type(exponent) is float and not exponent.is_integer():
        raise work.error(DomainError, 0, "is negative, and has no real power with an exponent that is not whole")
    return float(base**exponent)


def _integer_power(base: int, exponent: int, work: Work) -> Number:
    if exponent == 0:
        return 1
    if abs(base) <= 1:  # -1, 0 and 1 have small powers however large the exponent
        return base if exponent % 2 else base * base
    at_least = (base.bit_length() - 1) * abs(exponent)  # bits of the power; at most twice as many
    if exponent >= 0:
        if at_least >= MAX_INTEGER_BITS:
            raise work.too_large(at_least)
        return int(base**exponent)
    if at_least > 1100:
        return 0.0  # below 2**-1074, the smallest float
    return float(1 / base**-exponent)


def root(numbers: Sequence[Number], work: Work) -> Number:
    """The root of the first, its degree being the second (2 when there is none)."""
    radicand = numbers[0]
    degree = numbers[1] if len(numbers) == 2 else 2
    if degree == 0:
        raise work.error(DomainError, 1, "is zero, and there is no root of degree zero")
    if radicand == 0 and degree < 0:
        raise work.error(DivisionByZero, 0, "is zero and has no root of a negative degree")
    whole = type(degree) is int or float(degree).is_integer()
    if radicand < 0 and not (whole and int(degree) % 2):
        kind = "an even" if whole else "a broken"
        raise work.error(DomainError, 0, f"is negative, and a negative number has no real root of {kind} degree")
    found = _whole_root(radicand, abs(int(degree))) if whole else radicand ** (1 / abs(degree))
    if degree < 0:
        if found == 0:  # 1e-300 to a broken degree such as 0.5, which has gone below the smallest float
            raise work.error(ResultOverflow, None, "the result is too large for a float")
        found = divide((1, found), work)
    exact = type(radicand) is int and type(degree) is int
    return found if exact else float(found)


def _whole_root(radicand: Number, degree: int) -> Number:
    """The real root of whole degree; an int where it is one, for a float such as 27.0 too."""
    if type(radicand) is float and not radicand.is_integer():
        size = _float_root(abs(radicand), degree)
    else:
        size = _integer_root(abs(int(radicand)), degree)
    return -size if radicand < 0 else size


def _integer_root(radicand: int, degree: int) -> Number:
    if radicand <= 1 or degree == 1:
        return radicand
    if degree >= radicand.bit_length():
        return _float_root(radicand, degree)  # between 1 and 2
    candidate = math.isqrt(radicand) if degree == 2 else _floor_root(radicand, degree)
    if candidate**degree == radicand:
        return candidate
    if candidate >= 2**53:
        return float(candidate)  # what the root has beyond it is below the precision of a float
    return _float_root(radicand, degree)


def _floor_root(radicand: int, degree: int) -> int:
    """The largest integer whose power is not above `radicand`: Newton's method, from a start just above the root.

    The start is right to about 45 bits, so the digits double at each step from there on; a crude start (a power of two)
    would need hundreds of steps for a large degree.
    """
    mantissa, exponent = _split_root(radicand, degree)
    start = int(math.ldexp(mantissa, 53))
    start += (start >> 45) + 1
    guess = (start << (exponent - 53) if exponent >= 53 else start >> (53 - exponent)) + 1
    while True:
        better = ((degree - 1) * guess + radicand // guess ** (degree - 1)) // degree
        if better >= guess:
            return guess
        guess = better


def _float_root(radicand: Number, degree: int) -> float:
    if radicand < 2**1023:
        if degree == 2:
            return math.sqrt(radicand)
        if degree == 3:
            return math.cbrt(radicand)
    mantissa, exponent = _split_root(radicand, degree)
    return math.ldexp(mantissa, exponent)


def _split_root(radicand: Number, degree: int) -> tuple[float, int]:
    """The root as (m, e), meaning m * 2**e: right to a few units of the last place, for integers beyond floats too.

    With radicand = f * 2**(q * degree + r), the root is f**(1/degree) * 2**(r/degree) * 2**q, and the first two factors
    are small numbers whatever the radicand.
    """
    if type(radicand) is float:
        fraction, bits = math.frexp(radicand)
    else:
        bits = int(radicand).bit_length()
        fraction = radicand / (1 << bits)
    whole, rest = divmod(bits, degree)
    return fraction ** (1 / degree) * 2.0 ** (rest / degree), whole
