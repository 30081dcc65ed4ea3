"""`yadtqd --check` as a user runs it, on servers that are well, are away, or refuse."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from click.testing import CliRunner, Result

from yadtqd.exits import DaemonExit
from yadtqd.main import main

if TYPE_CHECKING:
    from tests.support.services import RedisServer
    from yadtq.config import Settings

pytestmark = pytest.mark.integration


def check(settings: Settings, tmp_path: Path, **changes: Any) -> Result:
    config = tmp_path / "yadtq.toml"
    names = ("kafka_servers", "redis_host", "redis_port", "kafka_task_topic", "kafka_request_timeout_ms")
    values = {name: changes.get(name, getattr(settings, name)) for name in names} | changes
    config.write_text("".join(f"{name} = {value!r}\n" for name, value in values.items()))
    return CliRunner().invoke(main, ["--config", str(config), "--check"])


def test_all_is_well(settings: Settings, tmp_path: Path) -> None:
    said = check(settings, tmp_path)
    assert said.exit_code == DaemonExit.OK, said.output
    assert [line[:4] for line in said.output.splitlines()] == ["ok  "] * 4
    assert "does not exist yet" in said.output, "looking makes no topics"
    assert "append-only file" in said.output


def test_what_is_away_or_refuses_is_named_with_its_code(settings: Settings, own_redis: RedisServer,
                                                        tmp_path: Path) -> None:
    with redis.Redis(host=own_redis.host, port=own_redis.port) as connection:
        connection.config_set("requirepass", "secret")
    said = check(settings, tmp_path, kafka_servers="127.0.0.1:1", kafka_request_timeout_ms=500,
                 redis_port=own_redis.port)
    assert said.exit_code == DaemonExit.FAILED
    assert said.output.count("KAFKA_CONNECTION_ERROR") == 2
    assert "REDIS_REFUSED" in said.output
    assert "secret" not in said.output


def test_a_file_of_certificates_that_is_missing_is_named(settings: Settings, tmp_path: Path) -> None:
    said = check(settings, tmp_path, kafka_security_protocol="SSL", kafka_ssl_ca_file="/nowhere/ca.crt")
    assert said.exit_code == DaemonExit.FAILED
    assert "CONFIGURATION_ERROR: kafka_ssl_ca_file: /nowhere/ca.crt: No such file" in said.output
