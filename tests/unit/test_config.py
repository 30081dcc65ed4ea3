"""Settings: where values come from, which mistakes are refused and how they are told; the docs are the table."""
from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import config_docs
from yadtq import config, config_load
from yadtq.config import OPTIONS, Settings
from yadtq.config_load import describe, key_lines
from yadtq.errors import ConfigurationError

DOCUMENTED = {"KAFKA_HOST": "localhost", "KAFKA_PORT": 9092, "KAFKA_SERVERS": "", "KAFKA_TASK_TOPIC": "yadtq_tasks",
              "KAFKA_HEARTBEAT_TOPIC": "worker-heartbeats", "REDIS_HOST": "localhost", "REDIS_PORT": 6379,
              "REDIS_DB": 0,
              "MAX_WORKER_RETRIES": 3, "HEARTBEAT_INTERVAL": 5, "MISSED_HEARTBEATS_THRESHOLD": 3, "TASK_TIMEOUT": 10,
              "AUTO_COMMIT_INTERVAL_MS": 1000}


def load(tmp_path: Path, text: str = "", env: dict[str, str] | None = None, **overrides: object) -> Settings:
    file = tmp_path / "yadtq.toml"
    file.write_text(text)
    return Settings.load(file, env or {}, **overrides)


def mistakes(tmp_path: Path, text: str = "", env: dict[str, str] | None = None, **overrides: object) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text, env, **overrides)
    return [line.replace(f"{tmp_path}/", "") for line in caught.value.message.splitlines()]


# ---- the table ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_defaults_stand_under_their_names(name: str) -> None:
    assert getattr(config, name) == DOCUMENTED[name]


def test_each_option_has_its_constant_and_both_agree() -> None:
    for name, option in OPTIONS.items():
        assert getattr(config, name.upper()) == option.default
        assert type(getattr(config, name.upper())) is option.type


def test_each_option_says_why_and_its_default_is_allowed() -> None:
    for option in OPTIONS.values():
        assert len(option.doc) > 15
        assert option.doc.endswith(".")
        assert option.read(option.default) == option.default
        assert option.used_by


def test_every_field_of_settings_is_an_option_but_the_origins() -> None:
    assert {f.name for f in dataclasses.fields(Settings)} - {"origins"} == set(OPTIONS)


def test_the_documentation_is_generated_from_the_table() -> None:
    assert config_docs.PAGE.read_text() == config_docs.render(config_docs.PAGE.read_text()), \
        "run: python -m tests.support.config_docs"


def test_the_documented_example_is_valid(tmp_path: Path) -> None:
    examples = config_docs.PAGE.read_text().split("```toml\n")[1:]
    assert examples
    for example in examples:
        assert load(tmp_path, example.split("```")[0])


# ---- sources and their order ----------------------------------------------------------------------------------------
def test_later_sources_win_and_each_value_knows_its_origin(tmp_path: Path) -> None:
    text = 'kafka_host = "file"\nredis_host = "file"\n\nredis_db = 3\n'
    settings = load(tmp_path, text, {"YADTQ_REDIS_HOST": "env", "YADTQ_REDIS_DB": "4"}, redis_db=5)
    assert (settings.kafka_host, settings.redis_host, settings.redis_db) == ("file", "env", 5)
    assert settings.origin("kafka_host") == f"{tmp_path}/yadtq.toml:1"
    assert settings.origin("redis_host") == "YADTQ_REDIS_HOST"
    assert settings.origin("redis_db") == "argument"
    assert settings.origin("kafka_port") == settings.origin("host_name") == "default"


def test_an_override_of_none_is_not_given(tmp_path: Path) -> None:
    assert load(tmp_path, "redis_db = 3", redis_db=None).redis_db == 3


def test_the_file_is_found_by_variable_and_must_then_exist(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("redis_db = 7")
    assert Settings.load(env={"YADTQ_CONFIG": str(file)}).redis_db == 7
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml: can't be read: No such file"):
        Settings.load(env={"YADTQ_CONFIG": str(tmp_path / "nowhere.toml")})


def test_the_usual_file_is_read_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_load, "CONFIG_FILE", str(tmp_path / "yadtq.toml"))
    assert Settings.load(env={}).redis_db == 0
    (tmp_path / "yadtq.toml").write_text("redis_db = 9")
    assert Settings.load(env={}).redis_db == 9


@pytest.mark.parametrize(("variable", "text", "name", "value"), [
    ("YADTQ_REDIS_SSL", "yes", "redis_ssl", True), ("YADTQ_REDIS_SSL", "Off", "redis_ssl", False),
    ("YADTQ_TASK_TIMEOUT", "2.5", "task_timeout", 2.5), ("YADTQ_TASKS", "a.b, c", "tasks", ("a.b", "c")),
    ("YADTQ_TASKS", "", "tasks", ()), ("YADTQ_LOG_LEVEL", "debug", "log_level", "DEBUG"),
    ("YADTQ_KAFKA_SERVERS", "a:1,b:2", "kafka_servers", "a:1,b:2"),
])
def test_environment_variables_are_converted(variable: str, text: str, name: str, value: object) -> None:
    assert getattr(Settings.load("/dev/null", {variable: text}), name) == value


def test_static_partitions_from_the_environment() -> None:
    env = {"YADTQ_PARTITIONS": "0, 2", "YADTQ_ASSIGNMENT": "static"}
    assert Settings.load("/dev/null", env).partitions == (0, 2)


def test_variables_of_others_are_left_alone() -> None:
    assert Settings.load("/dev/null", {"PATH": "/bin", "YADTQD_X": "1", "YADTQ_TEST_SEED": "1"})


# ---- mistakes -------------------------------------------------------------------------------------------------------
def test_all_mistakes_are_told_at_once_with_their_lines_and_a_suggestion(tmp_path: Path) -> None:
    text = '# comment\nkafka_hots = "x"\ntask_timeout = "10s"\nredis_port = 0\n[kafka]\nhost = "x"\n'
    assert mistakes(tmp_path, text, {"YADTQ_REDIS_HOTS": "x", "YADTQ_FETCH_BATCH": "many"}, max_workr=1) == [
        "yadtq.toml:2: kafka_hots: there is no such option; did you mean kafka_host or kafka_port?",
        "yadtq.toml:3: task_timeout: '10s' is no number of seconds; write 10 (seconds)",
        "yadtq.toml:4: redis_port: 0 is out of range; allowed: 1 to 65535",
        "yadtq.toml:5: [kafka]: there are no sections; write kafka_host = ... at the top",
        "YADTQ_FETCH_BATCH: fetch_batch: 'many' is no whole number of records",
        "environment: YADTQ_REDIS_HOTS: there is no such option; did you mean YADTQ_REDIS_HOST or YADTQ_REDIS_PORT?",
        "argument: max_workr: there is no such option; did you mean max_workers or max_worker_retries?",
    ]


@pytest.mark.parametrize(("text", "said"), [
    ("redis_db = true", "True is no whole number"), ("redis_db = 1.5", "1.5 is no whole number"),
    ("task_timeout = inf", "inf is no finite number"), ("task_timeout = nan", "nan is no finite number"),
    ('redis_ssl = "yes"', "'yes' is no truth value (true or false)"), ("kafka_host = 5", "5 is no string"),
    ('tasks = "a.b"', "'a.b' is no list of strings"), ("tasks = [1]", "[1] is no list of strings"),
    ('tasks = ["a b"]', "'a b' is no module path"), ('transport = "kafka"', "'kafka' is unknown; allowed: 'auto'"),
    ('kafka_task_topic = "a b"', "is no valid name"), ('kafka_servers = "a:b"', "'a:b' has no valid port"),
    ("redis_password = 5", "a secret is no string"), ('partitions = ["0"]', "is no list of numbers"),
])
def test_bad_values_are_refused(tmp_path: Path, text: str, said: str) -> None:
    [mistake] = mistakes(tmp_path, text)
    assert mistake.startswith("yadtq.toml:1: ")
    assert said in mistake


@pytest.mark.parametrize(("text", "line"), [("a = 1\nb = = 2\n", 2), ("a = [1,\n", 1), ("a = 1\na = 2\n", 2)])
def test_what_is_no_toml_is_refused_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    [mistake] = mistakes(tmp_path, text)
    assert mistake.startswith(f"yadtq.toml:{line}: is no valid TOML: ")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigurationError, match="is no UTF-8 text"):
        Settings.load(tmp_path / "x.toml", {})


@pytest.mark.parametrize(("options", "name"), [
    ({"fetch_batch": 500, "prefetch": 499}, "prefetch"), ({"assignment": "static"}, "partitions"),
    ({"partitions": (0,)}, "partitions"), ({"assignment": "static", "partitions": (1, 1)}, "partitions"),
    ({"max_payload_bytes": 1_000_000}, "max_payload_bytes"), ({"kafka_security_protocol": "SSL",
                                                              "kafka_ssl_cert_file": "x"}, "kafka_ssl_cert_file"),
    ({"kafka_replication_factor": 1, "kafka_min_insync_replicas": 2}, "kafka_min_insync_replicas"),
    ({"kafka_sasl_username": "u"}, "kafka_security_protocol"), ({"kafka_security_protocol": "SASL_SSL",
     "kafka_sasl_mechanism": "PLAIN", "kafka_sasl_username": "u"}, "kafka_sasl_password"),
    ({"redis_ssl_ca_file": "x"}, "redis_ssl"), ({"redis_ssl": True, "redis_ssl_key_file": "x"}, "redis_ssl_cert_file"),
    ({"redis_sentinel_username": "x"}, "redis_sentinels"),
    ({"redis_sentinels": "s1", "redis_sentinel_master": " "}, "redis_sentinel_master"),
    ({"host_name": "a/b"}, "host_name"),
    ({"max_lone": 2}, "max_lone"), ({"processing_after_ms": 60_000}, "processing_after_ms"),
    ({"kafka_heartbeat_topic": "yadtq_tasks"}, "kafka_task_topic"),
])
def test_contradictions_are_refused(options: dict[str, object], name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings(**options)
    assert caught.value.message.startswith(f"{name}: ")
    with pytest.raises(ConfigurationError, match=f": {name}: "):
        Settings.load("/dev/null", {}, **options)


def test_a_contradiction_names_the_line(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "\nprefetch = 10\n") == [
        "yadtq.toml:2: prefetch: 10 is less than one batch (fetch_batch = 1000)"]


def test_a_bad_value_brings_no_contradictions_of_its_own(tmp_path: Path) -> None:
    assert len(mistakes(tmp_path, 'fetch_batch = "50"\nprefetch = 100\n')) == 1


@given(st.dictionaries(st.sampled_from(sorted(OPTIONS)), st.none() | st.booleans() | st.integers() | st.floats()
                       | st.text() | st.lists(st.integers() | st.text(), max_size=3), max_size=5))
def test_any_values_either_load_or_are_configuration_errors(values: dict[str, object]) -> None:
    try:
        settings = Settings.load("/dev/null", {}, **values)
    except ConfigurationError:
        return
    for name, value in values.items():
        got = getattr(settings, name)
        assert type(got) is OPTIONS[name].type
        assert value is None or got == value or str(got).lower() == str(value).lower().strip() or name in (
            "tasks", "partitions", "kafka_servers", "host_name", "control_socket", "pid_file")


# ---- lines of keys --------------------------------------------------------------------------------------------------
def test_lines_are_found_behind_strings_arrays_and_sections() -> None:
    text = 'a = """\nb = 1\n"""\nc = [  # [\n  "x]",\n]\n"d" = \'#\'\n\'e\'= 1\n\n[f]\ng = 1\n[[h]]\n'
    assert key_lines(text) == {"a": 1, "c": 4, "d": 7, "e": 8, "f": 10, "h": 12}


@given(st.lists(st.tuples(st.text("abc_", min_size=1, max_size=8), st.sampled_from(
    ["1", "'x = 1'", '"#"', "[1,\n2]", '"""\nq = 1\n"""', "'''\n[z]\n'''", '"a\\"b"', "[['x]'],\n[]]  # ]"])),
    unique_by=lambda pair: pair[0]))
def test_lines_of_any_keys_are_those_where_they_begin(pairs: list[tuple[str, str]]) -> None:
    text, expected = "", {}
    for name, value in pairs:
        expected[name] = text.count("\n") + 1
        text += f"{name} = {value}\n"
    assert set(tomllib.loads(text)) == set(expected)
    assert key_lines(text) == expected


# ---- passwords ------------------------------------------------------------------------------------------------------
def test_a_password_comes_from_its_file_without_the_line_end(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("geheim \n")
    settings = load(tmp_path, f'redis_password_file = "{tmp_path}/secret"')
    assert settings.redis_password == "geheim "
    assert settings.origin("redis_password") == f"{tmp_path}/yadtq.toml:1 ({tmp_path}/secret)"


def test_a_systemd_credential_is_used_unless_something_else_was_configured(tmp_path: Path) -> None:
    (tmp_path / "redis_password").write_text("from-systemd")
    env = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert load(tmp_path, "", env).redis_password == "from-systemd"
    assert load(tmp_path, "", env).origin("redis_password") == "credential redis_password"
    assert load(tmp_path, 'redis_password = "own"', env).redis_password == "own"
    assert load(tmp_path, "", env, redis_password="argument").redis_password == "argument"


@pytest.mark.parametrize("name", [name for name, opt in OPTIONS.items() if opt.secret])
def test_every_secret_may_be_a_credential(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("geheim\n")
    env = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    sasl = 'kafka_security_protocol = "SASL_SSL"\nkafka_sasl_mechanism = "PLAIN"\nkafka_sasl_username = "u"\n'
    settings = load(tmp_path, sasl if name == "kafka_sasl_password" else "", env)
    assert getattr(settings, name) == "geheim"
    assert settings.origin(name) == f"credential {name}"


@pytest.mark.parametrize("content", ["", "\n", "\r\n"])
def test_a_blank_credential_is_one_that_nobody_has_made(tmp_path: Path, content: str) -> None:
    (tmp_path / "redis_password").write_text(content)
    env = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert load(tmp_path, "", env).redis_password == ""
    assert load(tmp_path, "", env).origin("redis_password") == "default"


def test_a_credential_that_is_no_password_is_refused(tmp_path: Path) -> None:
    (tmp_path / "redis_password").write_text("two\nlines\n")
    with pytest.raises(ConfigurationError, match=r"credential redis_password: redis_password: .* no single line"):
        load(tmp_path, "", {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_outside_of_the_unit_the_credentials_of_the_machine_go_with_its_configuration(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For root at a terminal; whoever names another file is not given the machine's passwords."""
    (tmp_path / "redis_password").write_text("the machine's")
    monkeypatch.setattr(config_load, "CREDENTIALS", str(tmp_path))
    monkeypatch.setattr(config_load, "CONFIG_FILE", str(tmp_path / "none.toml"))
    assert Settings.load(env={}).redis_password == "the machine's"
    assert load(tmp_path, "").redis_password == ""


# ---- the control socket alone ---------------------------------------------------------------------------------------
def test_who_only_asks_the_daemon_needs_no_valid_configuration(tmp_path: Path) -> None:
    file = tmp_path / "yadtq.toml"
    file.write_text('kafka_security_protocol = "SASL_SSL"\nredis_port = "many"\ncontrol_socket = "/x/s"\n')
    assert config_load.control_socket(file, {}) == "/x/s"
    assert config_load.control_socket(file, {"YADTQ_CONTROL_SOCKET": "/y/s"}) == "/y/s"
    file.write_text("control_socket = 5\n")
    with pytest.raises(ConfigurationError, match="control_socket: 5 is no string"):
        config_load.control_socket(file, {})


def test_a_file_that_was_named_must_be_readable_and_the_usual_one_need_not(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "yadtq.toml"
    with pytest.raises(ConfigurationError, match="can't be read"):
        config_load.control_socket(file, {})
    file.write_text("half a line\n")
    with pytest.raises(ConfigurationError, match="no valid TOML"):
        config_load.control_socket(None, {"YADTQ_CONFIG": str(file)})
    monkeypatch.setattr(config_load, "CONFIG_FILE", str(file))
    assert config_load.control_socket(None, {}).endswith("/yadtqd.sock")


def test_the_later_of_password_and_password_file_wins(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("file")
    env = {"YADTQ_REDIS_PASSWORD_FILE": f"{tmp_path}/secret"}
    assert load(tmp_path, 'redis_password = "toml"', env).redis_password == "file"
    assert load(tmp_path, "", env, redis_password="argument").redis_password == "argument"
    assert "keep one of the two" in mistakes(tmp_path, "", {**env, "YADTQ_REDIS_PASSWORD": "x"})[0]


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb\n", b"\xff", b"x" * 5000])
def test_a_file_that_holds_no_password_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    [mistake] = mistakes(tmp_path, "", {"YADTQ_REDIS_PASSWORD_FILE": f"{tmp_path}/secret"})
    assert mistake.startswith("YADTQ_REDIS_PASSWORD_FILE (")


def test_a_password_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    [mistake] = mistakes(tmp_path, f'redis_password_file = "{tmp_path}/none"')
    assert "No such file" in mistake


def test_secrets_show_nowhere(tmp_path: Path) -> None:
    settings = load(tmp_path, 'redis_password = "hush"')
    for shown in (repr(settings), str(settings), describe(settings)):
        assert "hush" not in shown
    [mistake] = mistakes(tmp_path, 'redis_password = ["hush"]')
    assert "hush" not in mistake


# ---- the object -----------------------------------------------------------------------------------------------------
def test_settings_are_frozen_and_survive_pickle_and_replace() -> None:
    settings = Settings(kafka_host="a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.kafka_host = "b"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(settings)) == settings
    changed = settings.replace(kafka_host="b")
    assert (settings.kafka_host, changed.kafka_host) == ("a", "b")
    assert changed.origin("kafka_host") == "argument"
    with pytest.raises(ConfigurationError, match="did you mean kafka_host"):
        settings.replace(kafka_hots="b")
    with pytest.raises(ConfigurationError, match="out of range"):
        settings.replace(redis_port=0)


def test_settings_list_all_bad_values() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings(redis_port=0, kafka_port="x")  # type: ignore[arg-type]
    assert [line.split(":")[0] for line in caught.value.message.splitlines()] == ["kafka_port", "redis_port"]


@pytest.mark.parametrize(("servers", "expected"), [
    ("", ["h:1"]), ("a:2,b", ["a:2", "b:1"]), (" a:2 , ", ["a:2"]), ("[::1]:5,[::2]", ["[::1]:5", "[::2]:1"])])
def test_bootstrap(servers: str, expected: list[str]) -> None:
    assert Settings(kafka_host="h", kafka_port=1, kafka_servers=servers).bootstrap == expected


def test_servers_may_be_a_list_in_toml(tmp_path: Path) -> None:
    assert load(tmp_path, 'kafka_servers = ["a:1", "b:2"]').bootstrap == ["a:1", "b:2"]


def test_the_effective_configuration_is_toml_that_gives_the_same_again(tmp_path: Path) -> None:
    settings = load(tmp_path, 'tasks = ["a.b"]\nkafka_host = "q\\"\\\\ü"', {"YADTQ_TASK_TIMEOUT": "0.5"})
    text = describe(settings)
    assert f"# {tmp_path}/yadtq.toml:1" in text
    assert "# YADTQ_TASK_TIMEOUT" in text
    assert load(tmp_path, text) == settings


@pytest.mark.parametrize(("uid", "run", "runtime", "expected"), [
    (0, False, None, "/run/yadtq"), (1000, True, None, "/run/yadtq"), (1000, False, "/run/user/1000",
                                                                      "/run/user/1000/yadtq"),
    (1000, False, None, "/tmp/yadtq-1000")])
def test_the_run_folder(monkeypatch: pytest.MonkeyPatch, uid: int, run: bool, runtime: str | None,
                        expected: str) -> None:
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setattr(os.path, "isdir", lambda path: run)
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime or "")
    settings = Settings()
    assert (settings.control_socket, settings.pid_file) == (f"{expected}/yadtqd.sock", f"{expected}/yadtqd.pid")


def test_importing_config_needs_the_standard_library_only_and_reads_nothing() -> None:
    code = ("import sys; import yadtq.config, yadtq.config_load, yadtq.errors, yadtq.options; "
            "print(*{m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names))")
    env = {**os.environ, "YADTQ_NONSENSE": "1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True, timeout=60)
    assert not {"msgspec", "kafka", "redis", "numpy", "click", "rich", "confluent_kafka"} & set(run.stdout.split())


# ---- Sentinels ------------------------------------------------------------------------------------------------------
def test_sentinels_are_a_list_with_a_port_of_their_own() -> None:
    settings = Settings(redis_sentinels="s1:26380, s2 ,[::1]:5")
    assert settings.sentinels == [("s1", 26380), ("s2", 26379), ("::1", 5)]
    assert settings.redis_where == "yadtq of the Sentinels s1:26380, s2 ,[::1]:5"
    assert Settings(redis_sentinels=["a:1", "b:2"]).sentinels == [("a", 1), ("b", 2)]       # type: ignore[arg-type]
    assert Settings().sentinels == []
    assert Settings().redis_where == "localhost:6379"
    with pytest.raises(ConfigurationError, match="no valid port"):
        Settings(redis_sentinels="s1:x")


def test_the_password_of_the_sentinels_may_be_a_file_or_a_credential(tmp_path: Path) -> None:
    (tmp_path / "redis_sentinel_password").write_text("hush\n")
    env = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert load(tmp_path, 'redis_sentinels = "s"', env).redis_sentinel_password == "hush"
    named = f'redis_sentinels = "s"\nredis_sentinel_password_file = "{tmp_path}/redis_sentinel_password"\n'
    assert load(tmp_path, named).redis_sentinel_password == "hush"
    assert "hush" not in repr(load(tmp_path, named))
