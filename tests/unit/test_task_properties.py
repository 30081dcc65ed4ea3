"""Shows, on generated operands, that the shipped task types agree with exact arithmetic and with numpy, that grouping
int operands in any way gives the same, and that nothing but YADTQ's own errors comes out, in bounded time."""
from __future__ import annotations

import math
import time
from datetime import timedelta
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from yadtq.errors import ResultOverflow, TaskArgumentError
from yadtq.tasks import refused_arguments
from yadtqd import registry
from yadtqd.tasks.arithmetic import addition, division, multiplication, power, root, subtraction
from yadtqd.tasks.matrix import matrix_addition, matrix_multiplication

ALL = registry.load()
ints = st.one_of(st.integers(), st.integers(-(10**60), 10**60))
nonzero = ints.filter(bool)
floats = st.floats(allow_nan=False, allow_infinity=False)

# No deadline for a single example: the cores are shared. What is bounded is bounded by `called` below.
relaxed = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
thorough = settings(relaxed, max_examples=300)


def called(name: str, args, kwargs=None, limit_s: float = 5.0):
    """A task run as a processor runs it; whatever it raises has to be a TaskArgumentError with a sentence."""
    task_type = ALL.get(name)
    kwargs = kwargs or {}
    began = time.process_time()
    try:
        result = task_type.handler(*args, **kwargs)
    except TaskArgumentError as error:
        result = error
    except TypeError as error:
        result = refused_arguments(task_type, error, args, kwargs) or error
    assert time.process_time() - began < limit_s
    if isinstance(result, BaseException):
        assert isinstance(result, TaskArgumentError), repr(result)
        assert type(result) is not TaskArgumentError or kwargs
        assert result.message.startswith(name)
        assert len(result.message) < 400
    return result


# ---- numbers ---------------------------------------------------------------------------------------------------------
@relaxed
@given(st.lists(ints, min_size=2, max_size=6))
def test_ints_are_exact(operands):
    assert addition(*operands) == sum(operands)
    assert subtraction(*operands) == operands[0] - sum(operands[1:])
    assert multiplication(*operands) == math.prod(operands)


@relaxed
@given(ints, st.lists(nonzero, min_size=1, max_size=4))
def test_division_is_exact_or_the_nearest_float(first, others):
    wanted = Fraction(first, math.prod(others))
    result = division(first, *others)
    if wanted.denominator == 1:
        assert type(result) is int
        assert result == wanted
    else:
        assert type(result) is float
        assert result == float(wanted)


@relaxed
@given(st.integers(-50, 50), st.integers(-30, 200))
def test_power_is_exact_or_the_nearest_float(base, exponent):
    assume(base or exponent >= 0)
    wanted = Fraction(base) ** exponent
    result = power(base, exponent)
    assert result == (wanted if wanted.denominator == 1 else float(wanted))
    assert (type(result) is int) == (wanted.denominator == 1)


@relaxed
@given(st.integers(0, 10**30), st.integers(1, 60), st.booleans())
@example(10**20 + 39, 60, True)
def test_a_root_takes_a_power_back(number, degree, negative):
    assume(not negative or degree % 2)
    number = -number if negative else number
    result = root(number**degree, degree)
    assert type(result) is int
    assert result == number


@relaxed
@given(st.integers(2, 10**40), st.integers(2, 90))
def test_a_root_that_is_no_int_lies_between_its_neighbours(radicand, degree):
    result = root(radicand, degree)
    if type(result) is int:
        assert result**degree == radicand
    else:
        slack = Fraction(4, 2**52)  # a few units of the last place
        low, high = Fraction(result) * (1 - slack), Fraction(result) * (1 + slack)
        assert low**degree <= radicand <= high**degree


@relaxed
@given(st.lists(floats, min_size=2, max_size=5))
def test_floats_are_computed_as_python_does(operands):
    for name, fold in [("addition", lambda a, b: a + b), ("subtraction", lambda a, b: a - b),
                       ("multiplication", lambda a, b: a * b)]:
        wanted = operands[0]
        for operand in operands[1:]:
            wanted = fold(wanted, operand)
        result = called(name, operands)
        if math.isfinite(wanted):
            assert result == wanted
        else:
            assert isinstance(result, ResultOverflow)


@relaxed
@given(st.lists(ints, min_size=3, max_size=6), st.integers(2, 4))
def test_how_int_operands_are_grouped_makes_no_difference(operands, cut):
    cut = min(cut, len(operands) - 1)
    for task in addition, multiplication:
        assert task(*operands) == task(task(*operands[:cut]), *operands[cut:])
    assert subtraction(*operands) == subtraction(subtraction(*operands[:cut]), *operands[cut:])


@relaxed
@given(st.lists(st.tuples(ints, ints), max_size=5), ints)
def test_lists_are_the_numbers_one_by_one(pairs, number):
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    assert addition(left, right, number) == [addition(a, b, number) for a, b in pairs]


# ---- arrays ----------------------------------------------------------------------------------------------------------
integer_dtypes = st.sampled_from([np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64])


@relaxed
@given(st.data(), integer_dtypes, st.sampled_from(["addition", "subtraction", "multiplication", "power"]))
def test_integer_arrays_are_exact_or_refused(data, dtype, name):
    shape = data.draw(hnp.array_shapes(max_dims=2, max_side=3))
    a = data.draw(hnp.arrays(dtype, shape))
    b = data.draw(hnp.arrays(dtype, shape, elements=st.integers(0, 70) if name == "power" else None))
    wanted = ALL.get(name).handler(a.tolist(), b.tolist())  # Python's integers, shown right above
    limits = np.iinfo(dtype)
    fits = all(limits.min <= n <= limits.max for n in np.asarray(wanted, dtype=object).ravel())
    result = called(name, [a, b])
    if fits:
        assert result.dtype == dtype
        assert result.tolist() == wanted
    else:
        assert isinstance(result, ResultOverflow)


@relaxed
@given(st.data(), st.sampled_from([np.float32, np.float64]),
       st.sampled_from(["addition", "multiplication", "division"]))
def test_float_arrays_agree_with_numpy(data, dtype, name):
    shape = data.draw(hnp.array_shapes(max_dims=2, max_side=3))
    finite = {"allow_nan": False, "allow_infinity": False}
    a = data.draw(hnp.arrays(dtype, shape, elements=finite))
    b = data.draw(hnp.arrays(dtype, shape, elements=finite))
    with np.errstate(all="ignore"):
        wanted = {"addition": np.add, "multiplication": np.multiply, "division": np.divide}[name](a, b)
    result = called(name, [a, b])
    if np.isfinite(wanted).all():
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, wanted)
    else:
        assert isinstance(result, TaskArgumentError)


# ---- matrices --------------------------------------------------------------------------------------------------------
def matrices(elements, *shape):
    rows, columns = shape
    return st.lists(st.lists(elements, min_size=columns, max_size=columns), min_size=rows, max_size=rows)


sides = st.integers(1, 4)


@relaxed
@given(st.data(), sides, sides, sides, sides)
def test_int_matrices_are_exact_and_their_product_associative(data, i, j, k, m):
    a, b, c = (data.draw(matrices(ints, *shape)) for shape in ((i, j), (j, k), (k, m)))
    wanted = (np.array(a, dtype=object) @ np.array(b, dtype=object)).tolist()
    assert matrix_multiplication(a, b) == wanted
    assert matrix_multiplication(a, b, c) == matrix_multiplication(a, matrix_multiplication(b, c))
    assert matrix_addition(a, a, a) == (np.array(a, dtype=object) * 3).tolist()


@relaxed
@given(st.data(), sides, sides, sides, st.sampled_from([np.int8, np.int64, np.uint64, np.float64]))
def test_array_matrices_agree_with_exact_arithmetic(data, i, j, k, dtype):
    elements = st.floats(-1e100, 1e100) if dtype is np.float64 else None
    a, b = (data.draw(hnp.arrays(dtype, shape, elements=elements)) for shape in ((i, j), (j, k)))
    result = called("matrix_multiplication", [a, b])
    if dtype is np.float64:
        np.testing.assert_allclose(result, a @ b, rtol=1e-9, atol=1e190)
        return
    wanted = a.astype(object) @ b.astype(object)
    limits = np.iinfo(dtype)
    if all(limits.min <= n <= limits.max for n in wanted.ravel()):
        assert result.dtype == dtype
        assert result.tolist() == wanted.tolist()
    else:
        assert isinstance(result, ResultOverflow)


# ---- anything at all -------------------------------------------------------------------------------------------------
huge = st.sampled_from([63, 64, 1024, 33_333, 262_143, 262_144]).map(lambda bits: (1 << bits) - 1)  # too long to print
numbers = st.one_of(st.integers(-3, 3), ints, st.floats(), huge, huge.map(lambda n: -n - 1),
                    st.sampled_from([5e-324, 1e308, -1e308, 0.0, -0.0]))
arrays = st.one_of(
    hnp.arrays(st.one_of(hnp.integer_dtypes(), hnp.floating_dtypes(), hnp.boolean_dtypes(), hnp.unicode_string_dtypes(),
                         hnp.complex_number_dtypes(), hnp.datetime64_dtypes()),
               hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)),
    st.sampled_from([np.float64(2), np.int8(-128), np.uint64(2**64 - 1), np.array([2**62, -(2**63)]), np.bool_(True)]),
    hnp.arrays(np.int64, (2, 2)), hnp.arrays(np.float64, (2, 2), elements=st.floats(-10, 10)),
)
others = st.one_of(st.booleans(), st.none(), st.text(max_size=3), st.binary(max_size=3), st.complex_numbers(),
                   st.decimals(), st.fractions(), st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
                   st.frozensets(st.integers(), max_size=2), st.timedeltas(max_value=timedelta(days=1)))
junk = st.recursive(st.one_of(numbers, numbers, arrays, others),
                    lambda inner: st.one_of(st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple),
                                            st.lists(st.lists(inner, min_size=2, max_size=2), min_size=2, max_size=2)),
                    max_leaves=6)
likely = st.one_of(numbers, arrays, matrices(numbers, 2, 2), st.lists(numbers, min_size=2, max_size=2))
places = st.one_of(st.none(), st.none(), st.integers(-310, 310), st.integers(-3, 3), others)
keywords = st.one_of(st.just({}), places.map(lambda value: {"round_to": value}),
                     st.dictionaries(st.sampled_from(["round", "roundto", "a"]), st.integers(), max_size=2))


@pytest.mark.parametrize("name", list(ALL))
@thorough
@given(args=st.one_of(st.lists(junk, max_size=4), st.lists(likely, min_size=1, max_size=3)), kwargs=keywords)
def test_whatever_arrives_only_typed_errors_come_out(name, args, kwargs):
    result = called(name, args, kwargs)
    for number in np.asarray(result, dtype=object).ravel() if isinstance(result, np.ndarray | float) else ():
        assert math.isfinite(number)
