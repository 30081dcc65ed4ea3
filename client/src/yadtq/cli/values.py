"""Values on the command line: arguments in as JSON, results out as JSON or as text. Pure."""
from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from datetime import datetime
from typing import Any

import click

_JSON_LIKE = re.compile(r'[\[{"]|-?[0-9.]')       # what begins so and is no JSON is a mistake, not a word
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def argument(text: str) -> Any:
    """One argument of a task: JSON; a word that is no JSON stands for itself (`echo hello`)."""
    try:
        return json.loads(text)
    except ValueError as mistake:
        if _JSON_LIKE.match(text):
            raise click.BadParameter(f"{text!r} is not valid JSON ({mistake}); a string that looks like this is "
                                     f"written {json.dumps(text)!r}") from None
        return text


def keyword_arguments(text: str | None) -> dict[str, Any] | None:
    """The keyword arguments of a task: a JSON object."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as mistake:
        raise click.BadParameter(f"not valid JSON: {mistake}", param_hint="--kwargs") from None
    if not isinstance(value, dict):
        raise click.BadParameter("must be a JSON object such as '{\"round_to\": 2}'", param_hint="--kwargs")
    return value


def moment(text: str | None, now_s: float) -> float | None:
    """A Unix time in seconds from `15m`, `2h`, `1d` (so long ago), a Unix time, or an ISO date and time."""
    if text is None:
        return None
    ago = _SPAN.fullmatch(text)
    if ago:
        return now_s - float(ago[1]) * _SECONDS[ago[2]]
    return _point(text, "15m, 2h or 1d (ago)")


def moment_ahead(text: str | None) -> float | None:
    """A Unix time in seconds from a Unix time or an ISO date and time (local, unless it says its time zone)."""
    return None if text is None else _point(text, "--delay for so long from now")


def span(text: str | None) -> float | None:
    """Seconds from `30`, `30s`, `15m`, `2h` or `1d`."""
    if text is None:
        return None
    found = _SPAN.fullmatch(text if text[-1:] in _SECONDS else f"{text}s")
    if found is None:
        raise click.BadParameter(f"{text!r} is no time span: write 30 (seconds), 15m, 2h or 1d")
    return float(found[1]) * _SECONDS[found[2]]


def _point(text: str, other: str) -> float:
    try:
        return float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise click.BadParameter(f"{text!r} is no time: write {other}, a Unix time, or 2026-01-31T12:00") from None


def plain(value: Any) -> Any:
    """A value as JSON can hold it: arrays and tuples become lists, bytes base64, what JSON lacks its text."""
    match value:
        case None | bool() | int() | str():
            made: Any = value
        case float():
            made = value if math.isfinite(value) else str(value)
        case dict():
            made = {key if isinstance(key, str) else str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            made = [plain(item) for item in value]
        case set() | frozenset():
            made = sorted((plain(item) for item in value), key=repr)
        case bytes() | bytearray():
            made = b64encode(value).decode()
        case _:
            made = plain(value.tolist()) if hasattr(value, "tolist") else str(value)
    return made


def text_of(value: Any) -> str:
    """A value for people: strings as they are, arrays as numpy prints them, the rest as JSON where that is shorter."""
    if isinstance(value, str):
        return value
    if hasattr(value, "tolist"):
        return str(value)
    return json.dumps(plain(value), ensure_ascii=False)


def when(milliseconds: int | None) -> str:
    """A Unix time in ms as local date and time."""
    if not milliseconds:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def iso(milliseconds: int | None) -> str | None:
    """A Unix time in ms for machines."""
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().isoformat(timespec="milliseconds")


def lasted(seconds: float) -> str:
    """An age or a duration, short."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
