"""Lines for systemd's journal: their fields, on a real datagram socket; and a journal that is slow, new or gone."""
from __future__ import annotations

import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from yadtq import log, log_journal
from yadtq.config import Settings
from yadtq.errors import KafkaConnectionError

LOGGER = logging.getLogger("yadtqd.test")
ID = "0198c5d2-9f6a-7b3c-8d4e-5f6071829304"


class FakeJournal:
    """A datagram socket at a path, read as systemd-journald reads it, and a pipe as the standard error beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listen()
        self.read_fd, self.write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        self.stderr: IO[str] = open(self.write_fd, "w")  # noqa: SIM115 (closed in `close`)
        status = os.fstat(self.write_fd)
        self.env = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}

    def listen(self) -> None:
        self.path.unlink(missing_ok=True)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(self.path))
        self.sock.setblocking(False)

    def setup(self, process: str = "w3", **options: str) -> None:
        log.setup(Settings(log_level="DEBUG", **options), process=process, stream=self.stderr, env=self.env)  # type: ignore[arg-type]

    def entries(self) -> list[dict[str, str]]:
        found = []
        while True:
            try:
                found.append(parse(self.sock.recv(1 << 20)))
            except BlockingIOError:
                return found

    def on_stderr(self) -> str:
        self.stderr.flush()
        try:
            return os.read(self.read_fd, 1 << 20).decode()
        except BlockingIOError:
            return ""

    def close(self) -> None:
        self.sock.close()
        self.stderr.close()
        os.close(self.read_fd)


def parse(data: bytes) -> dict[str, str]:
    """The native protocol, from its description: NAME=value, or NAME, a little-endian length, the bytes."""
    found = {}
    while data:
        line, _, rest = data.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
            data = rest
        else:
            name, size = line, struct.unpack("<Q", rest[:8])[0]
            value, data = rest[8:8 + size], rest[8 + size:]
            assert data[:1] == b"\n"
            data = data[1:]
        found[name.decode()] = value.decode()
    return found


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeJournal]:
    monkeypatch.setattr(log_journal, "SOCKET", str(tmp_path / "journal"))
    fake = FakeJournal(tmp_path / "journal")
    yield fake
    fake.close()


# ---- fields ---------------------------------------------------------------------------------------------------------
def test_a_line_has_its_priority_and_its_fields(journal: FakeJournal) -> None:
    journal.setup()
    with log.context(task_id=ID, worker="host/w3", partition=0):
        LOGGER.warning("took %d", 5)
    [entry] = journal.entries()
    assert entry["MESSAGE"] == f"w3 yadtqd.test: [task={ID} worker=host/w3 partition=0] took 5"
    assert (entry["YADTQ_TASK_ID"], entry["YADTQ_WORKER"], entry["YADTQ_PARTITION"]) == (ID, "host/w3", "0")
    assert (entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"], entry["YADTQ_PROCESS"]) == ("4", "yadtqd", "w3")
    assert (entry["YADTQ_LOGGER"], entry["CODE_FUNC"]) == ("yadtqd.test",
                                                          "test_a_line_has_its_priority_and_its_fields")
    assert entry["CODE_FILE"] == __file__
    assert entry["CODE_LINE"].isdecimal()
    assert journal.on_stderr() == ""


def test_a_line_about_nothing_in_particular_has_no_such_fields(journal: FakeJournal) -> None:
    journal.setup("supervisor")
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        LOGGER.log(level, "x")
    entries = journal.entries()
    assert [entry["PRIORITY"] for entry in entries] == ["7", "6", "4", "3", "2"]
    absent = {"YADTQ_TASK_ID", "YADTQ_WORKER", "YADTQ_PARTITION", "YADTQ_CODE"}
    assert all(absent.isdisjoint(entry) for entry in entries)


def test_a_line_may_bring_fields_of_its_own(journal: FakeJournal) -> None:
    journal.setup("supervisor")
    with log.context(worker="host/w1"):
        LOGGER.error("w1 died", extra={"task_id": ID, "partition": 7})
    [entry] = journal.entries()
    assert (entry["YADTQ_TASK_ID"], entry["YADTQ_WORKER"], entry["YADTQ_PARTITION"]) == (ID, "host/w1", "7")


def test_every_thread_of_a_worker_names_it(journal: FakeJournal) -> None:
    log.setup(Settings(), process="w3", worker="host/w3", stream=journal.stderr, env=journal.env)
    thread = threading.Thread(target=LOGGER.warning, args=("from a thread",))
    thread.start()
    thread.join(10)
    [entry] = journal.entries()
    assert (entry["YADTQ_WORKER"], entry["MESSAGE"]) == ("host/w3", "w3 yadtqd.test: from a thread")


def test_a_traceback_is_one_entry_with_its_code(journal: FakeJournal) -> None:
    journal.setup()
    try:
        raise KafkaConnectionError("gone")
    except KafkaConnectionError:
        LOGGER.exception("a\nb")
    [entry] = journal.entries()
    lines = entry["MESSAGE"].splitlines()
    assert lines[:3] == ["w3 yadtqd.test: a", "b", "Traceback (most recent call last):"]
    assert lines[-1].endswith("KAFKA_CONNECTION_ERROR: gone")
    assert (entry["YADTQ_CODE"], entry["PRIORITY"]) == ("KAFKA_CONNECTION_ERROR", "3")


def test_no_text_makes_a_field_or_reaches_the_terminal(journal: FakeJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.setup()
    for handler in logging.getLogger().handlers:        # pytest's: what it keeps must be text that can be encoded
        if type(handler).__module__.startswith("_pytest"):
            monkeypatch.setattr(handler, "level", logging.CRITICAL)
    with log.context(task_id="x\nPRIORITY=0"):
        LOGGER.info("y\nPRIORITY=0\nMESSAGE=forged\x1b[2J\udcff")
    [entry] = journal.entries()
    assert entry["PRIORITY"] == "6"
    assert entry["MESSAGE"] == "w3 yadtqd.test: [task=x\\nPRIORITY=0] y\nPRIORITY=0\nMESSAGE=forged\\x1b[2J\\udcff"
    assert entry["YADTQ_TASK_ID"] == "x\nPRIORITY=0"


def test_a_line_without_end_is_cut(journal: FakeJournal) -> None:
    journal.setup()
    LOGGER.info("y" * 10_000_000)
    [entry] = journal.entries()
    assert len(entry["MESSAGE"]) < log_journal.MAX_LENGTH + 100
    assert entry["MESSAGE"].endswith("... (cut: 10000016 characters)")


# ---- where the journal is used --------------------------------------------------------------------------------------
@pytest.mark.parametrize("style", ["plain", "json"])
def test_another_format_that_was_asked_for_goes_to_standard_error(journal: FakeJournal, style: str) -> None:
    journal.setup(log_format=style)
    LOGGER.info("hello")
    assert journal.entries() == []
    assert "hello" in journal.on_stderr()


def test_standard_error_that_is_not_the_journals_gets_prefixes(journal: FakeJournal) -> None:
    journal.env = {"JOURNAL_STREAM": "1:1"}
    journal.setup(log_format="journal")
    LOGGER.info("hello")
    assert journal.entries() == []
    assert journal.on_stderr() == "<6>w3 yadtqd.test: hello\n"


def test_without_the_socket_there_are_prefixes(journal: FakeJournal) -> None:
    journal.path.unlink()
    journal.setup()
    LOGGER.info("hello")
    assert journal.on_stderr() == "<6>w3 yadtqd.test: hello\n"


# ---- a journal that is not well -------------------------------------------------------------------------------------
@pytest.mark.parametrize(("process", "patience_s"), [("supervisor", 0.0), ("w3", log.WORKER_PATIENCE_S)])
def test_a_journal_that_does_not_read_holds_up_nobody_and_no_line_is_lost(
        journal: FakeJournal, process: str, patience_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    wait = log_journal.JournalHandler._wait
    monkeypatch.setattr(log_journal.JournalHandler, "_wait", lambda self: waits.append(self._patience_s) or wait(self))
    journal.setup(process)
    for n in range(1000):
        LOGGER.info("line %d", n)
    assert waits == [patience_s]                        # once, not a line
    sent = [entry["MESSAGE"].rpartition(" ")[2] for entry in journal.entries()]
    printed = [line.rpartition(" ")[2] for line in journal.on_stderr().splitlines()]
    assert sent
    assert printed
    assert sent + printed == [str(n) for n in range(1000)]
    LOGGER.info("again")
    assert [entry["MESSAGE"].endswith("again") for entry in journal.entries()] == [True]


def test_a_worker_waits_a_moment_for_a_slow_journal(journal: FakeJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "WORKER_PATIENCE_S", 20.0)     # a moment on a machine that has other things to do
    journal.setup("w3")
    stop, read = threading.Event(), []

    def slowly() -> None:
        while not stop.is_set():
            read.extend(journal.entries())
            stop.wait(0.02)

    reader = threading.Thread(target=slowly)
    reader.start()
    for n in range(2000):
        LOGGER.info("line %d", n)
    deadline = time.monotonic() + 10
    while len(read) < 2000 and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    reader.join(10)
    assert len(read) == 2000
    assert journal.on_stderr() == ""


def test_a_journal_that_was_started_anew_is_found_again(journal: FakeJournal) -> None:
    journal.setup()
    journal.sock.close()
    LOGGER.info("one")
    assert journal.on_stderr() == "<6>w3 yadtqd.test: one\n"
    journal.listen()
    LOGGER.info("two")
    assert [entry["MESSAGE"] for entry in journal.entries()] == ["w3 yadtqd.test: two"]


def test_a_handler_that_closed_all_files_can_still_be_told_of(journal: FakeJournal) -> None:
    journal.setup()
    handler = next(h for h in logging.getLogger().handlers if isinstance(h, log_journal.JournalHandler))
    handler._sock.close()
    LOGGER.error("who was that?")
    assert journal.on_stderr() == "<3>w3 yadtqd.test: who was that?\n"


def test_a_line_that_can_not_be_formatted_ends_nobody(journal: FakeJournal, capsys: pytest.CaptureFixture[str]) -> None:
    journal.setup()
    handler = next(h for h in logging.getLogger().handlers if isinstance(h, log_journal.JournalHandler))
    handler.handle(logging.LogRecord("yadtqd.test", logging.INFO, __file__, 1, "%d", ("x",), None))
    assert journal.entries() == []
    assert "a real number is required" in capsys.readouterr().err


# ---- the end of a process -------------------------------------------------------------------------------------------
def test_a_process_that_ends_waits_until_it_was_heard(journal: FakeJournal) -> None:
    journal.setup("supervisor")
    if (pid := os.fork()) == 0:
        log.setup(Settings(), process="w0", stream=journal.stderr, env=journal.env)
        LOGGER.critical("last words")
        for handler in logging.getLogger().handlers:
            if isinstance(handler, log_journal.JournalHandler):
                handler.settle(60)
        os._exit(0)
    assert select.select([journal.sock], [], [], 60)[0]
    time.sleep(0.2)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)        # still there: nobody has read it
    [entry] = journal.entries()
    assert entry["MESSAGE"] == "w0 yadtqd.test: last words"
    deadline = time.monotonic() + 30
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_it_does_not_wait_for_ever_nor_for_what_others_have_said(journal: FakeJournal) -> None:
    journal.setup()
    LOGGER.info("unread")
    begun = time.monotonic()
    log.settle()
    assert 0.1 <= time.monotonic() - begun < 10
    if (pid := os.fork()) == 0:                         # it has the socket, and nothing to say
        looked: list[int] = []
        log_journal.JournalHandler._unread = lambda _: looked.append(1) or 0
        log.settle()
        os._exit(len(looked))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
