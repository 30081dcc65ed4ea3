"""Callbacks of a monitor in an event loop: a coroutine that never ends does not pile up for ever."""
from __future__ import annotations

import asyncio
import logging

import pytest

from yadtq.aio_bridge import MOST_CALLBACKS, in_loop
from yadtq.monitor import ChangeKind, WorkerChange


def test_callbacks_that_never_end_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    begun = 0

    async def main() -> None:
        over = asyncio.Event()

        async def callback(change: WorkerChange) -> None:
            nonlocal begun
            begun += 1
            await over.wait()

        told = in_loop(callback, asyncio.get_running_loop())
        for _ in range(MOST_CALLBACKS + 50):
            told(WorkerChange(ChangeKind.STARTED, None, None, "a worker has started"))
        await asyncio.sleep(0.05)
        over.set()
        await asyncio.sleep(0.05)
        told(WorkerChange(ChangeKind.STARTED, None, None, "another"))
        await asyncio.sleep(0.05)

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert begun == MOST_CALLBACKS + 1
    assert "a change among the workers is not told" in caplog.text
