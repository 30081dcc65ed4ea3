"""Submissions of several callers as one batch, where each caller is to hear of its own only.

Owns the translation of a batch's error into one answer per entry. Runs in a thread of the asynchronous client, and in
threads that submit for each other (`yadtq.gathering`).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from yadtq.backlog import UNLIMITED, Limit
from yadtq.errors import BatchRefused, TaskSubmissionTimeout, YADTQError

if TYPE_CHECKING:
    from yadtq.backlog import Backlog
    from yadtq.client import YADTQClient
    from yadtq.submission import Prepared


def submit_each(
    client: YADTQClient, entries: Sequence[Mapping[str, Any]], timeout_s: float | None, limit: Limit,
    turn: int | None = None,
) -> list[str | YADTQError]:
    """Submit the entries together; per entry its id, or what its own `submit_task` would have raised.

    Those without a key go to the partitions in turn, or all to the one whose `turn` it is.
    """
    prepared, refused = client._preparer.prepare_many(entries, client._stamp(turn), repeats=True)
    errors: dict[str, YADTQError] = {}
    good = [one for one in prepared if one is not None]
    try:
        if limit.most and not limit.wait:       # as many as there is room for: each was submitted by itself
            good, limit = _admitted(client._connections.backlog, good, limit, errors), UNLIMITED
        if good:
            errors |= errors_of(client, good, timeout_s, limit)
    except YADTQError as error:                 # nobody knows whether there is room
        errors |= dict.fromkeys((one.message.id for one in good), error)
    return [refused[index] if one is None else errors.get(one.message.id, one.message.id)
            for index, one in enumerate(prepared)]


def errors_of(
    client: YADTQClient, good: Sequence[Prepared], timeout_s: float | None = None, limit: Limit = UNLIMITED,
) -> dict[str, YADTQError]:
    """Submit these together; by id, what the `submit_task` of each would have raised."""
    try:
        client._submit(good, timeout_s, limit)
    except TaskSubmissionTimeout as late:
        lost = {*late.task_ids, *late.not_sent}
        return {one: _own(late, one) for one in late.ids if one in lost}
    except BatchRefused as partly:
        return {good[index].message.id: error for index, error in partly.refused.items()}
    except YADTQError as error:                 # one alone was refused, or nothing was sent
        return dict.fromkeys((one.message.id for one in good), error)
    return {}


def _admitted(backlog: Backlog, good: list[Prepared], limit: Limit, errors: dict[str, YADTQError]) -> list[Prepared]:
    queued = [one for one in good if one.message.due_ms is None]
    late = queued[backlog.take(len(queued), limit):]
    if not late:
        return good
    errors |= dict.fromkeys((one.message.id for one in late), backlog.full(1, limit))
    return [one for one in good if one.message.id not in errors]


def _own(late: TaskSubmissionTimeout, task_id: str) -> TaskSubmissionTimeout:
    unknown = task_id in late.task_ids
    own = TaskSubmissionTimeout(late.message, (task_id,) if unknown else (), ids=(task_id,),
                                not_sent=() if unknown else (task_id,))
    own.__cause__ = late.__cause__
    return own
