"""The network of a set of test hosts: a bridge, a network namespace and a cable for each host, and what cuts them.

A set has a number, 0 to 9: its names and addresses (10.78.SET.0/24; hosts are .11, .12 ...) are its own. Hosts reach
what this machine reaches, through a masquerade. An unreachable route for the whole network makes sure that nothing for
a host that is gone leaves this machine by its default route. All state is in the kernel, under names that can be swept.
"""
from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
FORWARD_WAS = Path("/run/yadtq-hosts-ip-forward")
SETS = range(10)


def sh(*command: str, check: bool = True, given: str | None = None) -> str:
    """Run a command of this machine; its output."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """The network of set `number`. Host numbers begin with 1."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.bridge = f"yadtqbr{number}"
        self.prefix = f"10.78.{number}"
        self.table = f"yadtq_hosts_{number}"

    def address(self, host: int) -> str:
        """Of a host."""
        return f"{self.prefix}.{10 + host}"

    def namespace(self, host: int) -> str:
        """The name of a host's network namespace."""
        return f"yadtq{self.number}h{host}"

    def cable(self, host: int) -> str:
        """The name of our end of a host's cable."""
        return f"yadtq{self.number}v{host}"

    def up(self, count: int) -> None:
        """Make it, for hosts 1 to `count`."""
        sh("ip", "route", "add", "unreachable", f"{self.prefix}.0/24", "metric", "4000000000")
        sh("ip", "link", "add", self.bridge, "type", "bridge")
        sh("ip", "addr", "add", f"{self.prefix}.1/24", "dev", self.bridge)
        sh("ip", "link", "set", self.bridge, "up")
        for host in range(1, count + 1):
            space, cable = self.namespace(host), self.cable(host)
            sh("ip", "netns", "add", space)
            sh("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            sh("ip", "link", "set", cable, "master", self.bridge, "up")
            sh("ip", "-n", space, "link", "set", "lo", "up")
            sh("ip", "-n", space, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            sh("ip", "-n", space, "link", "set", "eth0", "up")
            sh("ip", "-n", space, "route", "add", "default", "via", f"{self.prefix}.1")
        sh("nft", "-f", "-", given=f"""table ip {self.table} {{
            chain out {{
                type nat hook postrouting priority srcnat;
                ip saddr {self.prefix}.0/24 oifname != "{self.bridge}" masquerade
            }}
        }}
        """)
        if not FORWARD_WAS.exists():
            FORWARD_WAS.write_text(FORWARD.read_text())
        FORWARD.write_text("1")

    def down(self) -> None:
        """Remove it, or whatever is there of it."""
        spaces = [line.split()[0] for line in sh("ip", "netns", "list", check=False).splitlines() if line.strip()]
        for space in spaces:
            if space.startswith(f"yadtq{self.number}h"):
                sh("ip", "netns", "del", space, check=False)
        cables = {line.split()[1].split("@")[0].rstrip(":") for line in sh("ip", "-o", "link").splitlines()}
        for cable in cables:
            if cable.startswith(f"yadtq{self.number}v") or cable == self.bridge:
                sh("ip", "link", "del", cable, check=False)
        sh("nft", "delete", "table", "ip", self.table, check=False)
        sh("ip", "route", "del", "unreachable", f"{self.prefix}.0/24", check=False)
        if FORWARD_WAS.exists() and not any(Path(f"/sys/class/net/yadtqbr{n}").exists() for n in SETS):
            FORWARD.write_text(FORWARD_WAS.read_text())
            FORWARD_WAS.unlink(missing_ok=True)

    # ---- cuts: time-outs and no resets, as when a cable is pulled ----------------------------------------------------
    def cut(self, host: int) -> None:
        """Pull the host's cable."""
        sh("ip", "link", "set", self.cable(host), "down")

    def cut_from(self, host: int, peer: int, way: str = "both") -> None:
        """Nothing passes between two hosts any more: `way` "out" (to the peer), "in" (from it) or "both"."""
        hooks = {"in": ("input", "saddr"), "out": ("output", "daddr")}
        for name in hooks if way == "both" else (way,):
            hook, which = hooks[name]
            self._nft(host, f"add table ip cut\nadd chain ip cut {name} {{ type filter hook {hook} priority 0; }}\n"
                            f"add rule ip cut {name} ip {which} {self.address(peer)} drop\n")

    def heal(self, host: int) -> None:
        """Undo all cuts of a host."""
        sh("ip", "link", "set", self.cable(host), "up")
        with contextlib.suppress(OSError):
            self._nft(host, "delete table ip cut\n")

    def _nft(self, host: int, rules: str) -> None:
        sh("ip", "netns", "exec", self.namespace(host), "nft", "-f", "-", given=rules)
