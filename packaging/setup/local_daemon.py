"""The yadtqd of a checkout, as local_stack.py starts it: one more server of the local stack.

It is ready when a task can be run: every partition that this host owns has a worker that consumes.
"""
from __future__ import annotations

import os
import sys
from pathlib import Path

from local_servers import Server, ServerError


class Daemon(Server):
    """`yadtqd` in the foreground of a session of its own, its log in `.yadtq/yadtqd/yadtqd.out`."""

    name = "yadtqd"
    ready_s = 90.0

    def __init__(self, folder: Path, control_socket: str, exported: dict[str, str]) -> None:
        super().__init__(folder / self.name, 0)
        self.config = folder / "yadtq.toml"
        self.control_socket = control_socket
        # what an earlier `source .yadtq/env` left in this shell may name servers of yesterday
        self.env = {**os.environ, **exported}

    def prepare(self) -> None:
        """Make its folder."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def command(self) -> list[str]:
        """The daemon of this environment."""
        return [str(Path(sys.executable).parent / "yadtqd"), "--config", str(self.config)]

    def where(self) -> str:
        """Its control socket."""
        return self.control_socket

    def answers(self) -> bool:
        """Every owned partition has a running worker, and there is one.

        ServerError when the daemon has given up on a child: it would try again in a while, but who waits wants to know.
        """
        from yadtq.errors import ControlError
        from yadtqd.control_client import ControlClient

        try:
            with ControlClient(self.control_socket, timeout_s=2.0) as control:
                seen = control.call("status")
        except ControlError:
            return False
        if given_up := [child["name"] for child in seen["workers"] + seen["roles"] if child["state"] == "FATAL"]:
            raise ServerError(f"yadtqd can't keep {', '.join(given_up)} running\n{self.tail()}")
        running = {worker["name"] for worker in seen["workers"] if worker["state"] == "RUNNING"}
        owned = [partition for partition in seen["partitions"] if partition["owned"]]
        return bool(owned) and all(partition["worker"] in running for partition in owned)
