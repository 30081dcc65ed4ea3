"""The playbooks and roles as files: they parse, they are clean, every variable is typed and documented, and what they
write is a configuration that yadtqd takes. What they do to hosts is shown by tests/deploy."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from yadtq.config import Settings

yaml = pytest.importorskip("yaml", reason="ansible is not installed (requirements/deploy.txt)")

pytestmark = pytest.mark.timeout(400)       # ansible-lint and each playbook take seconds, on a busy machine minutes

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = ROOT / "ansible"
PLAYBOOKS = sorted(path.name for path in ANSIBLE.glob("*.yml") if not path.name.startswith(("inventory", "vault")))
ROLES = sorted(path.name for path in (ANSIBLE / "roles").iterdir())
INVENTORIES = ("inventory.example.yml", "inventory.single.yml")


def tool(name: str) -> str:
    """The path of a program of ansible's; the test is skipped where there is none."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (requirements/deploy.txt)")
    return found


def run(*command: str, cwd: Path = ANSIBLE, home: Path | None = None, limit_s: float = 350) -> str:
    """The output of a command that must succeed."""
    path = f"{Path(command[0]).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_DEPRECATION_WARNINGS": "0"}
    if home:
        env["ANSIBLE_HOME"] = str(home)
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=limit_s, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def defaults(role: str) -> dict[str, Any]:
    path = ANSIBLE / "roles" / role / "defaults" / "main.yml"
    return read(path) if path.exists() else {}


@pytest.mark.parametrize("inventory", INVENTORIES)
def test_the_playbooks_parse(inventory: str, tmp_path: Path) -> None:
    run(tool("ansible-playbook"), "-i", inventory, "--syntax-check", *PLAYBOOKS, home=tmp_path)


def test_the_linter_finds_nothing(tmp_path: Path) -> None:
    run(tool("ansible-lint"), "--offline", "--nocolor", "--profile", "production", home=tmp_path)


@pytest.mark.parametrize("role", ROLES)
def test_every_default_has_its_type_and_the_other_way_round(role: str) -> None:
    options = read(ANSIBLE / "roles" / role / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    assert set(options) == set(defaults(role))
    assert all(option.get("type") and option.get("description") for option in options.values())


def test_nobody_sets_the_same_default_twice() -> None:
    shared = set(defaults("yadtq"))
    for role in ROLES:
        if role != "yadtq":
            twice = {name for name in set(defaults(role)) & shared if not name.startswith(f"{role}_")}
            assert not twice, role


def test_no_variables_stand_beside_the_playbooks() -> None:
    """They would win over those of an inventory."""
    assert not (ANSIBLE / "group_vars").exists()
    assert not (ANSIBLE / "host_vars").exists()


@pytest.mark.parametrize("role", ["yadtq", "yadtqd"])
def test_every_variable_is_documented(role: str) -> None:
    text = (ANSIBLE / "README.md").read_text()
    missing = {name for name in defaults(role) if not re.search(rf"`{name}`", text)}
    assert not missing


def test_the_vault_has_every_password_that_a_role_asks_for() -> None:
    offered = set(read(ANSIBLE / "vault.example.yml"))
    files = list(ANSIBLE.glob("roles/*/*/*.yml"))
    asked = {name for path in files for name in re.findall(r"vault_[a-z_]+", path.read_text())}
    assert asked == offered


RENDER = """
- hosts: yadtqd
  connection: local
  gather_facts: false
  roles:
    - {{role: yadtqd, when: false}}
  tasks:
    - ansible.builtin.template:
        src: {roles}/yadtqd/templates/yadtq.toml.j2
        dest: "{out}/{{{{ inventory_hostname }}}}.toml"
    - ansible.builtin.copy:
        content: "{{{{ item.value }}}}\\n"
        dest: "{out}/{{{{ item.key }}}}"
      loop: "{{{{ yadtqd_credentials | dict2items | selectattr('value') }}}}"
"""


def settings_of(tmp_path: Path, inventory: str, host: str, **variables: Any) -> Settings:
    """What yadtqd reads on a host that was deployed with this inventory."""
    play, out = tmp_path / "render.yml", tmp_path / "out"
    out.mkdir()
    play.write_text(RENDER.format(roles=ANSIBLE / "roles", out=out))
    given = {"ansible_python_interpreter": "/usr/bin/python3", "ansible_remote_tmp": str(tmp_path / "remote"),
             "vault_redis_password": "of-redis", "vault_kafka_scram_password": "of-kafka", **variables}
    (tmp_path / "given.yml").write_text(yaml.safe_dump(given))
    run(tool("ansible-playbook"), "-i", inventory, "-e", f"@{tmp_path / 'given.yml'}", str(play), home=tmp_path)
    text = (out / f"{host}.toml").read_text()
    assert not any(password in text for password in ("of-redis", "of-kafka"))
    return Settings.load(out / f"{host}.toml", env={"CREDENTIALS_DIRECTORY": str(out)})


def test_three_hosts_talk_tls_and_ask_sentinels(tmp_path: Path) -> None:
    found = settings_of(tmp_path, "inventory.example.yml", "yadtq2")
    assert found.bootstrap == ["192.0.2.11:9092", "192.0.2.12:9092", "192.0.2.13:9092"]
    assert (found.kafka_security_protocol, found.kafka_sasl_password) == ("SASL_SSL", "of-kafka")
    assert (found.kafka_replication_factor, found.kafka_min_insync_replicas) == (3, 2)
    assert found.redis_sentinels == "192.0.2.11:26379,192.0.2.12:26379,192.0.2.13:26379"
    assert found.redis_ssl
    assert found.redis_password == found.redis_sentinel_password == "of-redis"
    assert found.num_partitions == 12                   # the inventory's


def test_one_box_talks_plainly_to_itself(tmp_path: Path) -> None:
    own = {"task_timeout": 2.5, "tasks": ["a.b"]}
    found = settings_of(tmp_path, "inventory.single.yml", "box", yadtqd_settings=own)
    assert (found.bootstrap, found.redis_host) == (["127.0.0.1:9092"], "127.0.0.1")
    assert (found.kafka_security_protocol, found.redis_ssl, found.redis_sentinels) == ("PLAINTEXT", False, "")
    assert (found.kafka_replication_factor, found.redis_username, found.redis_password) == (1, "yadtq", "of-redis")
    assert (found.task_timeout, found.tasks) == (2.5, ("a.b",))


def test_kafka_and_redis_of_others_are_taken_as_they_are(tmp_path: Path) -> None:
    theirs = {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_mechanism": "SCRAM-SHA-256",
              "kafka_sasl_username": "me", "redis_ssl": True}
    found = settings_of(tmp_path, "inventory.example.yml", "yadtq1", yadtqd_settings=theirs, kafka_external=True,
                        redis_external=True, yadtq_kafka_servers=["k1:9093"], yadtq_redis_hosts=["r1"])
    assert (found.bootstrap, found.kafka_sasl_username, found.kafka_ssl_ca_file) == (["k1:9093"], "me", "")
    assert (found.kafka_replication_factor, found.kafka_min_insync_replicas) == (-1, 0)
    assert (found.redis_host, found.redis_ssl, found.redis_username, found.redis_sentinels) == ("r1", True, "", "")
    assert (found.kafka_sasl_password, found.redis_password) == ("of-kafka", "of-redis")
