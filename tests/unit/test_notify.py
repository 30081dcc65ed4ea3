"""What systemd is told, on a real notification socket."""
from __future__ import annotations

import os
import socket

import pytest

from yadtqd.notify import Notifier


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(1)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "2000000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        yield sock


def received(sock):
    sock.setblocking(False)
    out = []
    while True:
        try:
            out.append(sock.recv(4096).decode())
        except BlockingIOError:
            return out


def test_messages_and_an_environment_that_children_can_not_use(systemd):
    notifier = Notifier()
    assert notifier.active
    assert "NOTIFY_SOCKET" not in os.environ
    assert "WATCHDOG_USEC" not in os.environ
    notifier.ready()
    notifier.status(lambda: "2 of 2", 2_000_000_000)
    notifier.status(lambda: "2 of 2", 9_000_000_000)        # nothing new
    notifier.status(lambda: 1 / 0, 9_900_000_000)           # too early: not even made
    notifier.reloading()
    notifier.stopping()
    ready, status, reloading, stopping = received(systemd)
    assert (ready, status, stopping) == ("READY=1", "STATUS=2 of 2", "STOPPING=1")
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    notifier.close()


def test_the_watchdog_hears_of_turns_of_the_loop_only_and_a_drain_asks_for_time(systemd):
    notifier = Notifier()
    for ms in range(0, 2000, 100):
        notifier.turn(10**10 + ms * 1_000_000, busy=ms >= 1000)
    got = received(systemd)
    assert got.count("WATCHDOG=1") == 4             # every half second of two: four times what systemd needs
    assert got.count("EXTEND_TIMEOUT_USEC=10000000") == 2
    notifier.close()


def test_a_full_queue_blocks_nobody_and_the_latest_of_each_kind_comes_through(systemd):
    notifier = Notifier()
    for second in range(1, 2000):
        notifier.status(lambda n=second: f"number {n}", second * 1_000_000_000)
    notifier.ready()
    received(systemd)
    notifier.turn(0, busy=False)
    got = received(systemd)
    assert got[-2:] == ["STATUS=number 1999", "READY=1"]
    notifier.close()


def test_no_text_in_the_status_is_taken_for_another_message(systemd):
    notifier = Notifier()
    notifier.status(lambda: "w0 died over x\nMAINPID=1\r\n\x1b[2J" + "y" * 5000, 2_000_000_000)
    [status] = received(systemd)
    assert status.startswith("STATUS=w0 died over x MAINPID=1 [2Jyyy")
    assert "\n" not in status
    assert len(status) == len("STATUS=") + 1000
    notifier.close()


def test_without_systemd_it_does_nothing(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    assert not notifier.active
    assert notifier.fileno() is None
    notifier.ready()
    notifier.status(lambda: 1 / 0, 10**10)                  # nobody reads it, nobody makes it
    notifier.turn(10**10, busy=True)
    notifier.close()


def test_a_watchdog_that_is_meant_for_another_process_is_not_fed(systemd, monkeypatch):
    monkeypatch.setenv("WATCHDOG_PID", "1")
    notifier = Notifier()
    assert notifier.watchdog_ns == 0
    notifier.close()
