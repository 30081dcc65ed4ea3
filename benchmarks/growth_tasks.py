"""The task type of benchmarks.growth."""
from __future__ import annotations

from yadtq import task


@task
def echo(data: bytes) -> bytes:
    """What it was given."""
    return data
