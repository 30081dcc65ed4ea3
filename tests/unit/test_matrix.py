"""Shows matrix_addition and matrix_multiplication on lists and arrays, exact for integers, and how they say no."""
from __future__ import annotations

import time

import numpy as np
import pytest

from tests.support.same import same
from yadtq.errors import DomainError, OperandCountError, OperandTypeError, ResultOverflow, ShapeMismatch
from yadtqd.tasks.matrix import matrix_addition, matrix_multiplication
from yadtqd.tasks.operands import MAX_INTEGER_BITS

BIG = 10**40


@pytest.mark.parametrize(("task", "args", "wanted"), [
    (matrix_addition, [[[1, 2], [3, 4]], [[10, 20], [30, 40]]], [[11, 22], [33, 44]]),
    (matrix_addition, [[[1]], [[2]], [[3.5]]], [[6.5]]),
    (matrix_addition, [[[2**63 - 1]], [[1]]], [[2**63]]),
    (matrix_addition, [((1, 2),), [[1, 2]]], ((2, 4),)),
    (matrix_addition, [np.eye(2), [[1, 2], [3, 4]]], np.array([[2.0, 2.0], [3.0, 5.0]])),
    (matrix_addition, [np.eye(2, dtype=np.int8), np.eye(2, dtype=np.int8)], np.int8([[2, 0], [0, 2]])),
    (matrix_multiplication, [[[1, 2], [3, 4]], [[5], [6]]], [[17], [39]]),
    (matrix_multiplication, [[[1, 2]], [[3], [4]], [[5, 6, 7]]], [[55, 66, 77]]),
    (matrix_multiplication, [[[2**62, 1]], [[2], [1]]], [[2**63 + 1]]),
    (matrix_multiplication, [[[BIG]], [[BIG]]], [[BIG**2]]),
    (matrix_multiplication, [[[1, 2.5]], [[2], [1]]], [[4.5]]),
    (matrix_multiplication, [[[1, 2]], [[2.0], [1]]], [[4.0]]),
    (matrix_multiplication, [((1, 2),), [[3], [4]]], ((11,),)),
    (matrix_multiplication, [np.array([[1, 2]]), [[3], [4]]], np.array([[11]])),
    (matrix_multiplication, [np.int8([[3]]), np.int8([[4]])], np.int8([[12]])),
    (matrix_multiplication, [np.float32([[3]]), np.int8([[4]])], np.float32([[12]])),
    (matrix_multiplication, [np.array([[2**53 + 1]]), np.array([[3]])], np.array([[3 * (2**53 + 1)]])),
    (matrix_multiplication, [np.uint64([[2**63]]), np.uint64([[1]])], np.uint64([[2**63]])),
    (matrix_multiplication, [np.uint64([[2**63]]), np.uint64([[0]])], np.uint64([[0]])),
])
def test_matrices(task, args, wanted):
    same(task(*args), wanted)


@pytest.mark.parametrize(("task", "args", "round_to", "wanted"), [
    (matrix_addition, [[[1.234]], [[1]]], 1, [[2.2]]),
    (matrix_multiplication, [[[0.5, 1]], [[0.25], [1]]], 2, [[1.12]]),
    (matrix_multiplication, [np.array([[0.5]]), [[0.3]]], 1, np.array([[0.2]])),
    (matrix_multiplication, [[[12]], [[12]]], -1, [[140]]),
])
def test_round_to(task, args, round_to, wanted):
    result = task(*args, round_to=round_to)
    same(result if isinstance(result, list) else result.round(10), wanted)


NAN = float("nan")


@pytest.mark.parametrize("task", [matrix_addition, matrix_multiplication])
@pytest.mark.parametrize(("args", "kind", "words"), [
    ([], OperandCountError, "not 0"),
    ([[[1]]], OperandCountError, "two or more operands, not 1"),
    ([[[1, 2], [3]], [[1]]], ShapeMismatch, r"operand 1\[1\] has 1 elements, and the first row has 2"),
    ([[[1]], [[1, 2], [3]]], ShapeMismatch, r"operand 2\[1\]"),
    ([[], [[1]]], ShapeMismatch, "operand 1 is an empty"),
    ([[[1]], [[]]], ShapeMismatch, "operand 2 is an empty"),
    ([np.zeros((0, 2)), [[1]]], ShapeMismatch, "operand 1 is an empty"),
    ([[1, 2], [[1]]], OperandTypeError, r"operand 1\[0\] is a number, not a row.*\[\[1, 2, 3\]\]"),
    ([[[1]], np.array([1, 2])], ShapeMismatch, "operand 2 is an array of 1 dimensions"),
    ([np.float64(2), [[1]]], ShapeMismatch, "operand 1 is an array of 0 dimensions"),
    ([3, [[1]]], OperandTypeError, "operand 1 is a number, not a matrix"),
    (["ab", [[1]]], OperandTypeError, "operand 1 is a text"),
    ([[[1]], [["x"]]], OperandTypeError, r"operand 2\[0\]\[0\] is a text"),
    ([[[1]], [[True]]], OperandTypeError, r"operand 2\[0\]\[0\] is true"),
    ([[[1]], [[[1]]]], OperandTypeError, r"operand 2\[0\]\[0\] is a list"),
    ([[[1]], np.array([["x"]])], OperandTypeError, "operand 2 is an array of <U1"),
    ([[[NAN]], [[1]]], DomainError, r"operand 1\[0\]\[0\] is nan"),
    ([np.array([[NAN]]), [[1]]], DomainError, r"operand 1\[0\]\[0\] is not finite"),
    ([[[1, 2], [3, 4]], [[1], [2], [3]]], ShapeMismatch, "operand 2 is a 3x1 matrix"),
    ([[[10**400]], [[0.5]]], ResultOverflow, "too large for a float"),
    ([np.uint64([[1]]), np.int64([[1]])], OperandTypeError, "no common integer type"),
])
def test_refusals_name_the_matrix_and_the_reason(task, args, kind, words):
    with pytest.raises(kind, match=words) as caught:
        task(*args)
    assert type(caught.value) is kind
    assert caught.value.message.startswith(task.__name__)


@pytest.mark.parametrize(("args", "words"), [
    ([np.int8([[100]]), np.int8([[2]])], "does not fit int8"),
    ([np.array([[2**62, 2**62]]), np.array([[1], [1]])], "does not fit int64"),
    ([np.array([[1e200]]), np.array([[1e200]])], "too large for float64"),
    ([[[1e200]], [[1e200]]], "too large for a float"),
    ([[[1e200, -1e200]], [[1e200], [1e200]]], "too large for a float"),  # inf - inf on the way
    ([[[1 << (MAX_INTEGER_BITS // 2)]], [[1 << (MAX_INTEGER_BITS // 2 + 1)]]], "too large: an integer"),
    ([[[1]] * 3000, [[1] * 3000]], "9,000,000 elements"),
    ([np.ones((3000, 1)), np.ones((1, 3000))], "9,000,000 elements"),
])
def test_products_that_are_too_large(args, words):
    with pytest.raises(ResultOverflow, match=words):
        matrix_multiplication(*args)


@pytest.mark.parametrize("largest", [10, 2**25, 2**29, 2**40, 2**64, 2**100], ids=lambda n: f"{n.bit_length()}bits")
def test_large_products_of_ints_are_exact_on_every_path(largest):
    """Below and above each limit at which another way of multiplying is taken."""
    n = 40  # 64,000 multiplications: numpy where it is exact
    a = [[largest - (i * n + j) for j in range(n)] for i in range(n)]
    b = [[(-1) ** j * (largest - i - j) for j in range(n)] for i in range(n)]
    columns = list(zip(*b, strict=True))
    wanted = [[sum(x * y for x, y in zip(row, column, strict=True)) for column in columns] for row in a]
    same(matrix_multiplication(a, b), wanted)
    if max(abs(x) for row in wanted for x in row) < 2**63 and largest < 2**60:
        same(matrix_multiplication(np.array(a), np.array(b)), np.array(wanted))


def test_large_products_of_floats_agree_with_numpy():
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=(50, 60)), rng.normal(size=(60, 40))
    result = matrix_multiplication(a.tolist(), b.tolist())
    assert type(result[0][0]) is float
    np.testing.assert_allclose(result, a @ b, rtol=1e-12)
    np.testing.assert_allclose(matrix_multiplication(a, b), a @ b, rtol=1e-12)


def test_the_largest_matrices_that_fit_a_message_take_seconds_at_most():
    rng = np.random.default_rng(7)
    a = rng.integers(0, 1000, size=(330, 330))  # as lists of ints about what 900 KB hold
    began = time.process_time()
    assert matrix_multiplication(a.tolist(), a.tolist()) == (a @ a).tolist()
    assert time.process_time() - began < 5  # measured: 0.05 s
