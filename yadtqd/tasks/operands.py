"""What the shipped task types have in common: limits, checks of operands, and the walk through nested lists.

Runs in a worker's processor. Keeps nothing between calls (a `Work` belongs to one call), never imports numpy: an array
can only arrive when something else has imported it, and then `sys.modules` knows.
"""
from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from yadtq.errors import (
    DomainError,
    OperandCountError,
    OperandTypeError,
    ResultOverflow,
    ShapeMismatch,
    TaskArgumentError,
)

# The largest integer that is taken or given: 78,913 decimal digits, 32 KB. The worst that can be done with one (a root)
# stays under a second, which matters since nothing can interrupt Python within one operation on integers.
MAX_INTEGER_BITS = 2**18
# All integers of one result together (8 MB): [2, 2, 2, ...] ** 262143 is a bomb too.
MAX_RESULT_BITS = 2**26
# Elements of a result that is larger than its operands, as an outer product is (32 MB of float64).
MAX_ELEMENTS = 2**22
MAX_DEPTH = 32          # of nested lists; numpy's own limit is of that size
MAX_ROUND_TO = 308      # decimal places, either way: a float has no more

Number = int | float
Scalar = Callable[[Sequence[Number], "Work"], Number]


class Work:
    """One call of a task: its name, the path of the element at hand, and what the result may still take.

    `path` holds the indices of the element at hand and is changed in place by the walk, which saves making an object
    for each element.
    """

    __slots__ = ("bits_left", "name", "path")

    def __init__(self, name: str) -> None:
        self.name = name
        self.path: list[int] = []
        self.bits_left = MAX_RESULT_BITS

    def error(self, kind: type[TaskArgumentError], index: int | None, text: str) -> TaskArgumentError:
        """An error whose message names the operand (`index` counts from 0, the message from 1) and the element."""
        where = "".join(f"[{i}]" for i in self.path)
        if index is None:
            return kind(f"{self.name}: {text}" + (f" (at {where})" if where else ""))
        return kind(f"{self.name}: operand {index + 1}{where} {text}")

    def keep(self, value: Number) -> Number:
        """`value`, once it was found to be finite and small enough to be a result."""
        if type(value) is int:
            bits = value.bit_length()
            if bits > 64:  # small ones cost no more than the list that holds them
                if bits > MAX_INTEGER_BITS:
                    raise self.too_large(bits)
                self.bits_left -= bits
                if self.bits_left < 0:
                    raise self.error(ResultOverflow, None, "the integers of the result take more than "
                                     f"{MAX_RESULT_BITS // 8:,} bytes together")
        elif not math.isfinite(value):
            raise self.error(ResultOverflow, None, "the result is too large for a float")
        return value

    def too_large(self, bits: int) -> TaskArgumentError:
        """The error for an integer result of about so many bits."""
        size = f"about {bits:,} bits" if bits < 10**12 else "far more bits than that"
        return self.error(ResultOverflow, None, f"the result is too large: an integer may have {MAX_INTEGER_BITS:,} "
                          f"bits ({int(MAX_INTEGER_BITS * 0.30103):,} digits), and this one has {size}")


def check_count(name: str, operands: Sequence[object], least: int, most: int | None) -> None:
    """Raises OperandCountError unless there are at least `least` and at most `most` operands."""
    if len(operands) >= least and (most is None or len(operands) <= most):
        return
    words = {1: "one", 2: "two"}
    if most is None:
        takes = f"{words[least]} or more operands"
    elif least == most:
        takes = f"exactly {words[least]} operands"
    else:
        takes = f"{words[least]} or {words[most]} operands"
    hint = ""
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        hint = "; a list counts as one operand: to work on its members, pass them one by one"
    raise OperandCountError(f"{name} takes {takes}, not {len(operands)}{hint}")


def check_round_to(name: str, round_to: object) -> None:
    """Raises TaskArgumentError unless `round_to` is None or a number of decimal places."""
    if round_to is None:
        return
    if type(round_to) is not int:
        raise TaskArgumentError(f"{name}: round_to must be a whole number of decimal places, not {kind_of(round_to)}")
    if abs(round_to) > MAX_ROUND_TO:
        raise TaskArgumentError(f"{name}: round_to must lie between -{MAX_ROUND_TO} and {MAX_ROUND_TO}")


def check_number(work: Work, index: int, value: object) -> None:
    """Raises unless the operand `value` is a finite int or float of a size that can be worked with."""
    if type(value) is int:
        if value.bit_length() > MAX_INTEGER_BITS:
            raise work.error(ResultOverflow, index, f"is an integer of {value.bit_length():,} bits; "
                             f"{MAX_INTEGER_BITS:,} are the limit")
    elif type(value) is float:
        if not math.isfinite(value):
            raise work.error(DomainError, index, f"is {value}, and only finite numbers can be worked with")
    else:
        raise work.error(OperandTypeError, index, f"is {kind_of(value)}, not a number")


def kind_of(value: object) -> str:
    """What a value is, in words; never its contents, which may be huge."""
    known = {
        bool: "true or false (bool)", int: "a number", float: "a number", complex: "a complex number",
        str: "a text (str)", bytes: "bytes", type(None): "nothing (None)",
        list: "a list", tuple: "a tuple", dict: "a mapping (dict)",
    }
    return known.get(type(value)) or ("an array" if is_array(value) else f"of type {type(value).__name__}")


def is_array(value: object) -> bool:
    """Whether `value` is a numpy array or a numpy scalar."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray | numpy.generic)


def rounded(value: Number, round_to: int | None, work: Work) -> Number:
    """`value` to so many decimal places, as Python's `round` does it; an int stays an int."""
    if round_to is None:
        return value
    try:
        return round(value, round_to)
    except OverflowError:
        raise work.error(ResultOverflow, None, "the rounded result is too large for a float") from None


def each_element(work: Work, operands: Sequence[Any], leaf: Callable[[Sequence[Any]], Any]) -> Any:
    """Calls `leaf` for each set of elements at the same place, and gives the results in lists of the same form.

    An operand that is no list goes with every element. Lists must have the same form throughout; the result is made of
    tuples where the first list operand is made of tuples.
    """
    nested = [i for i, operand in enumerate(operands) if isinstance(operand, list | tuple)]
    if not nested:
        return leaf(operands)
    elements = list(operands)

    def walk(nodes: Sequence[Any]) -> Any:
        inner = [isinstance(node, list | tuple) for node in nodes]
        if not any(inner):
            for i, node in zip(nested, nodes, strict=True):
                elements[i] = node
            return leaf(elements)
        if len(work.path) >= MAX_DEPTH:
            raise work.error(OperandTypeError, nested[inner.index(True)], f"is nested deeper than {MAX_DEPTH} levels")
        _check_same_form(work, nested, nodes, inner)
        found = []
        work.path.append(0)
        for at, children in enumerate(zip(*nodes, strict=True)):
            work.path[-1] = at
            found.append(walk(children))
        work.path.pop()
        return tuple(found) if isinstance(nodes[0], tuple) else found

    return walk([operands[i] for i in nested])


def _check_same_form(work: Work, nested: list[int], nodes: Sequence[Any], inner: list[bool]) -> None:
    first = f"operand {nested[0] + 1}"
    for index, node, is_list in zip(nested, nodes, inner, strict=True):
        if is_list != inner[0]:
            there, here = ("a list", kind_of(node)) if inner[0] else (kind_of(nodes[0]), "a list")
            raise work.error(ShapeMismatch, index, f"is {here} where {first} has {there}")
        if is_list and len(node) != len(nodes[0]):
            raise work.error(ShapeMismatch, index, f"has {len(node)} elements where {first} has {len(nodes[0])}")
