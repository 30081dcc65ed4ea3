"""The promises of YADTQ as code over a history: `violations(history)` says what was promised and did not hold.

Pure: looks at nothing but the history (tests/support/history.py). That each check fails when it should is shown with
broken histories in tests/unit/test_guarantees.py, and with a broken YADTQ in tests/fault/test_mutations.py.

What docs/guarantees.md says can't be promised is found as well, but marked as excused: a Redis that was killed may have
lost its last second, and with it a result that was read or a cancel that was confirmed; and on a host that is frozen as
a whole nobody can end a body, which may then overlap with its successor's.
"""
from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from tests.support.history import ENDS, Ended, Read, Started, Task

if TYPE_CHECKING:
    from tests.support.history import History as Events


@dataclass(frozen=True)
class Rules:
    """What the checks need to know of the run."""

    redis_losses: frozenset[str] = frozenset({"redis_kill"})    # kinds of faults in which Redis may forget
    forgets_s: float = 2.5              # how much of its past such a Redis may have lost
    harmless: frozenset[str] = frozenset()                      # kinds of faults that make nothing run again
    aftermath_s: float = 20.0           # how long after a fault something may run again because of it
    freezes: frozenset[str] = frozenset({"host_freeze"})        # kinds of faults in which nobody can kill a body
    killers: frozenset[str] = frozenset({"poison"})             # kinds of tasks that take their process down,
    disturbers: frozenset[str] = frozenset({"hard_timeout", "soft_timeout", "stopped"})     # ... and their neighbours
    max_crashes: int = 3                # how often such a task may do so while it is alone
    due_early_ms: int = 2               # what a due time was rounded by
    expires_late_ms: int = 1000         # how long a claimed task may lie before it starts
    slack_s: float = 0.001              # between clocks that are one clock, read by two processes


class Violation(NamedTuple):
    """One promise that did not hold."""

    promise: str                        # the name of its check
    ids: tuple[str, ...]
    text: str
    excused: bool = False               # documented as what can't be promised

    def __str__(self) -> str:
        return f"{self.promise}: {self.text} ({', '.join(self.ids)}){' [excused]' if self.excused else ''}"


@dataclass
class Checked:
    """The context of the checks: the rules, and times of faults, so that each is looked up and not searched."""

    history: Events
    rules: Rules
    losses: list[float] = field(default_factory=list)           # of Redis
    faults: list[tuple[float, float]] = field(default_factory=list)     # what may run something again, by its begin
    deaths: list[tuple[float, float]] = field(default_factory=list)     # by tasks that take their process down
    freezes: list[tuple[float, float]] = field(default_factory=list)    # of whole hosts

    @classmethod
    def of(cls, history: Events, rules: Rules) -> Checked:
        """Prepare the look-ups."""
        faults = [(f.begun, f.at + rules.aftermath_s) for f in history.faults if f.kind not in rules.harmless]
        deaths = [(s.at, s.at + rules.aftermath_s) for task in history.tasks.values()
                  if task.kind in rules.killers | rules.disturbers for s in task.starts]
        return cls(history, rules, sorted(f.begun for f in history.faults if f.kind in rules.redis_losses),
                   sorted(faults), sorted(deaths),
                   sorted((f.begun, f.at) for f in history.faults if f.kind in rules.freezes))

    def forgotten(self, told: float, later: float) -> bool:
        """May Redis have forgotten by `later` what somebody was told at `told`?"""
        index = bisect_left(self.losses, told - self.rules.slack_s)
        return index < len(self.losses) and self.losses[index] <= min(later, told + self.rules.forgets_s)

    def faults_between(self, begin: float, end: float) -> int:
        """How many faults may have had something to do with what happened from `begin` to `end`."""
        return _overlapping(self.faults, begin, end)

    def caused(self, begin: float, end: float) -> bool:
        """May something have run again from `begin` to `end`, because of a fault or of a task that kills?"""
        return bool(_overlapping(self.faults, begin, end) or _overlapping(self.deaths, begin, end))

    def frozen(self, begin: float, end: float) -> bool:
        """Was some whole host frozen in this time?"""
        return bool(_overlapping(self.freezes, begin, end))


def _overlapping(windows: list[tuple[float, float]], begin: float, end: float) -> int:
    longest_s = max((over - since for since, over in windows), default=0.0)
    first = bisect_left(windows, (begin - longest_s, 0.0))
    last = bisect_left(windows, (end, 0.0))
    return sum(over >= begin for _, over in windows[first:last])


Found = Iterator[Violation]


# ---- of one task ----------------------------------------------------------------------------------------------------
def lost(task: Task, checked: Checked) -> Found:
    """Accepted means done: it ends, or is in the dead letters."""
    last = max(task.reads, key=lambda read: read.called).status if task.reads else "never read"
    if task.accepted and not task.letters and last not in ENDS:
        yield Violation("lost", (task.id,), f"a {task.kind} task was accepted and has no end ({last})")


def one_result(task: Task, checked: Checked) -> Found:
    """The first end stays: no read says another one, and none goes back."""
    told: Read | None = None
    for read in task.reads:
        if told is not None and read.called >= told.at:
            wrong = _differs(told, read)
            if wrong:
                yield Violation("one_result", (task.id,), wrong, checked.forgotten(told.at, read.at))
                told = None
        if read.status in ENDS and (told is None or told.value is None or read.value is not None):
            told = read


def _differs(told: Read, read: Read) -> str:
    if read.status not in ENDS:
        return f"was {told.status}, and {read.status} when it was read {read.at - told.at:.3f} s later"
    if read.status != told.status or (told.value is not None and read.value is not None and told.value != read.value):
        return f"was {told.status} {told.value}, then {read.status} {read.value}"
    return ""


def true_result(task: Task, checked: Checked) -> Found:
    """A result belongs to a run of this task that came to its end and was read after it."""
    ends = {end.run: end for end in task.ends}
    for read in task.reads:
        if read.status == "SUCCESS" and read.value is not None:
            end = ends.get(read.value)
            if end is None:
                yield Violation("true_result", (task.id,), f"the result is of {read.value!r}, which is no run of it")
                return
            if end.how != "returned":
                yield Violation("true_result", (task.id,), f"it succeeded, but the run {end.run} {end.how}")
                return
            if end.at > read.at + checked.rules.slack_s:
                yield Violation("true_result", (task.id,), f"the result was read before the run {end.run} ended")
                return


def as_expected(task: Task, checked: Checked) -> Found:
    """It ends as its handler ends: no innocent task fails because of others."""
    expect = task.submits[0].expect if task.submits else ()
    for read in task.reads:
        how = read.status if read.status in ("SUCCESS", "CANCELLED") else read.value
        if expect and read.status in ENDS and how is not None and how not in expect:
            yield Violation("as_expected", (task.id,),
                            f"a {task.kind} task ended as {how}, not as {' or '.join(expect)}")
            return


def not_after_its_end(task: Task, checked: Checked) -> Found:
    """Once somebody was told how it ended it does not start again."""
    told = next((read for read in task.reads if read.status in ENDS), None)
    if told is None:
        return
    late = next((start for start in task.starts if start.at > told.at + checked.rules.slack_s), None)
    if late is not None:
        yield Violation("not_after_its_end", (task.id,), f"started {late.at - told.at:.3f} s after {told.status} was "
                        "read", checked.forgotten(told.at, late.at))


def cancelled_stays(task: Task, checked: Checked) -> Found:
    """No start after a confirmed cancel, and no other end."""
    confirmed = next((cancel for cancel in task.cancels if cancel.answer == "CONFIRMED"), None)
    if confirmed is None:
        return
    for start in task.starts:
        if start.at > confirmed.at + checked.rules.slack_s:
            yield Violation("cancelled_stays", (task.id,), f"started {start.at - confirmed.at:.3f} s after its cancel "
                            "was confirmed", checked.forgotten(confirmed.at, start.at))
            return
    for read in task.reads:
        if read.called >= confirmed.at and read.status in ENDS and read.status != "CANCELLED":
            yield Violation("cancelled_stays", (task.id,), f"ended as {read.status} after its cancel was confirmed",
                            checked.forgotten(confirmed.at, read.at))
            return


def attempts(task: Task, checked: Checked) -> Found:
    """No more attempts than its retries allow, and each runs once, and once more per fault that may have hit it."""
    rules = checked.rules
    retries = max((submit.max_retries for submit in task.submits), default=0)
    highest = max((start.attempt for start in task.starts), default=0)
    if highest > retries:
        yield Violation("attempts", (task.id,), f"attempt {highest} of a task with {retries} retries")
    by_attempt: dict[int, list[Started]] = defaultdict(list)
    for start in task.starts:
        by_attempt[start.attempt].append(start)
    for attempt, starts in by_attempt.items():
        if attempt < 0 and len(starts) <= 1 + retries:
            continue
        if task.kind in rules.killers:
            limit = 1 + rules.max_crashes + checked.faults_between(starts[0].at, starts[-1].at)
            if len(starts) > limit:
                yield Violation("attempts", (task.id,), f"attempt {attempt} took its process down {len(starts)} times")
            continue
        for earlier, later in pairwise(starts):
            if not checked.caused(earlier.at, later.at):
                yield Violation("attempts", (task.id,), f"attempt {attempt} started {len(starts)} times, {earlier.run} "
                                f"and {later.run} with no fault in between")
                break


def not_before_due(task: Task, checked: Checked) -> Found:
    """No start before its time."""
    due_ms = max((submit.due_ms for submit in task.submits), default=0)
    for start in task.starts:
        if due_ms and start.wall_ms < due_ms - checked.rules.due_early_ms:
            yield Violation("not_before_due", (task.id,), f"started {due_ms - start.wall_ms} ms before it was due")
            return


def not_after_expiry(task: Task, checked: Checked) -> Found:
    """What was not begun in time is not begun any more (a second run of what was begun may be later)."""
    expires_ms = max((submit.expires_ms for submit in task.submits), default=0)
    for start in task.starts[:1]:
        if expires_ms and start.wall_ms > expires_ms + checked.rules.expires_late_ms:
            yield Violation("not_after_expiry", (task.id,), f"first started {start.wall_ms - expires_ms} ms after it "
                            "had expired")


def submitted(task: Task, checked: Checked) -> Found:
    """Nothing runs that nobody submitted, or that was refused."""
    if task.starts and not task.submits:
        yield Violation("submitted", (task.id,), "nobody has submitted it")
    elif task.starts and all(submit.outcome == "refused" for submit in task.submits):
        yield Violation("submitted", (task.id,), "ran though its submission was refused")


def letters(task: Task, checked: Checked) -> Found:
    """What crashed too often is in the dead letters; what is there has failed."""
    end = next((read for read in reversed(task.reads) if read.status in ENDS), None)
    if end is not None and end.value == "TASK_CRASHED" and not task.letters:
        yield Violation("letters", (task.id,), "ended as TASK_CRASHED and is not in the dead letters")
    if task.letters and end is not None and end.status != "FAILED":
        yield Violation("letters", (task.id,), f"is in the dead letters, and its end is {end.status}",
                        any(checked.forgotten(letter.at, end.at) for letter in task.letters))


# ---- of the tasks of a key ------------------------------------------------------------------------------------------
def key_order(tasks: list[Task], checked: Checked) -> Found:
    """Tasks of a key that were submitted one after the other start one after the other."""
    tasks = sorted((task for task in tasks if task.accepted), key=lambda task: task.submits[0].called)
    for earlier, later in pairwise(tasks):
        if not later.starts or later.submits[0].called < earlier.submits[-1].at:
            continue                                            # side by side, or never begun: no order was promised
        begun = later.starts[0].at
        if not earlier.starts:
            if not any(read.status in ENDS for read in earlier.reads):      # else cancelled or expired
                yield Violation("key_order", (earlier.id, later.id), "the later one started, the earlier never did")
        elif earlier.starts[0].at > begun:
            yield Violation("key_order", (earlier.id, later.id),
                            f"the later one started {earlier.starts[0].at - begun:.3f} s before the earlier")
        elif (end := _last_word(earlier)) is not None and end.at > begun + checked.rules.slack_s:
            yield Violation("key_order", (earlier.id, later.id),
                            f"the later one started {end.at - begun:.3f} s before the earlier was through",
                            checked.frozen(earlier.starts[0].at, end.at))


def _last_word(task: Task) -> Ended | None:
    """The first end of the last attempt: after that, the next of its key may start (the rest may run again)."""
    attempt_of = {start.run: start.attempt for start in task.starts}
    last = max(attempt_of.values(), default=-1)
    return next((end for end in task.ends if attempt_of.get(end.run) == last), None)


def key_overlap(tasks: list[Task], checked: Checked) -> Found:
    """Never do two tasks of a key run at a time."""
    ends = {end.run: end.at for task in tasks for end in task.ends}
    runs = sorted((start.at, ends.get(start.run, start.at), task.id) for task in tasks for start in task.starts)
    since, until, holder = 0.0, 0.0, ""
    for begin, end, id_ in runs:
        if begin < until - checked.rules.slack_s:
            yield Violation("key_overlap", tuple(dict.fromkeys((holder, id_))), f"a run started {until - begin:.3f} s "
                            "before another of its key ended", checked.frozen(since, until))
        if end > until:
            since, until, holder = begin, end, id_


OF_A_TASK: tuple[Callable[[Task, Checked], Found], ...] = (
    lost, one_result, true_result, as_expected, not_after_its_end, cancelled_stays, attempts, not_before_due,
    not_after_expiry, submitted, letters)
OF_A_KEY: tuple[Callable[[list[Task], Checked], Found], ...] = (key_order, key_overlap)


def violations(history: Events, rules: Rules | None = None) -> list[Violation]:
    """All that was promised and did not hold, excused ones included; empty when all is well."""
    checked = Checked.of(history, rules or Rules())
    found = [violation for task in history.tasks.values() for check in OF_A_TASK for violation in check(task, checked)]
    by_key: dict[str, list[Task]] = defaultdict(list)
    for task in history.tasks.values():
        if task.submits and task.submits[0].key:
            by_key[task.submits[0].key].append(task)
    found += [violation for tasks in by_key.values() for check in OF_A_KEY for violation in check(tasks, checked)]
    return found


def unexcused(found: Iterable[Violation]) -> list[Violation]:
    """Those that no documented limit explains."""
    return [violation for violation in found if not violation.excused]
