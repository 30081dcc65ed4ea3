"""Reads what `kafka-acls --list` prints. Runs on the machine that runs ansible-playbook, never on a host."""
from __future__ import annotations

import re

_RESOURCE = re.compile(r"ResourcePattern\(resourceType=(\w+), name=(.*), patternType=LITERAL\)")
_ENTRY = re.compile(r"\(principal=(.*), host=\*, operation=(\w+), permissionType=ALLOW\)")


def kafka_acls(text: str, principal: str) -> list[str]:
    """What a principal is allowed from any host, each as `TOPIC name OPERATION`; prefixes and denials are left out."""
    found: list[str] = []
    resource: re.Match[str] | None = None
    for line in text.splitlines():
        if "ResourcePattern(" in line:
            resource = _RESOURCE.search(line)
        elif resource and (entry := _ENTRY.search(line)) and entry[1] == principal:
            found.append(f"{resource[1]} {resource[2]} {entry[2]}")
    return found


class FilterModule:
    """The filters of this role."""

    def filters(self) -> dict[str, object]:
        """Name and function of each."""
        return {"kafka_acls": kafka_acls}
