"""Shows what the arithmetic task types give for numbers, lists and arrays, and how they say no."""
from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.support.same import same
from yadtq.errors import (
    DivisionByZero,
    DomainError,
    OperandCountError,
    OperandTypeError,
    ResultOverflow,
    ShapeMismatch,
    TaskArgumentError,
)
from yadtqd.tasks.arithmetic import addition, division, multiplication, power, root, subtraction
from yadtqd.tasks.operands import MAX_INTEGER_BITS

BIG = 10**400  # beyond any float


@pytest.mark.parametrize(("task", "args", "wanted"), [
    (addition, [1, 2], 3),
    (addition, [1, 2, 3, 4.5], 10.5),
    (addition, [0.1, 0.2], 0.1 + 0.2),
    (addition, [BIG, 1], BIG + 1),
    (subtraction, [10, 1, 2], 7),
    (multiplication, [2, 3, 7], 42),
    (multiplication, [BIG, BIG, 0], 0),
    (division, [12, 2, 3], 2),
    (division, [-7, 2], -3.5),
    (division, [12.0, 2], 6.0),
    (division, [BIG, BIG // 10], 10),
    (division, [1, BIG], 0.0),
    (division, [BIG * 3, BIG * 2], 1.5),
    (division, [0, 5], 0),
    (power, [2, 100], 2**100),
    (power, [2, -2], 0.25),
    (power, [-1, -BIG - 1], -1),
    (power, [1, BIG], 1),
    (power, [0, BIG], 0),
    (power, [0, 0], 1),
    (power, [5, -BIG], 0.0),
    (power, [2, -1074], 5e-324),
    (power, [4, 0.5], 2.0),
    (power, [-2.0, 3], -8.0),
    (power, [-2.0, 3.0], -8.0),
    (root, [81], 9),
    (root, [2], math.sqrt(2)),
    (root, [-27, 3], -3),
    (root, [-27.0, 3], -3.0),
    (root, [243, 5], 3),
    (root, [243.0, 5], 3.0),
    (root, [16, 2.0], 4.0),
    (root, [16, 0.5], 256.0),
    (root, [4, -2], 0.5),
    (root, [1, -2], 1),
    (root, [0, 5], 0),
    (root, [5, 1], 5),
    (root, [5, BIG], 1.0),
    (root, [BIG, 4], 10**100),
    (root, [BIG + 1, 2], 1e200),
    (root, [(10**50 + 7) ** 30, 30], 10**50 + 7),
    (root, [49**1500, 1500], 49),
    (root, [(2**52 + 1) ** 4000, 4000], 2**52 + 1),
])
def test_numbers(task, args, wanted):
    same(task(*args), wanted)


@pytest.mark.parametrize(("task", "args", "round_to", "wanted"), [
    (division, [10, 3], 2, 3.33),
    (division, [12, 3], 2, 4),
    (addition, [1, 2], 5, 3),
    (addition, [123, 4], -1, 130),
    (addition, [1.25, 1], 1, 2.2),       # half to even, as Python's round
    (addition, [123.0, 4], -1, 130.0),
    (root, [2], 3, 1.414),
    (division, [[1, 2], 3], 1, [0.3, 0.7]),
    (addition, [np.array([1.234, 5.678]), 0], 1, np.array([1.2, 5.7])),
    (addition, [np.array([1234, 5678]), 0], -2, np.array([1200, 5700])),
    (addition, [np.float32([1.26]), 0], 1, np.float32([1.3])),
    (addition, [np.array([1e300, 1.5]), 0], 20, np.array([1e300, 1.5])),
    (addition, [np.float16([1.5, 100]), 0], -20, np.float16([0, 0])),
])
def test_round_to(task, args, round_to, wanted):
    same(task(*args, round_to=round_to), wanted)


@pytest.mark.parametrize(("task", "args", "wanted"), [
    (addition, [[1, 2], [10, 20]], [11, 22]),
    (addition, [[1, 2], 10], [11, 12]),
    (addition, [10, [1, 2], 0.5], [11.5, 12.5]),
    (addition, [[1, [2, [3]]], [1, [2, [3]]]], [2, [4, [6]]]),
    (addition, [(1, 2), [10, 20]], (11, 22)),
    (addition, [[], []], []),
    (division, [[6, 7], 2], [3, 3.5]),
    (root, [[4, 9]], [2, 3]),
    (power, [[2, 3], [3, 2]], [8, 9]),
    (addition, [[BIG], [1]], [BIG + 1]),
])
def test_lists_are_taken_element_by_element(task, args, wanted):
    same(task(*args), wanted)


@pytest.mark.parametrize(("task", "args", "wanted"), [
    (addition, [np.array([1, 2]), 3], np.array([4, 5])),
    (addition, [np.int8([1, 2]), 3], np.int8([4, 5])),
    (addition, [np.int8([-100]), 200], np.int8([100])),          # 200 fits no int8, the result does
    (addition, [np.int8([1]), np.int16([300])], np.int16([301])),
    (addition, [np.int8([1, 2]), 0.5], np.array([1.5, 2.5])),
    (addition, [np.float32([1, 2]), 0.5], np.float32([1.5, 2.5])),
    (addition, [np.float16([1]), 1], np.float16([2])),
    (addition, [np.array([1, 2]), [10, 20]], np.array([11, 22])),
    (addition, [np.int8([1, 2]), [10, 20]], np.array([11, 22])),
    (addition, [np.array([[1], [2]]), np.array([10, 20])], np.array([[11, 21], [12, 22]])),
    (addition, [np.array(5), 1], np.array(6)),
    (addition, [np.int16(5), 1], np.int16(6)),
    (addition, [np.array([], dtype=np.int8), 1], np.array([], dtype=np.int8)),
    (addition, [[np.array([1, 2]), 3], 10], [np.array([11, 12]), 13]),
    (addition, [np.array([1, 2], dtype=">i4"), 1], np.array([2, 3], dtype=np.result_type(np.dtype(">i4")))),
    (subtraction, [np.uint8([5]), np.uint8([3])], np.uint8([2])),
    (multiplication, [np.array([2, 3]), 2, 2], np.array([8, 12])),
    (multiplication, [np.int64([-(2**32)]), 2**31], np.int64([-(2**63)])),
    (division, [np.array([6, 7]), 2], np.array([3.0, 3.5])),
    (division, [np.float32([1]), 4], np.float32([0.25])),
    (power, [np.array([2, 3]), [3, 2]], np.array([8, 9])),
    (power, [np.array([-1, 0, 1]), 10**30 + 1], np.array([-1, 0, 1])),
    (power, [np.array([-2]), 63], np.array([-(2**63)])),
    (power, [np.array([0, 5]), 0], np.array([1, 1])),
    (power, [np.array([4.0]), 0.5], np.array([2.0])),
    (root, [np.array([243, 32]), 5], np.array([3.0, 2.0])),
    (root, [np.array([-8.0, 27.0]), 3], np.array([-2.0, 3.0])),
    (root, [np.float32([4.0])], np.float32([2.0])),
    (root, [np.array([4.0]), -2], np.array([0.5])),
])
def test_arrays_keep_their_dtype(task, args, wanted):
    same(task(*args), wanted)


def test_whole_roots_in_arrays_are_exact():
    bases = np.arange(1.0, 60.0)
    for degree in range(2, 12):
        same(root(bases**degree, degree), bases)


def test_an_array_operand_is_never_changed_nor_shared():
    given = np.array([1, 2])
    result = addition(given, 0)
    result[0] = 99
    assert given.tolist() == [1, 2]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(("task", "args", "kind", "words"), [
    (addition, [], OperandCountError, "two or more operands, not 0"),
    (addition, [1], OperandCountError, "two or more operands, not 1"),
    (addition, [[1, 2]], OperandCountError, "pass them one by one"),
    (power, [1, 2, 3], OperandCountError, "exactly two"),
    (root, [], OperandCountError, "one or two"),
    (addition, [1, True], OperandTypeError, "operand 2 is true or false"),
    (addition, ["1", 2], OperandTypeError, "operand 1 is a text"),
    (addition, [1, None], OperandTypeError, "operand 2 is nothing"),
    (addition, [1, 2j], OperandTypeError, "complex"),
    (addition, [1, {}], OperandTypeError, "mapping"),
    (addition, [[1, ["x"]], 2], OperandTypeError, r"operand 1\[1\]\[0\] is a text"),
    (addition, [np.array(["x"]), 2], OperandTypeError, "operand 1 is an array of <U1"),
    (addition, [1, np.array([True])], OperandTypeError, "operand 2 is an array of bool"),
    (addition, [np.array([1]), ["x"]], OperandTypeError, r"operand 2\[0\] is a text"),
    (addition, [np.array([1]), np.uint64([1])], OperandTypeError, "no common integer type"),
    (addition, [np.ma.array([1]), 1], OperandTypeError, "MaskedArray"),
    (addition, [[1, 2], [1, 2, 3]], ShapeMismatch, "operand 2 has 3 elements where operand 1 has 2"),
    (addition, [[1, 2], [1, [2]]], ShapeMismatch, r"operand 2\[1\] is a list where operand 1 has a number"),
    (addition, [0, [1, [2]], [1, 2]], ShapeMismatch, r"operand 3\[1\] is a number where operand 2 has a list"),
    (addition, [np.zeros(2), np.zeros(3)], ShapeMismatch, r"operand 2 has the shape \(3,\)"),
    (addition, [np.zeros(2), [[1], [2, 3]]], ShapeMismatch, "rows of different lengths"),
    (addition, [NAN, 1], DomainError, "operand 1 is nan"),
    (addition, [1, [0, -INF]], DomainError, r"operand 2\[1\] is -inf"),
    (addition, [np.array([[0, NAN]]), 1], DomainError, r"operand 1\[0\]\[1\] is not finite"),
    (division, [1, 2, 0], DivisionByZero, "operand 3 is zero"),
    (division, [1.0, 0.0], DivisionByZero, "operand 2 is zero"),
    (division, [[1, 2], [1, 0]], DivisionByZero, r"operand 2\[1\] is zero"),
    (division, [np.array([1, 2]), np.array([1, 0])], DivisionByZero, r"operand 2\[1\] is zero"),
    (power, [0, -1], DivisionByZero, "operand 1 is zero"),
    (power, [0.0, -1.5], DivisionByZero, "operand 1 is zero"),
    (power, [np.array([2.0, 0.0]), -1], DivisionByZero, r"at \[1\]"),
    (power, [-8, 0.5], DomainError, "operand 1 is negative"),
    (power, [np.array([-8.0]), 0.5], DomainError, "no real power"),
    (power, [np.array([2, 2]), np.array([1, -1])], DomainError, r"operand 2\[1\] is negative"),
    (root, [-4], DomainError, "even degree"),
    (root, [-4, 2.5], DomainError, "broken degree"),
    (root, [4, 0], DomainError, "degree zero"),
    (root, [0, -2], DivisionByZero, "negative degree"),
    (root, [np.array([4.0, -4.0])], DomainError, r"at \[1\]"),
    (root, [np.array([0.0]), -1], DivisionByZero, "zero has no root"),
    (power, [9, 9**9], ResultOverflow, "operand|too large"),
    (power, [10, BIG], ResultOverflow, "far more bits"),
    (power, [2, 20_000_000], ResultOverflow, "about 20,000,000 bits"),  # the estimate: computed it is one bit more
    (power, [10.0, 400], ResultOverflow, "too large for a float"),
    (power, [1.5, BIG], ResultOverflow, "too large for a float"),
    (addition, [1e308, 1e308], ResultOverflow, "too large for a float"),
    (multiplication, [1e308, 10, 0.0], ResultOverflow, "too large for a float"),
    (addition, [BIG, 0.5], ResultOverflow, "too large for a float"),
    (division, [BIG + 1, 3], ResultOverflow, "too large for a float"),
    (addition, [1 << MAX_INTEGER_BITS, 1], ResultOverflow, "operand 1 is an integer of 262,145 bits"),
    (addition, [(1 << MAX_INTEGER_BITS) - 1, 1], ResultOverflow, "262,145 bits"),
    (multiplication, [1 << 200_000, 1 << 200_000], ResultOverflow, "too large"),
    (power, [[2] * 1000, 262_143], ResultOverflow, "bytes together"),
    (addition, [np.int8([100]), np.int8([100])], ResultOverflow, "does not fit int8"),
    (subtraction, [np.uint8([1, 1]), np.uint8([1, 2])], ResultOverflow, r"fit uint8.*at \[1\]"),
    (multiplication, [np.array([2**62]), 2], ResultOverflow, "does not fit int64"),
    (power, [np.array([1, 2]), 63], ResultOverflow, r"does not fit int64;.* \(at \[1\]"),
    (power, [np.array([1, 2]), BIG], ResultOverflow, r"does not fit int64;.* \(at \[1\]"),
    (addition, [np.float32([1]), 1e300], ResultOverflow, "operand 2 is too large for float32"),
    (addition, [np.float64([1]), BIG], ResultOverflow, "operand 2 is too large for float64"),
    (multiplication, [np.float16([300]), np.float16([300])], ResultOverflow, "too large for float16"),
    (addition, [np.array([1]), [2**70]], ResultOverflow, "does not fit int64"),
    (addition, [np.zeros((10_000, 1)), np.zeros((1, 10_000))], ResultOverflow, "100,000,000 elements"),
])
def test_refusals_name_the_operand_and_the_reason(task, args, kind, words):
    with pytest.raises(kind, match=words) as caught:
        task(*args)
    assert type(caught.value) is kind
    assert caught.value.message.startswith(task.__name__)
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(("round_to", "words"), [
    (True, "true or false"), (1.0, "a number"), ("2", "a text"), (309, "between"), (-(10**30), "between"),
])
def test_round_to_must_be_a_sensible_number_of_places(round_to, words):
    with pytest.raises(TaskArgumentError, match=f"round_to.*{words}"):
        addition(1, 2, round_to=round_to)


@pytest.mark.parametrize(("args", "places"), [([1.7e308, 0], -308), ([np.array([1.7e308]), 0], -308)])
def test_rounding_beyond_the_range_is_an_overflow(args, places):
    with pytest.raises(ResultOverflow, match="rounded"):
        addition(*args, round_to=places)


def test_rounding_integers_beyond_their_dtype_is_an_overflow():
    with pytest.raises(ResultOverflow, match="int8"):
        addition(np.int8([127]), 0, round_to=-1)


def test_nesting_is_bounded_and_never_a_recursion_error():
    nested: list = []
    nested.append(nested)
    with pytest.raises(OperandTypeError, match="nested deeper than 32"):
        addition(nested, 1)


@pytest.mark.parametrize(("task", "args"), [
    (power, [9, 9**9**3]),
    (power, [3, 165_000]),
    (root, [3**165_000, 7]),
    (root, [(1 << 262_143) + 1, 3]),
    (root, [(1 << 262_143) + 1, 4099]),
    (root, [(1 << 262_143) + 1, 131_072]),
    (division, [(1 << 262_143) + 1, (1 << 131_000) + 1]),
    (multiplication, [2] * 500_000),
], ids=lambda value: getattr(value, "__name__", ""))
def test_the_worst_operands_end_in_bounded_time(task, args):
    began = time.process_time()
    with contextlib.suppress(ResultOverflow):
        task(*args)
    assert time.process_time() - began < 5  # measured: well below a second


def test_without_arrays_numpy_is_not_imported():
    code = ("import sys; from yadtqd import registry; tasks = registry.load()\n"
            "tasks.get('addition').handler([1, 2], 3); tasks.get('root').handler(2)\n"
            "tasks.get('matrix_multiplication').handler([[1, 2]], [[3], [4.5]])\n"
            "assert 'numpy' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
