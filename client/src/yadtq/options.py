"""What an option of the configuration is, and how one value of it is checked.

Owns `Option` and the conversion of TOML values, environment strings and Python arguments to the option's type. Pure
functions, used by `yadtq.config` and `yadtq.config_load` in every process; reads no file and no environment.
"""
from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar, cast

T = TypeVar("T")
_TRUE, _FALSE = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})
_FARTHEST = 10**100     # what is beyond is out of every range, and not shown
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")    # would end up in ids, logs and what systemd is told
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}\Z")     # Kafka's rule for topic names and, by our choice, for groups


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its name, type, default, unit, what is allowed, who uses it, and the reason for the default."""

    name: str
    type: type
    default: Any
    doc: str
    used_by: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    secret: bool = False
    check: Callable[[str], str | None] | None = None    # for strings: what is wrong with it, None when nothing is

    @property
    def allowed(self) -> str:
        """What may stand here, in words (`''` when anything of the type may)."""
        if self.choices:
            return " ".join(repr(c) for c in self.choices)
        if self.low is not None and self.high is not None:
            return f"{_number(self.low)} to {_number(self.high)}"
        return f"at least {_number(self.low)}" if self.low is not None else ""

    def read(self, value: object, *, text: bool = False) -> Any:
        """`value` as this option's type; with `text`, from an environment variable's string.

        Raises ValueError whose message says what is wrong and what would be right.
        """
        converted = self._from_text(cast(str, value)) if text else self._from_value(value)
        for text_ in (converted,) if isinstance(converted, str) else converted if isinstance(converted, tuple) else ():
            if isinstance(text_, str) and (found := _CONTROL.search(text_)):
                raise ValueError(f"it has a control character in it, {found[0]!r}")
        if self.choices:
            return self._choose(cast(str, converted))
        if self.type in (int, float):
            self._bound(converted)
        elif self.type is tuple and self.name == "partitions":
            for number in converted:
                self._bound(number)
        elif self.check is not None and (wrong := self.check(converted)):
            raise ValueError(wrong)
        return converted

    def _from_text(self, text: str) -> Any:
        stripped = text.strip()
        if self.type is bool:
            if stripped.lower() not in _TRUE | _FALSE:
                raise ValueError(f"{text!r:.200} is neither true nor false")
            return stripped.lower() in _TRUE
        if self.type in (int, float):
            try:
                return self.type(stripped)
            except ValueError:
                raise ValueError(f"{text!r:.200} is no {self._kind()}{self._hint(stripped)}") from None
        if self.type is tuple:
            parts = [part.strip() for part in stripped.split(",") if part.strip()]
            try:
                return tuple(int(p) for p in parts) if self.name == "partitions" else tuple(parts)
            except ValueError:
                raise ValueError(f"{text!r:.200} is no list of numbers; write such as 0,1,2") from None
        return text

    def _from_value(self, value: object) -> Any:
        wanted = self.type
        if wanted is float and type(value) in (int, float):
            return value if type(value) is int and abs(value) > _FARTHEST else float(cast(float, value))
        if wanted is tuple and isinstance(value, (list, tuple)):
            inner = int if self.name == "partitions" else str
            if all(type(item) is inner for item in value):
                return tuple(value)
        elif type(value) is wanted:
            return value
        elif self.check is servers and isinstance(value, (list, tuple)) and all(type(v) is str for v in value):
            return ",".join(value)
        shown = "a secret" if self.secret else f"{value!r:.200}"
        raise ValueError(f"{shown} is no {self._kind()}{self._hint(value)}")

    def _kind(self) -> str:
        if self.type is tuple:
            return "list of numbers" if self.name == "partitions" else "list of strings"
        kind = {bool: "truth value (true or false)", int: "whole number", float: "number", str: "string"}[self.type]
        return f"{kind} of {_UNITS.get(self.unit, self.unit)}" if self.unit else kind

    def _hint(self, value: object) -> str:
        """How the value was probably meant: `"10s"` and `"10"` where a number belongs."""
        if self.type in (int, float) and isinstance(value, str):
            number = re.match(r"\s*(\d{1,20}(?:\.\d{1,20})?)\D*\Z", value)
            if number:
                unit = f" ({_UNITS.get(self.unit, self.unit)})" if self.unit else ""
                return f"; write {number[1]}{unit}"
        return ""

    def _bound(self, number: float) -> None:
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f"{number} is no finite number")
        if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
            raise ValueError(f"{_number(number)} is out of range; allowed: {self.allowed}")

    def _choose(self, text: str) -> str:
        for choice in self.choices:
            if text.strip().lower() == choice.lower():
                return choice
        raise ValueError(f"{text!r:.200} is unknown; allowed: {self.allowed}")


_UNITS = {"s": "seconds", "ms": "milliseconds"}


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if abs(value) > _FARTHEST:
        return "a number with so many digits"
    return str(int(value)) if value == int(value) else str(value)


def option(default: T, doc: str, *, used_by: str, unit: str = "", low: float | None = None, high: float | None = None,
           choices: tuple[str, ...] = (), secret: bool = False,
           check: Callable[[str], str | None] | None = None) -> T:
    """A field of Settings: its default and what `Option` keeps about it. Typed as the default is."""
    about = {"doc": doc, "used_by": used_by, "unit": unit, "low": low, "high": high, "choices": choices,
             "secret": secret, "check": check}
    return field(default=default, repr=not secret, metadata={"option": about})


def options_of(settings: type) -> dict[str, Option]:
    """All options of a Settings class by name, in the order in which they are declared."""
    return {f.name: _option(f) for f in _declared(settings)}


def _declared(settings: type) -> Iterable[Field[Any]]:
    return (f for f in fields(settings) if "option" in f.metadata)


def _option(f: Field[Any]) -> Option:
    assert f.default is not MISSING
    return Option(name=f.name, type=type(f.default), default=f.default, **f.metadata["option"])


def topic_name(text: str) -> str | None:
    """What is wrong with a topic's or group's name."""
    if _TOPIC.match(text) and text not in (".", ".."):
        return None
    return f"{text!r:.200} is no valid name: 1 to 249 of the characters A-Z a-z 0-9 . _ -"


def servers(text: str) -> str | None:
    """What is wrong with a comma list of host:port."""
    for part in filter(None, (p.strip() for p in text.split(","))):
        _, port = split_server(part)
        if port is not None and not (port.isdecimal() and 0 < int(port) < 65536):
            return f"{part!r} has no valid port; write such as kafka1:9092,kafka2:9092"
    return None


def split_server(part: str) -> tuple[str, str | None]:
    """`host:port` cut in two; port None when there is none. IPv6 addresses stand in brackets: `[::1]:9092`."""
    if part.startswith("["):
        host, _, rest = part.partition("]")
        return host + "]", rest[1:] if rest.startswith(":") else None
    host, colon, port = part.rpartition(":")
    return (host, port) if colon else (part, None)


def module_path(text: str) -> bool:
    """Whether a string can be the dotted path of a module."""
    return all(part.isidentifier() for part in text.split("."))
