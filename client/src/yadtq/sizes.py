"""Sizes in bytes as people write them: "512M", "2GiB", 1_000_000; parsed, and shown again.

Pure; standard library only. Used where a size is declared (`@task(memory_limit=...)`) and where one is told.
"""
from __future__ import annotations

import re
from decimal import Decimal

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?\s*\Z", re.IGNORECASE | re.ASCII)
_POWERS = ("", "k", "m", "g", "t")


def parse_size(value: object) -> int:
    """Bytes: an int as it is, a text with a unit. K, M, G, T and KiB, MiB ... count by 1024, kB, MB ... by 1000.

        parse_size("512M") == parse_size("512MiB") == 536_870_912
        parse_size("1.5GB") == 1_500_000_000

    Raises ValueError that says what is wrong.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise ValueError("it is neither a number of bytes nor a text such as \"512M\"")  # noqa: TRY004 (one error)
    found = _SIZE.match(value)
    if found is None:
        raise ValueError("it is no size: write a number of bytes, or one with K, M, G, T (1024), kB, MB, GB, TB (1000)")
    number, prefix, suffix = found.groups()
    base = 1000 if (suffix or "").lower() == "b" and prefix else 1024
    return int(Decimal(number) * base ** _POWERS.index(prefix.lower()))


def size_text(size: int) -> str:
    """A size in the largest unit that tells it well: "512 MiB", "1.5 GiB"."""
    unit, amount = "bytes", float(size)
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        unit, amount = larger, amount / 1024
    return f"{amount:.4g} {unit}"
