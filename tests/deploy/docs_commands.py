"""The commands of docs/deploy.md, so that tests run what the page says, as it stands.

    ```sh host                  root, on a host of a cluster that is well
    ```sh controller upgrade    in ansible/ on the machine that deploys, in the situation that is called "upgrade"

Each block is one shell script. A host's blocks are run by root, `operator` blocks by a member of the group yadtq; the
controller's need HOME, in which `yadtq/` holds inventory.yml, group_vars/all/vault.yml and vault-password. Owns the
form of the blocks; runs nothing itself. `python -m tests.deploy.docs_commands` lists them.
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"
PLACES = ("controller", "host", "operator")
WELL = "well"                   # the situation of blocks without a second word: they change nothing that lasts
_FENCE = re.compile(r"^```(?P<info>.*)$")


class Unmarked(ValueError):
    """A block of commands does not say where it runs."""


@dataclass(frozen=True)
class Block:
    """One block. `line` is where its fence stands, `section` the heading above it."""

    place: str
    situation: str
    text: str
    line: int
    section: str

    @property
    def script(self) -> str:
        """For bash; ends at the first command that fails."""
        vault = 'export ANSIBLE_VAULT_PASSWORD_FILE=~/yadtq/vault-password\n' if self.place == "controller" else ""
        return f"set -euo pipefail\n{vault}{self.text}"


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page in their order; Unmarked where one is not marked as above."""
    section, opened, lines = "", None, []
    for number, line in enumerate(page.splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened, lines = (number, fence["info"].split()), []
        elif opened is not None and fence:
            yield _block(*opened, lines, section)
            opened = None
        elif opened is not None:
            lines.append(line)
        elif line.startswith("#"):
            section = line.lstrip("# ")
    if opened is not None:
        raise Unmarked(f"line {opened[0]}: the block has no end")


def _block(line: int, info: list[str], lines: list[str], section: str) -> Block:
    if len(info) not in (2, 3) or info[0] != "sh" or info[1] not in PLACES:
        raise Unmarked(f"line {line}: write ```sh and one of {', '.join(PLACES)}, not ```{' '.join(info)}")
    return Block(info[1], info[2] if len(info) == 3 else WELL, "\n".join(lines) + "\n", line, section)


def of(situation: str, place: str | None = None) -> list[Block]:
    """The blocks of docs/deploy.md for one situation, and for one place if that is given; at least one."""
    found = [block for block in blocks(PAGE.read_text(encoding="utf-8"))
             if block.situation == situation and place in (None, block.place)]
    if not found:
        raise LookupError(f"docs/deploy.md has no block for {place or 'any place'}, {situation}")
    return found


if __name__ == "__main__":
    for one in blocks(PAGE.read_text(encoding="utf-8")):
        print(f"# {one.section}, line {one.line}: {one.place}, {one.situation}\n{one.text}")
