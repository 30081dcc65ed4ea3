"""The task types of matrices: matrix_addition, matrix_multiplication.

Handlers, run in a worker's processor. A matrix is a list of equally long rows, or a two-dimensional numpy array. Lists
of ints are exact whatever their size; numpy is imported only when an array arrives or a product of lists is large.
"""
from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from operator import mul
from typing import Any

from yadtq.errors import OperandTypeError, ResultOverflow, ShapeMismatch
from yadtq.tasks import task
from yadtqd.tasks.arithmetic import elementwise
from yadtqd.tasks.operands import (
    MAX_ELEMENTS,
    Number,
    Work,
    check_count,
    check_number,
    check_round_to,
    is_array,
    kind_of,
    rounded,
)

Rows = Sequence[Sequence[Number]]
Shape = tuple[int, int]

# Multiplications of elements from which on numpy is worth its import (0.1 s, once) and the conversion of the lists.
WORTH_NUMPY = 50_000


@task
def matrix_addition(*matrices: Any, round_to: int | None = None) -> Any:
    """The sum of two or more matrices of one shape.

        matrix_addition([[1, 2], [3, 4]], [[10, 20], [30, 40]]) == [[11, 22], [33, 44]]
    """
    work, shapes = _checked("matrix_addition", matrices, round_to)
    for index, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise work.error(ShapeMismatch, index, f"is a {_words(shape)} matrix where operand 1 is a "
                             f"{_words(shapes[0])} one; only matrices of one shape can be added")
    return elementwise(work, "addition", matrices, round_to)


@task
def matrix_multiplication(*matrices: Any, round_to: int | None = None) -> Any:
    """The matrix product of two or more matrices, from left to right.

        matrix_multiplication([[1, 2], [3, 4]], [[5], [6]]) == [[17], [39]]
    """
    work, shapes = _checked("matrix_multiplication", matrices, round_to)
    for index, (left, right) in enumerate(pairwise(shapes), 1):
        if left[1] != right[0]:
            raise work.error(ShapeMismatch, index, f"is a {_words(right)} matrix, and operand {index} before it is "
                             f"{_words(left)}: as many rows are needed as that has columns ({left[1]})")
        if shapes[0][0] * right[1] > MAX_ELEMENTS:
            raise work.error(ResultOverflow, index, f"would make a product of {shapes[0][0] * right[1]:,} elements; "
                             f"{MAX_ELEMENTS:,} are the limit")
    if any(map(is_array, matrices)):
        from yadtqd.tasks import arrays

        return arrays.multiply_matrices(work, matrices, round_to)
    return _multiply_lists(work, matrices, round_to)


def _words(shape: Shape) -> str:
    return f"{shape[0]}x{shape[1]}"


# ---- what a matrix is ------------------------------------------------------------------------------------------------
def _checked(name: str, matrices: Sequence[Any], round_to: object) -> tuple[Work, list[Shape]]:
    check_count(name, matrices, 2, None)
    check_round_to(name, round_to)
    work = Work(name)
    return work, [_shape_of(work, index, matrix) for index, matrix in enumerate(matrices)]


def _shape_of(work: Work, index: int, matrix: Any) -> Shape:
    if is_array(matrix):
        if matrix.ndim != 2:
            raise work.error(ShapeMismatch, index, f"is an array of {matrix.ndim} dimensions, and a matrix has two; "
                             "a vector is a matrix of one row or one column")
        rows, columns = matrix.shape
    else:
        rows, columns = _shape_of_list(work, index, matrix)
    if rows == 0 or columns == 0:
        raise work.error(ShapeMismatch, index, "is an empty matrix")
    return rows, columns


def _shape_of_list(work: Work, index: int, matrix: Any) -> Shape:
    if not isinstance(matrix, list | tuple):
        raise work.error(OperandTypeError, index, f"is {kind_of(matrix)}, not a matrix (a list of rows, or an array)")
    for at, row in enumerate(matrix):
        work.path = [at]
        if not isinstance(row, list | tuple):
            raise work.error(OperandTypeError, index, f"is {kind_of(row)}, not a row (a list of numbers); a vector is "
                             "written [[1, 2, 3]] as a row and [[1], [2], [3]] as a column")
        if len(row) != len(matrix[0]):
            raise work.error(ShapeMismatch, index, f"has {len(row)} elements, and the first row has {len(matrix[0])}: "
                             "the rows of a matrix are equally long")
        work.path.append(0)
        for work.path[1], number in enumerate(row):
            check_number(work, index, number)
    work.path = []
    return len(matrix), len(matrix[0]) if matrix else 0


# ---- products of lists -----------------------------------------------------------------------------------------------
def _multiply_lists(work: Work, matrices: Sequence[Rows], round_to: int | None) -> Any:
    factors = matrices
    if any(type(number) is float for matrix in matrices for row in matrix for number in row):
        factors = [_as_floats(work, index, matrix) for index, matrix in enumerate(matrices)]
    product = reduce(lambda a, b: _product(work, a, b), factors)
    row_kind = tuple if isinstance(matrices[0][0], tuple) else list
    kind = tuple if isinstance(matrices[0], tuple) else list
    return kind(row_kind(rounded(number, round_to, work) for number in row) for row in product)


def _as_floats(work: Work, index: int, matrix: Rows) -> list[list[float]]:
    try:
        return [[float(number) for number in row] for row in matrix]
    except OverflowError:
        raise work.error(ResultOverflow, index, "has an integer that is too large for a float, as which it is needed "
                         "beside floats") from None


def _product(work: Work, a: Rows, b: Rows) -> Rows:
    """The product of two matrices that are both of ints or both of floats."""
    if len(a) * len(b) * len(b[0]) >= WORTH_NUMPY:
        from yadtqd.tasks import arrays

        found = arrays.product_of_lists(a, b)
        if found is not None:
            return [[work.keep(number) for number in row] for row in found]
    columns = list(zip(*b, strict=True))
    return [[work.keep(sum(map(mul, row, column))) for column in columns] for row in a]
