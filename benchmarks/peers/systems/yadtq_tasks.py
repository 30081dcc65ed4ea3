"""The tasks of the comparison that YADTQ does not ship."""
from __future__ import annotations

import time

from yadtq import task


@task
def nap(n: int) -> int:
    """Wait as a request over the network would."""
    time.sleep(0.01)
    return n
