"""Equality that also compares kinds: 1 is not 1.0, a list no tuple, int8 no int64."""
from __future__ import annotations

from typing import Any

import numpy as np


def same(found: Any, wanted: Any) -> None:
    """Asserts that two values are equal in value and in kind, down to the elements and their dtype."""
    assert type(found) is type(wanted)
    if isinstance(wanted, np.ndarray | np.generic):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            same(a, b)
    else:
        assert found == wanted
