"""From what an application asks for to a message that is ready to be sent.

Owns the checks of a submission and its encoding: everything that can be refused is refused here, before anything is
sent. Pure (the clock and the choice of partitions come in as arguments); runs in whatever thread submits.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from math import isfinite
from typing import Any, NamedTuple, Required, TypedDict, TypeGuard

import msgspec

from yadtq.codec import encode
from yadtq.delayed import DelayedTask, encode_delayed, level_of
from yadtq.errors import InvalidTask, InvalidTaskType, PayloadTooLarge, YADTQError
from yadtq.names import shard_of
from yadtq.partitioning import Partitioner
from yadtq.records import SubmitEntry
from yadtq.task import TaskMessage, encode_message, new_task_id
from yadtq.tasks import name_of

Task = str | Callable[..., Any]    # a task type: its name, or the function that was declared with @task

Due = float | datetime | None      # a Unix time in seconds, or a datetime with a time zone

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")           # as `yadtq.tasks` declares them
_ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")
_LONGEST_S = 1_000_000_000                                        # 31 years
_LONGEST_DELAY_S = 10 * 366 * 86_400                              # ten years; more is a mistake, such as ms for s
_MOST_RETRIES = 1_000_000
_MAX_KEY_LENGTH = 1024                                            # characters
MAX_GROUP_LENGTH = 200                                            # characters: it stands in every record of the group

_names: dict[object, str] = {}


class TaskSpec(TypedDict, total=False):
    """One entry of `submit_tasks`: only `task` is required; the rest is as in `submit_task`.

        entry: TaskSpec = {"task": "addition", "args": [1, 2], "kwargs": {"round_to": 2}, "key": "customer-17"}
    """

    task: Required[Task]
    args: Sequence[Any]
    kwargs: Mapping[str, Any] | None
    key: str | None
    timeout_s: float | None
    grace_s: float | None
    expires_s: float | None
    delay_s: float | None
    due: Due
    max_retries: int | None
    retry_backoff_s: float | None
    task_id: str | None
    group: str | None


ENTRY_KEYS = frozenset(TaskSpec.__annotations__)
_PLAIN_KEYS = frozenset({"task", "args", "kwargs", "key"})        # entries with nothing else skip the rarer checks


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """A submission that passed every check: its message, where it goes, and its bytes.

    Without a place in the garbage collector's lists, like the message: it would walk through a whole batch again and
    again while the batch is made.
    """

    message: TaskMessage
    partition: int
    value: bytes
    key: bytes | None

    def entry(self) -> SubmitEntry:
        """What the result backend is told of it."""
        m = self.message
        return tuple.__new__(SubmitEntry, (     # half the time of SubmitEntry(...)
            m.id, m.task, m.g, m.submitted_ms, self.partition, m.due_ms, m.replay, m.group))

    def delayed(self, now_ms: int) -> tuple[int, bytes, bytes]:
        """Level, value and key of the record that has it wait for its time; for one with a due time."""
        due_ms = self.message.due_ms
        assert due_ms is not None
        waits = DelayedTask(due_ms=due_ms, partition=self.partition, key=self.key, value=self.value)
        return level_of(due_ms - now_ms), encode_delayed(waits), self.message.id.encode()

    def stamped(self, clear_number: int) -> Prepared:
        """The same submission with another clear number (PROTOCOL: CLEARED, stamp anew and produce again)."""
        message = msgspec.structs.replace(self.message, g=clear_number)
        return msgspec.structs.replace(self, message=message, value=encode_message(message))


class Stamp(NamedTuple):
    """What all entries of one call share."""

    clear_numbers: Sequence[int]        # one a shard
    partitions: int                     # of the task topic
    now_ms: int
    turn: int | None = None             # of the partitions, where it is the same for all without a key


class Preparer:
    """Checks and encodes entries for one client; `limit` is what a message may take in bytes."""

    def __init__(self, limit: int, partitioner: Partitioner) -> None:
        self._limit = limit
        self._partitioner = partitioner

    def prepare(self, entry: Mapping[str, Any], stamp: Stamp) -> Prepared:
        """Check and encode one entry; raises InvalidTask or one of its kinds. Nothing has been sent by then."""
        keys = entry.keys()
        if keys <= _PLAIN_KEYS:
            rarer: dict[str, Any] = {}
            given_id = None
        else:
            _check_keys(entry)
            rarer = _timing(entry, stamp.now_ms)
            rarer["group"] = checked_group(entry.get("group"))
            given_id = _checked_id(entry.get("task_id"))
        if "task" not in keys:
            raise InvalidTask("a task needs a name: there is no 'task' in this entry")
        name = _cached_name(entry["task"])
        args, kwargs, key = entry.get("args", ()), entry.get("kwargs"), entry.get("key")
        if not isinstance(args, (list, tuple)):
            raise InvalidTask(f"args must be a list or tuple of arguments, not {type(args).__name__}: "
                              "one argument is [argument]")
        encoded = encode(args if isinstance(args, list) else list(args), limit=self._limit, name="args")
        encoded_kwargs = self._encode_kwargs(kwargs) if kwargs else b""
        record_key = _encoded_key(key) if key is not None else None
        task_id = given_id or new_task_id()
        message = TaskMessage(id=task_id, task=name, args=encoded, kwargs=encoded_kwargs, key=key,
                              g=stamp.clear_numbers[shard_of(task_id)], submitted_ms=stamp.now_ms, **rarer)
        value = encode_message(message)
        if len(value) > self._limit:
            raise PayloadTooLarge(f"the task {name!r} takes {len(value):,} bytes; the limit is {self._limit:,} bytes "
                                  "(max_payload_bytes)", len(value), self._limit)
        partition = self._partitioner.choose(key, given_id, stamp.partitions, stamp.turn)
        return Prepared(message, partition, value, record_key)

    def prepare_many(
        self, entries: Iterable[Mapping[str, Any]], stamp: Stamp, *, repeats: bool = False,
    ) -> tuple[list[Prepared | None], dict[int, YADTQError]]:
        """Check and encode a batch; per index the prepared submission, or None and why it was refused.

        An id that appears twice is refused unless `repeats`.
        """
        prepared: list[Prepared | None] = []
        refused: dict[int, YADTQError] = {}
        seen: set[str] = set()
        for index, entry in enumerate(entries):
            try:
                if type(entry) is not dict and not isinstance(entry, Mapping):     # the second looks at an ABC: 0.6 us
                    raise InvalidTask("an entry is a dict such as {'task': 'addition', 'args': [1, 2]}, "
                                      f"not {type(entry).__name__}")
                one = self.prepare(entry, stamp)
                if not repeats and "task_id" in entry and entry["task_id"] is not None:
                    if one.message.id in seen:
                        raise InvalidTask(f"the id {one.message.id!r} appears twice in this batch")
                    seen.add(one.message.id)
                prepared.append(one)
            except InvalidTask as refusal:
                prepared.append(None)
                refused[index] = refusal
        return prepared, refused

    def _encode_kwargs(self, kwargs: object) -> bytes:
        if not isinstance(kwargs, Mapping) or not all(isinstance(k, str) for k in kwargs):
            raise InvalidTask("kwargs must be a dict whose keys are strings")
        return encode(dict(kwargs), limit=self._limit, name="kwargs")


def _cached_name(task: object) -> str:
    """As checked_name; what a batch repeats a thousand times is checked once."""
    name = _names.get(task) if isinstance(task, Hashable) else None
    if name is None:
        name = checked_name(task)
        if len(_names) < 1000:
            _names[task] = name
    return name


def checked_name(task: object) -> str:
    """The name of a task type given by name or by its function; raises InvalidTask."""
    if callable(task):
        try:
            return name_of(task)
        except InvalidTaskType as error:
            raise InvalidTask(error.message) from None
    if not isinstance(task, str) or not _NAME.fullmatch(task):
        raise InvalidTask(f"{task!r} is no name of a task type: a letter first, then letters, digits and _ . : -, "
                          "128 characters at most")
    return task


def _checked_id(task_id: object) -> str | None:
    if task_id is None:
        return None
    if not isinstance(task_id, str) or not _ID.fullmatch(task_id):
        raise InvalidTask(f"{task_id!r} is no task id: 1 to 128 letters, digits and . _ : @ / + = -")
    return task_id


def checked_group(group: object) -> str | None:
    """The label of a group as an application gave it; raises InvalidTask."""
    if group is None:
        return None
    if not isinstance(group, str) or not 0 < len(group) <= MAX_GROUP_LENGTH or not group.isprintable():
        raise InvalidTask(f"a group is a string of 1 to {MAX_GROUP_LENGTH} printable characters, not {group!r:.100}")
    return group


def _encoded_key(key: object) -> bytes:
    if not isinstance(key, str) or not 0 < len(key) <= _MAX_KEY_LENGTH:
        raise InvalidTask(f"a key is a string of 1 to {_MAX_KEY_LENGTH} characters, not {key!r:.100}")
    try:
        return key.encode()
    except UnicodeEncodeError:
        raise InvalidTask(f"the key {key!r:.100} is not valid Unicode") from None


def _check_keys(entry: Mapping[str, Any]) -> None:
    for name in entry:
        if name not in ENTRY_KEYS:
            near = get_close_matches(str(name), ENTRY_KEYS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(ENTRY_KEYS))}"
            raise InvalidTask(f"an entry has no {name!r}{hint}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _timing(entry: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
    """The options that say how long and how often, as fields of the message."""
    fields: dict[str, Any] = {}
    due_ms = _due_ms(entry.get("delay_s"), entry.get("due"), now_ms)
    if due_ms is not None:
        fields["due_ms"] = due_ms
    for name, zero_allowed in (("timeout_s", False), ("grace_s", True), ("expires_s", False),
                               ("retry_backoff_s", True)):
        value = entry.get(name)
        if value is None:
            continue
        if not _is_number(value) or value < 0 or (value == 0 and not zero_allowed):
            wanted = "0 or more" if zero_allowed else "above 0"
            raise InvalidTask(f"{name} must be a number of seconds, {wanted}, not {value!r}")
        if value > _LONGEST_S:
            raise InvalidTask(f"{name} may be at most {_LONGEST_S:,} s, not {value!r}")
        if name == "expires_s":
            fields["expires_ms"] = (due_ms or now_ms) + round(value * 1000)
        else:
            fields[name] = float(value)
    retries = entry.get("max_retries")
    if retries is not None:
        if isinstance(retries, bool) or not isinstance(retries, int) or not 0 <= retries <= _MOST_RETRIES:
            raise InvalidTask(f"max_retries must be a whole number from 0 to {_MOST_RETRIES:,}, not {retries!r:.100}")
        fields["max_retries"] = retries
    return fields


def _due_ms(delay_s: object, due: object, now_ms: int) -> int | None:
    """When a task is due, as Unix ms; None for at once, which is also what a due time in the past means."""
    if delay_s is None and due is None:
        return None
    if delay_s is not None and due is not None:
        raise InvalidTask("give either delay_s or due, not both")
    if due is None:
        if not _is_number(delay_s) or not 0 <= delay_s <= _LONGEST_DELAY_S:
            raise InvalidTask(f"delay_s must be a number of seconds from 0 to {_LONGEST_DELAY_S:,}, "
                              f"not {delay_s!r:.100}")
        return now_ms + round(delay_s * 1000) if delay_s else None
    if isinstance(due, datetime):
        if due.tzinfo is None:
            raise InvalidTask(f"due must say its time zone: {due.isoformat()} may be anywhere; write "
                              "datetime.now(timezone.utc) + timedelta(...), or due.astimezone() for local time")
        due = due.timestamp()
    if not _is_number(due):
        raise InvalidTask(f"due must be a Unix time in seconds or a datetime with a time zone, not {due!r:.100}")
    due_ms = round(due * 1000)
    if due_ms - now_ms > _LONGEST_DELAY_S * 1000:
        raise InvalidTask(f"due may lie at most {_LONGEST_DELAY_S:,} s ahead; {due!r} is a Unix time in seconds?")
    return due_ms if due_ms > now_ms else None


def checked_id(task_id: object) -> str:
    """A task id as an application gave it to ask about its task; raises InvalidTask for what can't be one."""
    if not isinstance(task_id, str) or not task_id:
        raise InvalidTask(f"{task_id!r:.100} is no task id")
    return task_id
