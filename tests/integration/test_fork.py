"""The one fork and the preload, each in a process of its own: this one has threads."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START = """
import json, logging, os, signal, sys, threading, time
from yadtqd import child
from yadtqd.child import ChildContext, fork
from yadtqd.exits import Exit
from yadtqd.shared import Shared
shared = Shared.create(4, 4)
def context(slot=0):
    return ChildContext(None, "worker", "w0", shared.slot(slot), shared)
def wait(made):
    result = os.waitid(os.P_PIDFD, made.pidfd, os.WEXITED)
    return result.si_code == os.CLD_EXITED, result.si_status
"""


def run(code: str) -> object:
    done = subprocess.run([sys.executable, "-c", START + code], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_all_signals_are_blocked_around_the_fork_and_none_after_it():
    assert run("""
seen = {}
real = os.fork
def spy():
    seen["at"] = len(signal.pthread_sigmask(signal.SIG_BLOCK, []))
    return real()
os.fork = spy
made = fork(context(), lambda ctx: len(signal.pthread_sigmask(signal.SIG_BLOCK, [])), [])
everything = len(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
print(json.dumps([seen["at"] == everything, wait(made), len(signal.pthread_sigmask(signal.SIG_BLOCK, []))]))
""") == [True, [True, 0], 0]


def test_a_child_may_fork_without_a_warning_however_nice_it_is():
    """Python 3.12 on counts threads in /proc/self/stat before a fork, and a space in the name shifts its fields."""
    assert run("""
import warnings
os.nice(3)
def forks(ctx):
    warnings.simplefilter("always")
    with warnings.catch_warnings(record=True) as seen:
        if os.fork() == 0:
            os._exit(0)
        os.wait()
    return len(seen) + 10 * (" " in open("/proc/self/comm").read())
print(json.dumps(wait(fork(context(), forks, []))))
""") == [True, 0]


def test_signals_to_a_young_child_do_not_reach_the_parents_wake_up_fd():
    assert run("""
from yadtqd.wakeup import Wakeup
wakeup = Wakeup()
strangers = 0
for _ in range(150):
    made = fork(context(), lambda ctx: time.sleep(5) or 0, wakeup.filenos())
    signal.pidfd_send_signal(made.pidfd, signal.SIGTERM)
    wait(made); os.close(made.pidfd)
    strangers += signal.SIGTERM in os.read(wakeup.fd, 4096)
    wakeup.take()
print(json.dumps(strangers))
""") == 0


def test_it_refuses_to_fork_beside_a_thread():
    assert "2 threads" in run("""
threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
try:
    fork(context(), lambda ctx: 0, [])
except AssertionError as error:
    print(json.dumps(str(error)))
""")


def test_how_a_role_ends_is_its_exit_status():
    assert run("""
def leave(status):
    sys.exit(status)
def fail(ctx):
    raise ValueError("no")
logging.disable()
ends = [lambda ctx: Exit.STALE, lambda ctx: 300, lambda ctx: leave(7), lambda ctx: leave("text"), fail,
        lambda ctx: os.kill(os.getpid(), signal.SIGKILL)]
print(json.dumps([wait(fork(context(), end, [])) for end in ends]))
""") == [[True, 4], [True, 300 & 255], [True, 7], [True, 1], [True, 1], [False, 9]]


def test_a_child_whose_parent_is_gone_already_ends_itself_and_a_later_one_is_killed():
    assert run("""
child.become_subreaper()
read_fd, write_fd = os.pipe()
def late(ctx):
    os.write(write_fd, b"up")
    time.sleep(60)
    return 0
def middle(ctx):
    made = fork(context(1), late, [])
    os.read(read_fd, 2)
    ctx.slot.pid = made.pid
    os.kill(os.getpid(), signal.SIGKILL)
wait(fork(context(), middle, []))
pid = shared.slot(0).pid
print(json.dumps(os.waitpid(pid, 0)[1]))            # reaped here: this process is the subreaper
""") == 9


def test_a_fork_without_a_descriptor_left_leaves_no_child():
    assert run("""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 1, 4096))
fds = []
try:
    while True:
        fds.append(os.dup(0))
except OSError:
    os.close(fds.pop())                              # one for the look at the threads, none for the pidfd
    keep = os.open("/dev/null", os.O_RDONLY)
real = os.listdir
os.listdir = lambda path: ["1"]                      # the look needs a descriptor as well
try:
    fork(context(), lambda ctx: time.sleep(60), [])
except OSError as error:
    os.listdir = real
    os.close(keep)
    left = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    print(json.dumps([error.errno, left]))
""") == [24, []]


def test_the_preload_starts_no_thread_opens_no_descriptor_and_brings_no_numpy():
    before, after, threads, modules = run("""
before = sorted(os.listdir("/proc/self/fd"))
from yadtqd.preload import preload
missing = preload()
print(json.dumps([before, sorted(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")),
                  [name for name in ("numpy", "kafka", "redis", "msgspec", "click", "rich")
                   if name in sys.modules]]))
""")
    assert after == before
    assert threads == 1
    assert {"kafka", "redis", "msgspec"} <= set(modules)
    assert "numpy" not in modules
