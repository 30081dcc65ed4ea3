"""A task that was not begun in time is not begun at all, wherever it waited."""
from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.queue_user import QueueUser
from tests.support.role_host import RoleHost
from yadtq.config import Settings

pytestmark = pytest.mark.integration


def test_a_task_expires_in_the_hand_of_its_worker(settings: Settings, tmp_path: Path) -> None:
    quick = settings.replace(tasks=("tests.support.handlers",), auto_commit_interval_ms=100)
    journal = str(tmp_path / "journal")
    with RoleHost(quick, own=(0,)) as host, QueueUser(quick) as user:
        soon = time.time_ns() // 1_000_000 + 20_000
        slow = user.message("t.note", journal, "slow", 22.0, timeout_s=60.0, grace_s=5.0)
        late = [user.message("t.note", journal, f"late{n}", expires_ms=soon, max_retries=n) for n in (0, 3)]
        last = user.message("t.note", journal, "last")
        user.send([slow, *late, last], partition=0)         # one batch: claimed together, long before they expire
        host.start("worker", "w0", (0,))
        for message in late:
            assert user.error(message.id, 60).code == "TASK_EXPIRED"
        assert user.result(last.id) == "last"
        assert Path(journal).read_text().split() == ["slow", "last"]
