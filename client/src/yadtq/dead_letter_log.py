"""Reads the dead-letter topic and says which letters are still there; appends marks, and deletes what nobody needs.

Owns the reading: from the end towards the beginning, a bounded chunk at a time, so that the newest letters come first
and the first page costs the same whatever the topic holds. The first letter of an id that is met is the newest; a mark
is met before the letters that it covers. Memory: one chunk (CHUNK_BYTES), and about 120 bytes for each id that has
been met, so some 120 MB once a million letters have been gone through; never the letters themselves.

Runs in the caller's thread. Workers may append and others may mark and delete meanwhile: what comes after the end that
was asked for first is not seen, and what is deleted was gone. A letter that a newer YADTQ wrote can't be read here; it
counts as there, so that it is neither superseded nor deleted.
"""
from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from yadtq.config import Settings
from yadtq.dead_letter import DeadLetterMark, DeadLetterMessage, decode_dead_letter, decode_mark, is_mark
from yadtq.errors import InvalidMessage, KafkaConnectionError, OffsetOutOfRange, UnknownTopic, UnsupportedVersion

if TYPE_CHECKING:
    from yadtq.connections import Opener
    from yadtq.transport import Admin, Consumer, Record

log = logging.getLogger(__name__)

PARTITION = 0                       # the topic has one: letters are in the order of their deaths
CHUNK_BYTES = 8 * 1024 * 1024       # read at a time: 50,000 ordinary letters are some ten chunks
FIRST_CHUNK = 200                   # records: a page for a person, at once
MOST_RECORDS = 5000                 # of a chunk, and what is read over rather than jumped over
POLL_RECORDS, POLL_S = 2000, 0.25


class Letter(NamedTuple):
    """A letter that is still there; `message` is None when only a newer YADTQ can read it."""

    offset: int                     # on the dead-letter topic
    message: DeadLetterMessage | None


class DeadLetterLog:
    """One walk through the topic, and what is to be done with it; close it.

    `end` is where the walk began: what is appended later is not seen.
    """

    def __init__(self, settings: Settings, opener: Opener, timeout_s: float) -> None:
        self._topic, self._settings, self._opener = settings.kafka_dead_letter_topic, settings, opener
        self._timeout_s = timeout_s
        self._consumer: Consumer | None = None
        self._admin: Admin = opener.admin(settings, timeout_s)
        try:
            self.end = self._admin.end_offsets(self._topic)[PARTITION]
            self._begin = self._admin.begin_offsets(self._topic)[PARTITION]
        except UnknownTopic:                            # no client and no worker has ever been here
            self.end = self._begin = 0
        except BaseException:
            self._admin.close()
            raise

    def __enter__(self) -> DeadLetterLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._admin.close()
        if self._consumer is not None:
            self._consumer.close()

    # ---- reading ----------------------------------------------------------------------------------------------------
    def newest_first(self) -> Iterator[Letter]:
        """The letters that are still there, the newest of each id alone."""
        met: set[bytes] = set()
        marks: dict[bytes, DeadLetterMark] = {}
        for record in self._backwards():
            key = record.key or b""
            if is_mark(record.value):
                mark = _further(marks.get(key), _mark_in(record))
                if mark is not None:
                    marks[key] = mark
            elif key not in met:
                letter = _letter_in(record, marks.get(key))
                if letter is not None:
                    met.add(key)
                    yield letter

    def find(self, task_id: str) -> tuple[Letter | None, DeadLetterMark | None]:
        """The newest letter of one id that is still there, or the mark that says what became of it."""
        key, mark = task_id.encode(), None
        for record in self._backwards():
            if mark is not None and record.offset <= mark.offset:
                break
            if record.key != key:
                continue
            if is_mark(record.value):
                mark = _further(mark, _mark_in(record))
            elif (letter := _letter_in(record, mark)) is not None:
                return letter, None
        return None, mark

    def at(self, offsets: Sequence[int]) -> Iterator[Record]:
        """The records at these ascending offsets; what is deleted meanwhile is left out."""
        starts = [0, *(i + 1 for i, (one, then) in enumerate(pairwise(offsets)) if then - one > MOST_RECORDS)]
        for first, after in pairwise([*starts, len(offsets)]):
            wanted = deque(offsets[first:after])
            for record in self._forwards(wanted[0], wanted[-1] + 1) if wanted else ():
                while wanted and wanted[0] < record.offset:
                    wanted.popleft()                    # it is gone
                if wanted and wanted[0] == record.offset:
                    wanted.popleft()
                    yield record

    def _backwards(self) -> Iterator[Record]:
        """All records, the last first, a chunk at a time."""
        high, count = self.end, FIRST_CHUNK
        while high > self._begin:
            low = max(self._begin, high - count)
            chunk: deque[Record] = deque()
            size = 0
            for record in self._forwards(low, high):
                chunk.append(record)
                size += len(record.value)
                while size > CHUNK_BYTES and len(chunk) > 1:    # too much: what is older comes with the next chunk
                    size -= len(chunk.popleft().value)
                    low = chunk[0].offset
            average = size // max(1, len(chunk)) + 1
            count = max(1, min(MOST_RECORDS, 4 * count, CHUNK_BYTES // average))
            while chunk:
                yield chunk.pop()
            high = low

    def _forwards(self, low: int, high: int) -> Iterator[Record]:
        """The records from `low` up to and without `high`. Raises KafkaConnectionError when none comes for too long."""
        consumer = self._consumer
        if consumer is None:
            consumer = self._consumer = self._opener.consumer(self._settings)
        consumer.assign(self._topic, {PARTITION: low})
        position, deadline = low, time.monotonic() + self._timeout_s
        while position < high:
            try:
                records = consumer.poll(min(POLL_RECORDS, high - position), POLL_S)
            except OffsetOutOfRange as jump:            # somebody has deleted these meanwhile: they were gone
                self._begin = max(self._begin, jump.earliest)
                position = max(position, jump.earliest)
                if position < high:
                    consumer.assign(self._topic, {PARTITION: position})
                continue
            for record in records:
                position = record.offset + 1
                if record.offset >= high:
                    break
                if record.value:                        # an empty one is somebody else's: ours never are
                    yield record
            if records:
                deadline = time.monotonic() + self._timeout_s
            elif time.monotonic() > deadline:
                raise KafkaConnectionError(f"the dead letters could not be read: nothing came for {self._timeout_s:g} "
                                           f"s at offset {position} of {high} in {self._topic}")

    # ---- deleting ---------------------------------------------------------------------------------------------------
    def trim(self, offset: int, marks: int) -> None:
        """Delete everything below: letters that are gone, with the marks that say so.

        `marks` is how many were appended since the walk began: if nothing else was, and no letter is there, they go
        too. (What a broker forgets of a deletion when it crashes comes back as it was: letters *and* marks.)
        """
        if offset == self.end and self._admin.end_offsets(self._topic)[PARTITION] == offset + marks:
            offset += marks
        if offset > self._begin:
            self._admin.delete_records(self._topic, {PARTITION: offset})
            self._begin = offset


def _letter_in(record: Record, mark: DeadLetterMark | None) -> Letter | None:
    """The letter in a record; None when it is none, or gone."""
    if mark is not None and record.offset <= mark.offset:
        return None
    try:
        letter = decode_dead_letter(record.value)
    except UnsupportedVersion as error:
        log.warning("offset %d of the dead letters: %s", record.offset, error)
        return Letter(record.offset, None)
    except InvalidMessage as error:
        log.warning("offset %d of the dead letters is skipped: %s", record.offset, error)
        return None
    return Letter(record.offset, letter)


def _further(mark: DeadLetterMark | None, other: DeadLetterMark | None) -> DeadLetterMark | None:
    """The mark that covers more: of two clients at once the second may name the older letter."""
    if mark is None or other is None:
        return mark or other
    return mark if mark.offset >= other.offset else other


def _mark_in(record: Record) -> DeadLetterMark | None:
    try:
        return decode_mark(record.value)
    except InvalidMessage as error:
        log.warning("offset %d of the dead letters is skipped: %s", record.offset, error)
        return None
