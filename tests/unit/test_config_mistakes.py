"""Every kind of mistake in a configuration: refused, with file and line or variable, and what would be right."""
from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtq.config import OPTIONS, Settings
from yadtq.errors import ConfigurationError


def mistake(path: Path, data: bytes | None, **env: str) -> str:
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(path, env=env)
    return caught.value.message


@pytest.mark.parametrize(("data", "line", "says"), [
    (b"redis_port = 6379\nredis_host = localhost\n", 2, 'write redis_host = "localhost"'),
    (b"redis_port: 6379\n", 1, "write redis_port = 6379"),
    (b'log_level: INFO\n', 1, 'write log_level = "INFO"'),
    (b"[redis]\nport = 1\n", 1, "write redis_port = ... at the top"),
    (b"# comment\n\nredis_prot = 1\n", 3, "did you mean redis_port"),
    (b"redis_port = 1\nredis_port = 2\n", 2, "Cannot overwrite a value"),
    (b'redis_port = "6379"\n', 1, "write 6379"),
    (b'task_timeout = "10s"\n', 1, "write 10 (seconds)"),
    (b"redis_port = true\n", 1, "is no whole number"),
    (b"redis_port = [1]\n", 1, "is no whole number"),
    (b"redis_port = 2026-01-01\n", 1, "is no whole number"),
    (b'tasks = ["a", 1]\n', 1, "is no list of strings"),
    (b"task_timeout = inf\n", 1, "no finite number"),
    (b"redis_port = " + b"1" * 400, 1, "so many digits"),
    (b"redis_port = 0x" + b"f" * 9000, 1, "so many digits"),
    (b"redis_port = " + b"1" * 5000, 1, "digits"),
    (b"task_timeout = 1" + b"0" * 400, 1, "so many digits"),
    (b"a = " + b"[" * 30_000, 1, "nested too deeply"),
    (b"a = " + b"{b=" * 9000, 1, "nested too deeply"),
    (b'host_name = "a\\u001b[2J"', 1, "control character"),
    (b'redis_host = "a\\u0000b"', 1, "control character"),
    (b'redis_password = "a\\nb"', 1, "control character"),
    (b'redis_host = "open', 1, "no valid TOML"),
    (b"\xef\xbb\xbfredis_port = 1", 1, "byte order mark of UTF-8; save it as plain UTF-8"),
    ("redis_port = 1".encode("utf-16"), 1, "byte order mark of UTF-16"),
    (b'a = 1\nhost_name = "r\xe9mi"\n', 2, "no UTF-8 text (byte 20); save it as UTF-8"),
    (b"\x7fELF" + bytes(100), 1, "no valid TOML"),
], ids=lambda value: str(value)[:30] if isinstance(value, str) else None)
def test_a_file_with_a_mistake(tmp_path: Path, data: bytes, line: int, says: str) -> None:
    told = mistake(tmp_path / "y.toml", data)
    assert f"{tmp_path}/y.toml:{line}: " in told
    assert says in told
    assert len(told) < 1000


@pytest.mark.parametrize(("path", "says"), [
    ("", "Is a directory"), ("none.toml", "No such file"), ("a\0b", "null byte"), ("/dev/zero", "larger than 65,536"),
    ("closed.toml", "Permission denied"),
])
def test_what_can_not_be_read(tmp_path: Path, path: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "closed.toml":
        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")      # root may read everything
        monkeypatch.setattr("builtins.open", refuse)
    told = mistake(tmp_path / path, None)
    assert str(tmp_path / path) in told
    assert says in told


def test_a_huge_file(tmp_path: Path) -> None:
    assert "larger than" in mistake(tmp_path / "y.toml", b"#" * 10**6)
    assert "larger than" in mistake(tmp_path / "y.toml", b"a" + b".a" * 10**6 + b" = 1")


@pytest.mark.parametrize(("variable", "value", "says"), [
    ("YADTQ_REDIS_PORT", "1" * 5000, "YADTQ_REDIS_PORT: redis_port"), ("YADTQ_TASK_TIMEOUT", "1e999", "no finite"),
    ("YADTQ_REDIS_SSL", "maybe", "neither true nor false"), ("YADTQ_PARTITIONS", "1,x", "write such as 0,1,2"),
    ("YADTQ_PARTITIONS", "1" * 4000, "so many digits"), ("YADTQ_REDIS_HOST", "a\x1bb", "control character"),
    ("YADTQ_REDIS_HOST", "a\udcffb", "control character"), ("YADTQ_REDIS_PROT", "1", "did you mean YADTQ_REDIS_PORT"),
    ("YADTQ_redis_port", "1", "there is no such option"), ("YADTQ_TRANSPORT", "pigeon", "allowed:"),
])
def test_a_variable_with_a_mistake(tmp_path: Path, variable: str, value: str, says: str) -> None:
    told = mistake(tmp_path / "y.toml", b"", **{variable: value})
    assert variable in told
    assert says in told
    assert len(told) < 1000


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    told = mistake(tmp_path / "y.toml", b"redis_port = 0\nredis_prot = 1\n[kafka]\nhost = 1\n", YADTQ_KAFKA_PORT="x")
    assert len(told.splitlines()) == 4


@given(st.sampled_from(list(OPTIONS)), st.none() | st.booleans() | st.integers() | st.floats() | st.text()
       | st.binary() | st.lists(st.integers() | st.text()) | st.dictionaries(st.text(), st.integers())
       | st.just(10**5000) | st.just(-(10**400)))
def test_an_argument_of_any_kind(name: str, value: object) -> None:
    """Settings or a ConfigurationError, never anything else."""
    try:
        Settings(**{name: value})       # type: ignore[arg-type]
    except ConfigurationError as error:
        if not 0 < len(error.message) < 2000:
            raise
