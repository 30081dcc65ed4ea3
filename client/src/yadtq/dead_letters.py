"""Dead letters for applications and operators: listing them, one of them, replaying and purging them.

Owns the public `DeadLetter` and the filters, and which letters an order means. Reading is `dead_letter_log`'s, what a
replay publishes `dead_letter_replay`'s. Runs in the caller's thread. What is chosen is remembered by its offset (8
bytes) and read again in the order of the deaths, so that any number can be replayed in bounded memory.

A replay publishes the task, waits until Kafka has it, and only then marks the letter as gone: a death in between leaves
the letter, and replaying it again gives the same replay count, which the claim knows already.
"""
from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from yadtq.attempts import Attempt, decode_attempts
from yadtq.codec import decode
from yadtq.dead_letter import DeadLetterMessage, decode_dead_letter
from yadtq.dead_letter_log import DeadLetterLog
from yadtq.dead_letter_replay import BATCH, BATCH_BYTES, Given, Replayer, last_attempt, reason_against
from yadtq.errors import DeadLetterNotFound, InvalidMessage, InvalidTask, YADTQError
from yadtq.submission import Task
from yadtq.task import TaskError, TaskMessage, decode_error, decode_message
from yadtq.tasks_query import When, task_types, unix_ms

if TYPE_CHECKING:
    from yadtq.connections import Connections
    from yadtq.producer import ClearNumbers


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A task that was given up, or a record on the task topic that was no task. Times are Unix times in ms.

    Example:
        >>> letter = client.get_dead_letter(task_id)
        >>> letter.task, letter.code, letter.args, letter.replays
        ('report', 'TASK_CRASHED', ['customer-7'], 0)
    """

    id: str                             # the task's; of what is no task "partition:offset"
    task: str                           # its task type; empty: it is no task
    code: str                           # why it was given up: TASK_CRASHED, INVALID_MESSAGE ...
    message: str
    error: TaskError | None             # the whole error, with the traceback where there is one
    dead_ms: int
    worker: str                         # who gave it up
    partition: int                      # where on the task topic it was
    offset: int
    attempt: int = 0                    # that failed last, from 0
    attempts: tuple[Attempt, ...] = ()  # all that failed, earlier lives' too; of many, the first and the last
    replays: int = 0                    # how often it had been replayed by then
    submitted_ms: int | None = None
    key: str | None = None
    group: str | None = None
    record: bytes = b""                 # as it was on the task topic

    @property
    def is_task(self) -> bool:
        """Whether it can be read as a task: what can't can only be looked at (`record`) and purged."""
        return bool(self.task)

    @property
    def args(self) -> list[Any]:
        """The positional arguments, decoded now. Raises InvalidMessage for what is no task, NumpyMissing."""
        found: list[Any] = decode(decode_message(self.record).args)
        return found

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments, decoded now; raises as `args`."""
        encoded = decode_message(self.record).kwargs
        found: dict[str, Any] = decode(encoded) if encoded else {}
        return found


class ReplayReport(NamedTuple):
    """What came of a replay: the ids that were replayed (would be, in a dry run), and why others were not.

    Example:
        >>> report = client.replay_dead_letters(task="report", dry_run=True)
        >>> len(report.replayed), report.skipped
        (17, {'0:4711': 'it is no task (INVALID_MESSAGE)'})
    """

    replayed: tuple[str, ...]
    skipped: dict[str, str]


class Filter(NamedTuple):
    """Which letters are meant; None: any."""

    tasks: frozenset[str] | None = None
    codes: frozenset[str] | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def matches(self, letter: DeadLetterMessage) -> bool:
        """Whether a letter is meant."""
        return ((self.tasks is None or letter.task in self.tasks) and (self.codes is None or letter.code in self.codes)
                and (self.since_ms is None or letter.dead_ms >= self.since_ms)
                and (self.until_ms is None or letter.dead_ms <= self.until_ms))


class Order(NamedTuple):
    """Which letters an order is for: these ids, or those that match."""

    ids: frozenset[str] | None
    filter: Filter
    limit: int | None


class _Chosen(NamedTuple):
    """What an order found: offsets ascending, ids without a letter, and up to where nothing else is below."""

    offsets: Sequence[int]
    missing: Collection[str]
    trim_to: int | None             # the oldest letter that is not meant, or the end; None: not all was looked at


class DeadLetters:
    """The dead letters of one client."""

    def __init__(self, connections: Connections, clear_numbers: ClearNumbers) -> None:
        self._connections, self._clear_numbers = connections, clear_numbers

    def listing(self, wanted: Filter, limit: int | None) -> Iterator[DeadLetter]:
        """The letters that match, the newest first."""
        left = limit
        if left == 0:
            return
        with self._log() as log:
            for letter in log.newest_first():
                if letter.message is not None and wanted.matches(letter.message):
                    yield shown(letter.message)
                    if left is not None:
                        left -= 1
                        if left == 0:
                            return

    def get(self, task_id: str) -> DeadLetter:
        """One letter; raises DeadLetterNotFound."""
        with self._log() as log:
            letter, mark = log.find(task_id)
        if letter is None:
            gone = f"the dead letter of {task_id} was {mark.how}" if mark is not None else None
            raise DeadLetterNotFound(gone or f"there is no dead letter of {task_id}")
        if letter.message is None:
            raise DeadLetterNotFound(f"the dead letter of {task_id} was written by a newer YADTQ: upgrade it here")
        return shown(letter.message)

    def replay(self, order: Order, *, dry_run: bool) -> ReplayReport:
        """Publish the tasks of letters again, in the order of their deaths."""
        replayed: list[str] = []
        skipped: dict[str, str] = {}
        oldest_kept: int | None = None                  # of those that were meant
        with self._log() as log:
            chosen = _choose(log, order)
            skipped.update((task_id, "there is no dead letter of it") for task_id in chosen.missing)
            replayer = Replayer(self._connections, self._clear_numbers)
            for batch in _batches(log, chosen.offsets):
                refused = {one.offset: why for one in batch if (why := reason_against(one.letter)) is not None}
                ready = [one for one in batch if one.offset not in refused]
                if ready and not dry_run:
                    refused |= replayer.publish(ready)
                    replayer.mark([one for one in ready if one.offset not in refused], "replayed")
                for offset, letter in batch:
                    if offset in refused:
                        skipped[letter.id] = refused[offset]
                    else:
                        replayed.append(letter.id)
                if refused and oldest_kept is None:
                    oldest_kept = min(refused)
            if replayed and not dry_run:
                _trim(log, chosen, oldest_kept, len(replayed))
        return ReplayReport(tuple(replayed), skipped)

    def purge(self, order: Order, *, dry_run: bool) -> int:
        """Mark letters as gone; returns how many."""
        with self._log() as log:
            chosen = _choose(log, order)
            if chosen.offsets and not dry_run:
                replayer = Replayer(self._connections, self._clear_numbers)
                for batch in _batches(log, chosen.offsets):
                    replayer.mark(batch, "purged")
                _trim(log, chosen, None, len(chosen.offsets))
            return len(chosen.offsets)

    def _log(self) -> DeadLetterLog:
        self._connections.check_open()
        return DeadLetterLog(self._connections.settings, self._connections.opener,
                             self._connections.connect_timeout_s)


def _choose(log: DeadLetterLog, order: Order) -> _Chosen:
    """Which letters are meant: the newest first, until the limit is reached or all ids are found."""
    offsets: array[int] = array("q")
    missing = set(order.ids or ())
    most = len(missing) if order.ids is not None else order.limit
    trim_to: int | None = log.end
    for offset, letter in log.newest_first() if most != 0 else ():
        if letter is None or not (letter.id in missing if order.ids is not None else order.filter.matches(letter)):
            trim_to = offset
            continue
        missing.discard(letter.id)
        offsets.append(offset)
        if len(offsets) == most:
            trim_to = None                              # what else there is nobody has looked at
            break
    offsets.reverse()
    return _Chosen(offsets, sorted(missing), trim_to)


def _trim(log: DeadLetterLog, chosen: _Chosen, oldest_kept: int | None, marks: int) -> None:
    if chosen.trim_to is not None:
        log.trim(chosen.trim_to if oldest_kept is None else min(chosen.trim_to, oldest_kept), marks)


def _batches(log: DeadLetterLog, offsets: Sequence[int]) -> Iterator[list[Given]]:
    """The letters at these offsets, a bounded number of them and of their bytes at a time."""
    batch: list[Given] = []
    size = 0
    for record in log.at(offsets):
        batch.append(Given(record.offset, decode_dead_letter(record.value)))
        size += len(record.value)
        if len(batch) == BATCH or size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def order_for(
    ids: str | Iterable[str] | None, task: Task | Sequence[Task] | None, code: str | Sequence[str] | None, since: When,
    until: When, limit: int | None, *, everything: bool,
) -> Order:
    """An order as an application gave it; raises InvalidTask for one that makes no sense.

    Nothing at all means no letter by accident, not every letter: that is what `everything` is for.
    """
    wanted = filter_for(task, code, since, until, limit)
    filtered = limit is not None or any(one is not None for one in wanted)
    if ids is not None:
        if filtered or everything:
            raise InvalidTask("give either ids, or filters, or everything=True")
        given = (ids,) if isinstance(ids, str) else tuple(ids)
        if not all(isinstance(one, str) and one for one in given):
            raise InvalidTask(f"{given!r:.100} are no ids of dead letters")
        return Order(frozenset(given), wanted, None)
    if filtered == everything:
        raise InvalidTask("give either ids, or filters (task, code, since, until, limit), or everything=True for all "
                          "dead letters")
    return Order(None, wanted, limit)


def filter_for(task: Task | Sequence[Task] | None, code: str | Sequence[str] | None, since: When, until: When,
               limit: int | None) -> Filter:
    """Filters as an application gave them; raises InvalidTask."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise InvalidTask(f"limit must be a whole number, 0 or more, not {limit!r:.100}")
    types = task_types(task)
    codes = (code,) if isinstance(code, str) else code
    return Filter(None if types is None else frozenset(types), None if codes is None else frozenset(codes),
                  unix_ms(since), unix_ms(until))


def shown(letter: DeadLetterMessage) -> DeadLetter:
    """What an application sees of a letter."""
    message = _message(letter.original) if letter.task else None
    fields: dict[str, Any] = {}
    if message is not None:
        fields = {"attempt": message.n, "replays": message.replay, "submitted_ms": message.submitted_ms,
                  "key": message.key, "group": message.group, "attempts": _attempts(letter, message)}
    return DeadLetter(id=letter.id, task=letter.task, code=letter.code, message=letter.message,
                      error=_error(letter.error), dead_ms=letter.dead_ms, worker=letter.worker,
                      partition=letter.partition, offset=letter.offset, record=letter.original, **fields)


def _message(data: bytes) -> TaskMessage | None:
    try:
        return decode_message(data)
    except InvalidMessage:
        return None


def _attempts(letter: DeadLetterMessage, message: TaskMessage) -> tuple[Attempt, ...]:
    try:
        before = decode_attempts(message.history)
    except InvalidMessage:
        before = []
    return (*before, last_attempt(letter, message.n))


def _error(data: bytes) -> TaskError | None:
    try:
        return decode_error(data) if data else None
    except YADTQError:
        return None
