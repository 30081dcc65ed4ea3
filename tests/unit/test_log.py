"""Logging: how lines look where they go, what they carry, that nothing forges, floods or blocks them, and forks."""
from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

import pytest

from yadtq import log
from yadtq.config import Settings
from yadtq.errors import KafkaConnectionError
from yadtq.log_format import COLORS, PRIORITIES

LOGGER = logging.getLogger("yadtqd.test")
ID = "0198c5d2-9f6a-7b3c-8d4e-5f6071829304"


def setup(style: str = "plain", process: str = "w3", level: str = "DEBUG") -> io.StringIO:
    stream = io.StringIO()
    log.setup(Settings(log_format=style, log_level=level), process=process, stream=stream, env={})
    return stream


# ---- how lines look -------------------------------------------------------------------------------------------------
def test_a_plain_line() -> None:
    stream = setup()
    LOGGER.info("took %d", 5)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4} INFO     w3\[\d+\] yadtqd\.test: took 5\n",
                        stream.getvalue())


@pytest.mark.parametrize(("level", "codes"), [("DEBUG", "\33[36m"), ("INFO", "\33[32m"), ("WARNING", "\33[33m"),
                                              ("ERROR", "\33[31m"), ("CRITICAL", "\33[31m\33[47m")])
def test_each_level_has_its_colour(level: str, codes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")          # colours that the configuration asks for win
    stream = setup("color")
    LOGGER.log(logging.getLevelName(level), "hello")
    assert f" {codes}{level:<8}\33[0m w3 yadtqd.test: hello\n" in stream.getvalue()
    assert set(COLORS) == {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}


def test_each_line_for_the_journal_has_its_priority() -> None:
    stream = setup("journal")
    for level, priority in PRIORITIES.items():
        LOGGER.log(level, "one\ntwo")
        assert stream.getvalue().endswith(f"<{priority}>w3 yadtqd.test: one\n<{priority}>    two\n")
    assert list(PRIORITIES.values()) == [7, 6, 4, 3, 2]


def test_json_has_one_object_a_line_with_code_and_traceback() -> None:
    stream = setup("json")
    with log.context(task_id=ID, worker="host/w3", partition=0):
        try:
            raise KafkaConnectionError("gone")
        except KafkaConnectionError:
            LOGGER.exception("a\nb")
    LOGGER.info("plain")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["task_id"], first["worker"], first["partition"]) == (ID, "host/w3", 0)
    assert (first["level"], first["message"], first["code"]) == ("ERROR", "a\nb", "KAFKA_CONNECTION_ERROR")
    assert "KAFKA_CONNECTION_ERROR: gone" in first["traceback"]
    assert {"task_id", "worker", "partition", "code", "traceback"}.isdisjoint(second)


def test_no_text_forges_a_line_or_reaches_the_terminal() -> None:
    stream = setup()
    LOGGER.info("%s", "x\n2026-01-01 CRITICAL forged\r\33[2J\0\x9b1m")
    lines = stream.getvalue().splitlines()
    assert lines[0].endswith(": x")
    assert lines[1:] == ["    2026-01-01 CRITICAL forged\\x0d\\x1b[2J\\x00\\x9b1m"]


def test_a_traceback_stands_below_its_line() -> None:
    stream = setup()
    try:
        raise ValueError("bad")
    except ValueError:
        LOGGER.exception("failed")
    lines = stream.getvalue().splitlines()
    assert lines[0].endswith("yadtqd.test: failed")
    assert lines[1] == "    Traceback (most recent call last):"
    assert lines[-1] == "    ValueError: bad"


# ---- which style ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("env", "style"), [({}, "color"), ({"NO_COLOR": "1"}, "plain"), ({"NO_COLOR": ""}, "color"),
                                            ({"TERM": "dumb"}, "plain")])
def test_a_terminal_gets_colours_unless_told_otherwise(env: dict[str, str], style: str) -> None:
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal:
        assert log.chosen_format("auto", terminal, env) == style
        assert log.chosen_format("json", terminal, env) == "json"
    os.close(ours)


def test_what_is_no_terminal_gets_plain_lines_and_the_journal_priorities() -> None:
    read, write = os.pipe()
    with open(write, "w") as stream:
        status = os.fstat(write)
        journal = f"{status.st_dev}:{status.st_ino}"
        assert log.chosen_format("auto", stream, {}) == "plain"
        assert log.chosen_format("auto", stream, {"JOURNAL_STREAM": journal}) == "journal"
        assert log.chosen_format("auto", stream, {"JOURNAL_STREAM": journal + "1"}) == "plain"
    os.close(read)
    assert log.chosen_format("auto", io.StringIO(), {"JOURNAL_STREAM": ""}) == "plain"


# ---- what lines carry -----------------------------------------------------------------------------------------------
def test_lines_carry_their_task_and_only_theirs() -> None:
    stream = setup()
    log_lines = stream.getvalue
    with log.context(worker="host/w3"):
        with log.context(task_id=ID, partition=0):
            LOGGER.info("in")
            assert log.current() == (ID, "host/w3", 0)
        LOGGER.info("between")
    LOGGER.info("out")
    lines = log_lines().splitlines()
    assert lines[0].endswith(f"yadtqd.test: [task={ID} worker=host/w3 partition=0] in")
    assert lines[1].endswith("yadtqd.test: [worker=host/w3] between")
    assert lines[2].endswith("yadtqd.test: out")


def test_a_context_holds_for_its_thread_alone_and_until_changed() -> None:
    seen: list[Any] = []

    def work(n: int) -> None:
        log.context(task_id=str(n))
        barrier.wait(20)
        seen.append((n, log.current().task_id))

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(seen) == [(n, str(n)) for n in range(4)]
    assert log.current().task_id == ""


def test_a_context_holds_for_its_asyncio_task_alone() -> None:
    async def work(n: int) -> bool:
        with log.context(task_id=str(n)):
            await asyncio.sleep(0.01)
            return log.current().task_id == str(n)

    async def run() -> list[bool]:
        return await asyncio.gather(*(work(n) for n in range(5)))

    assert all(asyncio.run(run()))


def test_an_exception_takes_the_context_away() -> None:
    with pytest.raises(ZeroDivisionError), log.context(task_id=ID):
        raise ZeroDivisionError
    assert log.current().task_id == ""


# ---- setting up -----------------------------------------------------------------------------------------------------
def test_importing_configures_nothing() -> None:
    code = ("import logging, yadtq, yadtq.log; assert logging.getLogger().handlers == []; "
            "assert logging.getLogger('yadtq').level == 0; assert logging.getLogger('kafka').level == 0")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


def test_setting_up_again_replaces_our_handler_and_leaves_others() -> None:
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    try:
        first, second = setup(), setup(process="w4")
        LOGGER.info("once")
        assert first.getvalue() == ""
        assert second.getvalue().count("once") == 1
        assert other in logging.getLogger().handlers
    finally:
        logging.getLogger().removeHandler(other)


def test_levels_can_be_changed_and_noisy_libraries_stay_quiet() -> None:
    stream = setup(level="INFO")
    noisy = logging.getLogger("redis.connection")     # kafka's own goes elsewhere once a transport was imported
    LOGGER.debug("no")
    noisy.info("no")
    noisy.warning("yes")
    log.set_level("DEBUG")
    LOGGER.debug("yes")
    noisy.debug("yes")
    log.set_level("ERROR")
    LOGGER.warning("no")
    noisy.warning("no")
    assert stream.getvalue().count("yes") == 3
    assert "no\n" not in stream.getvalue()


def test_a_forked_child_sets_up_anew_and_writes_to_the_same_file(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log.setup(Settings(log_file=str(file)), process="supervisor")
    LOGGER.info("parent before")
    handler = next(h for h in logging.getLogger().handlers if isinstance(h, log._Ours))
    with handler.lock:                                  # type: ignore[attr-defined]  # another thread writes just now
        if (pid := os.fork()) == 0:
            log.setup(Settings(log_file=str(file)), process="w0")
            LOGGER.info("child")
            os._exit(0)
    assert wait(pid) == 0
    LOGGER.info("parent after")
    lines = file.read_text().splitlines()
    assert [re.sub(r".*INFO +(\w+)\[\d+\] [\w.]+: ", r"\1 ", line) for line in lines] == [
        "supervisor parent before", "w0 child", "supervisor parent after"]


def wait(pid: int) -> int:
    deadline = time.monotonic() + 20
    while (done := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            return -1
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(done[1])


def test_a_rotated_file_is_opened_again(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log.setup(Settings(log_file=str(file)), process="w0")
    LOGGER.info("one")
    file.rename(tmp_path / "log.1")
    LOGGER.info("two")
    assert "one" in (tmp_path / "log.1").read_text()
    assert "two" in file.read_text()


@pytest.mark.parametrize("process", ["supervisor", "w3"])
def test_a_reader_that_does_not_read_blocks_nobody(process: str) -> None:
    read, write = os.pipe()
    with open(write, "w", buffering=1) as stream, open(read) as reader:
        log.setup(Settings(log_format="plain"), process=process, stream=stream, env={})
        begin = time.monotonic()
        for _ in range(30):                             # 64 KB fill the pipe, the rest is dropped
            LOGGER.info("x" * 3000)
        took_s = time.monotonic() - begin
        assert took_s < 2                               # one line waits its 0.2 s in a worker, none after it
        os.read(read, 60_000)
        LOGGER.info("again")
        os.set_blocking(read, False)
        rest = os.read(read, 200_000).decode()
        assert re.search(r"WARNING .*: \d+ lines were dropped here: nobody read the log\n.* again\n", rest)
        logging.getLogger().handlers = [h for h in logging.getLogger().handlers if not isinstance(h, log._Ours)]
        assert reader.readable()


def test_one_line_longer_than_the_pipe_blocks_nobody() -> None:
    read, write = os.pipe()
    stream: IO[str] = open(write, "w")  # noqa: SIM115 (closed below)
    log.setup(Settings(log_format="plain"), process="supervisor", stream=stream, env={})
    done = threading.Event()

    def work() -> None:
        LOGGER.info("y" * 1_000_000)
        done.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    in_time = done.wait(5)
    os.close(read)                                      # frees the thread if it hangs
    thread.join(5)
    assert in_time
    logging.getLogger().handlers = [h for h in logging.getLogger().handlers if not isinstance(h, log._Ours)]
    with contextlib.suppress(OSError):
        stream.close()


def test_a_reader_that_is_gone_does_no_harm(capsys: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    stream = open(write, "w")  # noqa: SIM115 (closed below)
    log.setup(Settings(log_format="plain"), process="w0", stream=stream, env={})
    LOGGER.info("nobody hears this")
    logging.getLogger().handlers = [h for h in logging.getLogger().handlers if not isinstance(h, log._Ours)]
    with contextlib.suppress(OSError):
        stream.close()


# ---- outages and repeats --------------------------------------------------------------------------------------------
class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_outage_is_one_line_at_its_begin_reminders_and_one_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    clock = Clock()
    kafka = log.Outage(LOGGER, "Kafka", clock=clock)
    kafka.ended()
    for _ in range(1000):                               # 0.1 s apart
        kafka.failed("refused")
        clock.now += 0.1
    assert kafka.lasts
    kafka.ended()
    kafka.ended()
    assert not kafka.lasts
    kafka.failed("refused again")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "Kafka can't be reached: refused"),
        ("WARNING", caplog.records[1].getMessage()),
        ("INFO", "Kafka answers again after 100.0 s (1000 failures)"),
        ("WARNING", "Kafka can't be reached: refused again")]
    assert re.fullmatch(r"Kafka still can't be reached after 60 s \(60\d failures\): refused",
                        caplog.records[1].getMessage())


def record(name: str, message: str, *args: object, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, message, args, None)


def test_repeated_lines_of_a_library_pass_once_in_a_while_with_their_number() -> None:
    clock = Clock()
    limit = log.RepeatFilter(["kafka"], 30.0, clock)
    passed = []
    for n in range(1300):                               # 20 a second for 65 s
        line = record("kafka.conn", "node %d: connection refused at 0x%x", n, n * 77)
        if limit.filter(line):
            passed.append(line.getMessage())
        clock.now += 0.05
    assert len(passed) == 3
    assert re.search(r"\(and 599 like it in the last 30 s\)$|\(and 600 like it in the last 30 s\)$", passed[1])


def test_other_lines_and_other_loggers_are_not_held_back() -> None:
    limit = log.RepeatFilter(["kafka"], 30.0, Clock())
    assert all(limit.filter(record("yadtqd.worker", "same")) for _ in range(5))
    assert all(limit.filter(record("kafkaesque", "same")) for _ in range(5))
    assert limit.filter(record("kafka", "one"))
    assert limit.filter(record("kafka", "other"))
    assert limit.filter(record("kafka", "one", level=logging.ERROR))
    assert not limit.filter(record("kafka", "one"))


def test_the_memory_of_repeats_is_bounded() -> None:
    limit = log.RepeatFilter(["kafka"], 30.0, Clock())
    for n in range(1000):
        assert limit.filter(record("kafka", "message " + chr(97 + n % 26) * (n // 26 + 1)))
    assert len(limit._seen) <= 256


def test_setup_limits_the_libraries() -> None:
    stream = setup()
    for n in range(50):
        logging.getLogger("librdkafka").error("broker %d down", n)
        LOGGER.info("mine %d", n)
    assert stream.getvalue().count("down") == 1
    assert stream.getvalue().count("mine") == 50


def test_a_log_file_whose_folder_is_gone_ends_nobody(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The supervisor would take all its workers along; and the file comes back with its folder."""
    folder = tmp_path / "logs"
    folder.mkdir()
    file = folder / "yadtqd.log"
    log.setup(Settings(log_file=str(file)), process="supervisor")
    logging.getLogger("yadtqd.x").warning("first")
    for one in folder.iterdir():
        one.unlink()
    folder.rmdir()
    logging.getLogger("yadtqd.x").warning("second")
    folder.mkdir()
    logging.getLogger("yadtqd.x").warning("third")
    assert "third" in file.read_text()
    assert "FileNotFoundError" in capfd.readouterr().err
