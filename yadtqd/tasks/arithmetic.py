"""The task types of arithmetic: addition, subtraction, multiplication, division, power, root.

Handlers, run in a worker's processor. What they take and give is in docs/tasks.md: numbers, lists of numbers nested to
any form, numpy arrays. Python's numbers are computed in `scalars`, arrays in `arrays`, which is imported with the first
array that arrives, so that a worker without arrays never imports numpy.
"""
from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from yadtq.errors import ResultOverflow
from yadtq.tasks import task
from yadtqd.tasks import scalars
from yadtqd.tasks.operands import (
    Scalar,
    Work,
    check_count,
    check_number,
    check_round_to,
    each_element,
    is_array,
    rounded,
)


@task
def addition(*operands: Any, round_to: int | None = None) -> Any:
    """The sum of two or more operands.

        addition(1, 2, 3) == 6
        addition([1, 2], 10) == [11, 12]
    """
    return _compute("addition", operands, round_to)


@task
def subtraction(*operands: Any, round_to: int | None = None) -> Any:
    """The first operand less all the others.

        subtraction(10, 1, 2) == 7
    """
    return _compute("subtraction", operands, round_to)


@task
def multiplication(*operands: Any, round_to: int | None = None) -> Any:
    """The product of two or more operands, element by element for lists and arrays.

        multiplication(2, 3, 7) == 42
    """
    return _compute("multiplication", operands, round_to)


@task
def division(*operands: Any, round_to: int | None = None) -> Any:
    """The first operand divided by all the others; ints that divide evenly give an int.

        division(12, 2, 3) == 2
        division(10, 3, round_to=2) == 3.33
    """
    return _compute("division", operands, round_to)


@task
def power(*operands: Any, round_to: int | None = None) -> Any:
    """The first operand to the power of the second.

        power(2, 100) == 1267650600228229401496703205376
    """
    return _compute("power", operands, round_to, most=2)


@task
def root(*operands: Any, round_to: int | None = None) -> Any:
    """The root of the first operand; the second is the degree, 2 when it is left out.

        root(81) == 9
        root(-27, 3) == -3
    """
    return _compute("root", operands, round_to, least=1, most=2)


def _compute(name: str, operands: Sequence[Any], round_to: int | None, *,
             least: int = 2, most: int | None = None) -> Any:
    check_count(name, operands, least, most)
    check_round_to(name, round_to)
    return elementwise(Work(name), name, operands, round_to)


_PLAIN = frozenset((int, float))
_SCALAR: dict[str, Scalar] = {
    "addition": scalars.add,
    "subtraction": scalars.subtract,
    "multiplication": scalars.multiply,
    "division": scalars.divide,
    "power": scalars.power,
    "root": scalars.root,
}


def elementwise(work: Work, operation: str, operands: Sequence[Any], round_to: int | None) -> Any:
    """`operation` on numbers, lists and arrays; `work` is what errors are reported as."""
    if _PLAIN.issuperset(map(type, operands)):  # the common case, before anything that costs a microsecond
        return _on_numbers(work, operation, round_to, operands)
    if any(map(is_array, operands)):
        return _on_arrays(work, operation, round_to, operands)
    return each_element(work, operands, partial(_on_numbers, work, operation, round_to))


def _on_numbers(work: Work, operation: str, round_to: int | None, operands: Sequence[Any]) -> Any:
    for index, operand in enumerate(operands):
        if type(operand) is not int and type(operand) is not float and is_array(operand):
            return _on_arrays(work, operation, round_to, operands)  # an array within a list
        check_number(work, index, operand)
    try:
        return work.keep(rounded(_SCALAR[operation](operands, work), round_to, work))
    except OverflowError as error:
        if isinstance(error, ResultOverflow):
            raise
        raise work.error(ResultOverflow, None, "an operand or the result is too large for a float") from None


def _on_arrays(work: Work, operation: str, round_to: int | None, operands: Sequence[Any]) -> Any:
    from yadtqd.tasks import arrays

    return arrays.compute(work, operation, operands, round_to)
