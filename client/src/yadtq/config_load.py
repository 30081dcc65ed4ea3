"""Reads the configuration: the TOML file, password files, environment variables and arguments, into one `Settings`.

Used once at the start of a process (and again by the supervisor on SIGHUP); runs in the caller's thread. Collects every
mistake before it raises, so that a file is mended in one go. Never logs and never prints a secret.
"""
from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from yadtq import config_check, config_places
from yadtq.config import CONFIG_FILE, OPTIONS, Settings
from yadtq.errors import ConfigurationError

PREFIX = "YADTQ_"
NOT_OPTIONS = frozenset({"YADTQ_CONFIG"})               # variables that mean something, but set no option
NOT_OPTION_PREFIXES = ("YADTQ_TEST_", "YADTQ_SETUP_")   # of the test suite and of setup.sh
CREDENTIALS = "/etc/yadtq/credentials"                  # what the daemon's unit hands out; for root, who has no unit
MAX_BYTES = 65_536                                      # of the file: every option with a comment takes a quarter of it
_MARKS = {b"\xef\xbb\xbf": "UTF-8", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
MAX_SECRET_BYTES = 4096                                 # a password file that is larger is something else
MASK = "********"


class _Reader:
    """What was read so far: values, where each came from, all that was wrong. Later sources overwrite earlier ones."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.ranks: dict[str, int] = {}
        self.mistakes: list[str] = []
        self.wrong: set[str] = set()                     # options with a bad value
        self.unread = False                              # the file is no configuration

    def take(self, rank: int, name: str, value: object, origin: str, *, text: bool = False) -> None:
        try:
            self.values[name] = OPTIONS[name].read(value, text=text)
        except ValueError as wrong:
            self.mistakes.append(f"{origin}: {name}: {wrong}")
            self.wrong.add(name)
            return
        self.origins[name], self.ranks[name] = origin, rank

    def unknown(self, name: str, origin: str) -> None:
        self.mistakes.append(f"{origin}: {config_check.unknown(name, OPTIONS)}")


def load(path: str | os.PathLike[str] | None, env: Mapping[str, str], overrides: Mapping[str, Any]) -> Settings:
    """See `Settings.load`."""
    reader = _Reader()
    _places(reader, path, env)
    for name, value in overrides.items():
        if name not in OPTIONS:
            reader.unknown(name, "argument")
        elif value is not None:
            reader.take(3, name, value, "argument")
    credentials = _credentials(path, env)
    for name in [name for name, opt in OPTIONS.items() if opt.secret]:
        _password(reader, name, credentials)
    reader.mistakes += _contradictions(reader)
    if reader.mistakes:
        raise ConfigurationError("\n".join(reader.mistakes))
    return Settings(**reader.values, origins=reader.origins)


def control_socket(path: str | os.PathLike[str] | None = None, env: Mapping[str, str] = os.environ) -> str:
    """Where the daemon's control socket is, for who wants nothing but to ask it.

    Operators need no password for that, and the rest of the file may be wrong or closed to them: ConfigurationError
    only if a file that was named can't be read, or the option itself is wrong.
    """
    reader = _Reader()
    _places(reader, path, env)
    if reader.mistakes and ("control_socket" in reader.wrong or (reader.unread and (path or env.get("YADTQ_CONFIG")))):
        raise ConfigurationError("\n".join(reader.mistakes))
    return str(reader.values.get("control_socket") or config_places.control_socket())


def _contradictions(reader: _Reader) -> list[str]:
    """The cross-checks' mistakes, each with the place of the option to mend; none that come from another mistake."""
    draft = object.__new__(Settings)
    for name, opt in OPTIONS.items():
        object.__setattr__(draft, name, reader.values.get(name, opt.default))
    return [f"{reader.origins.get(name, 'default')}: {name}: {text}" for name, text in config_check.mistakes(draft)
            if not any(wrong == name or wrong in text for wrong in reader.wrong)]


# ---- sources --------------------------------------------------------------------------------------------------------
def _places(reader: _Reader, path: str | os.PathLike[str] | None, env: Mapping[str, str]) -> None:
    """The file and the environment."""
    named = path or env.get("YADTQ_CONFIG")
    if named or os.path.exists(CONFIG_FILE):
        _file(reader, os.fspath(named or CONFIG_FILE))
    _environment(reader, env)


def _file(reader: _Reader, path: str) -> None:
    text = _text(reader, path)
    reader.unread = bool(reader.mistakes)
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:           # ValueError: a number with thousands of digits, too
        reader.unread = True
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        line = re.search(r"at line (\d+)", why)
        reader.mistakes.append(f"{path}:{line[1] if line else len(text.splitlines())}: is no valid TOML: {why}"
                               f"{_meant(text, int(line[1]) if line else 0)}")
        return
    lines = key_lines(text)
    for name, value in table.items():
        origin = f"{path}:{lines.get(name, 1)}"
        if isinstance(value, dict):
            reader.mistakes.append(f"{origin}: [{name}]: there are no sections; {_flat(name, value)}")
        elif name not in OPTIONS:
            reader.unknown(name, origin)
        else:
            reader.take(1, name, value, origin)


def _text(reader: _Reader, path: str) -> str:
    """The file's text; empty, and a mistake more, when it can't be one of ours."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reader.mistakes.append(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}")
        return ""
    if len(data) > MAX_BYTES:
        reader.mistakes.append(f"{path}: is larger than {MAX_BYTES:,} bytes: this is no configuration of yadtq")
        return ""
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            reader.mistakes.append(f"{path}:1: begins with the byte order mark of {encoding}; save it as plain UTF-8, "
                                   "without a mark")
            return ""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        reader.mistakes.append(f"{path}:{line}: is no UTF-8 text (byte {error.start}); save it as UTF-8")
        return ""


def _meant(text: str, line: int) -> str:
    """What was probably meant by a line that is no TOML."""
    shown = text.splitlines()[line - 1].strip() if 0 < line <= len(text.splitlines()) else ""
    if match := re.match(r"([A-Za-z_]\w*)\s*(=|:)\s*([^\s\[{\"'#][^#]*)", shown):
        name, value = match[1], match[3].strip()
        if match[2] == ":" or re.fullmatch(r"[^\"]*[A-Za-z/][^\"]*", value):
            number = re.fullmatch(r"[0-9.]+|true|false", value)
            return f"; write {name} = {value if number else toml(value)}"
    return ""


def _flat(section: str, table: Mapping[str, Any]) -> str:
    """How an entry of a section is written instead: `[kafka] host` was meant as `kafka_host`."""
    for key in table:
        for name in (f"{section}_{key}", key):
            if name in OPTIONS:
                return f"write {name} = ... at the top"
    return "write all options at the top"


def _environment(reader: _Reader, env: Mapping[str, str]) -> None:
    for variable in sorted(env):
        if not variable.startswith(PREFIX) or variable in NOT_OPTIONS or variable.startswith(NOT_OPTION_PREFIXES):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in OPTIONS or variable != variable.upper():
            near = config_check.unknown(name, OPTIONS).partition("; did you mean ")[2]
            hint = "; did you mean " + re.sub(r"\b[a-z_]{3,}\b", lambda m: PREFIX + m[0].upper(), near) if near else ""
            reader.mistakes.append(f"environment: {variable}: there is no such option{hint}")
        else:
            reader.take(2, name, env[variable], variable, text=True)


def _credentials(path: str | os.PathLike[str] | None, env: Mapping[str, str]) -> str:
    """The folder of the credentials: the one that systemd made for this service; else, with the configuration of the
    machine, where they come from (which root alone can read)."""
    if directory := env.get("CREDENTIALS_DIRECTORY"):
        return directory
    return "" if path or env.get("YADTQ_CONFIG") else CREDENTIALS


def _password(reader: _Reader, name: str, credentials: str) -> None:
    """A password from its file, where that was named by a later source than the password itself, or a credential."""
    by_file = f"{name}_file"
    file, origin = reader.values.get(by_file), reader.origins.get(by_file, "")
    if file:
        rank, rank_file = reader.ranks.get(name, 0), reader.ranks[by_file]
        if rank == rank_file:
            reader.mistakes.append(f"{origin}: {by_file}: {name} is given as well; keep one of the two")
        elif rank_file > rank:
            _secret(reader, name, file, f"{origin} ({file})")
    elif not reader.values.get(name) and credentials and os.path.exists(f"{credentials}/{name}"):
        _secret(reader, name, f"{credentials}/{name}", f"credential {name}", optional=True)


def _secret(reader: _Reader, name: str, path: str, origin: str, *, optional: bool = False) -> None:
    """The one line of a file. Where it is optional, a blank one sets nothing: a unit's `SetCredential=` keeps the place
    of a credential that nobody has made."""
    try:
        with open(path, "rb") as stream:
            secret = stream.read(MAX_SECRET_BYTES + 1).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no UTF-8 text"
        reader.mistakes.append(f"{origin}: {name}: {path}: {reason}")
        reader.wrong.add(name)
        return
    if optional and not secret:
        return
    if not secret or len(secret) > MAX_SECRET_BYTES or "\n" in secret:
        reader.mistakes.append(f"{origin}: {name}: {path} holds no single line with a password")
        reader.wrong.add(name)
        return
    reader.values[name], reader.origins[name] = secret, origin


_KEY = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*[.=]""")
_SECTION = re.compile(r"""\s*\[+\s*["']?([A-Za-z0-9_-]+)""")


def key_lines(text: str) -> dict[str, int]:
    """The line on which each top-level key or section of a (valid) TOML text begins; tomllib does not tell."""
    found: dict[str, int] = {}
    inside = ""                                          # the quotes of a multi-line string that is open
    depth = 0                                            # of brackets: lines inside an array are no keys
    section = False
    for number, line in enumerate(text.splitlines(), 1):
        if not inside and not depth:
            if header := _SECTION.match(line):
                section = True
                found.setdefault(header[1], number)
                continue
            if not section and (key := _KEY.match(line)):
                found.setdefault(next(part for part in key.groups() if part is not None), number)
        inside, depth = _scan(line, inside, depth)
    return found


_TOKEN = re.compile(r'''"""|\'\'\'|"(?:\\.|[^"\\])*"|'[^']*'|[\[\]{}]|\#''')


def _scan(line: str, inside: str, depth: int) -> tuple[str, int]:
    """The open multi-line string and the bracket depth after one more line."""
    at = 0
    while at < len(line):
        if inside:
            end = line.find(inside, at)
            if end < 0:
                return inside, depth
            at, inside = end + 3, ""
            continue
        token = _TOKEN.search(line, at)
        if token is None or token[0] == "#":
            break
        if token[0] in ('"""', "'''"):
            inside = token[0]
        elif token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
        at = token.end()
    return inside, depth


# ---- showing --------------------------------------------------------------------------------------------------------
def describe(settings: Settings) -> str:
    """The effective configuration as TOML, each value with its origin as a comment, secrets masked.

    What `yadtqd --check-config` prints.
    """
    rows = [(f"{name} = {toml(MASK if opt.secret and getattr(settings, name) else getattr(settings, name))}",
             settings.origin(name)) for name, opt in OPTIONS.items()]
    width = min(max(len(left) for left, _ in rows), 60)
    return "".join(f"{left:<{width}}  # {origin}\n" for left, origin in rows)


def toml(value: object) -> str:
    """One value as TOML writes it."""
    if isinstance(value, tuple):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)
