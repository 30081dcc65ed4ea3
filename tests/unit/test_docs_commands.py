"""Every block of commands in docs/deploy.md says where it runs, is a shell script, and names what there is."""
from __future__ import annotations

import re
import subprocess

import pytest

from tests.deploy.docs_commands import PAGE, WELL, Unmarked, blocks, of
from yadtq.cli import cli
from yadtqd.yadtqctl import main as yadtqctl

ANSIBLE = PAGE.parents[1] / "ansible"
BLOCKS = list(blocks(PAGE.read_text()))


def test_there_are_blocks_for_every_place_and_situation() -> None:
    assert {block.place for block in BLOCKS} == {"controller", "host", "operator"}
    assert {"deploy", "upgrade", "rollback", "backup", "restore", "lost-host", "lost-redis", "lost-kafka", "uninstall",
            WELL} <= {block.situation for block in BLOCKS}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line{block.line}")
def test_a_block_is_a_shell_script(block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.script, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line{block.line}")
def test_a_block_names_what_there_is(block) -> None:
    for playbook in re.findall(r"^ansible-playbook.* ([a-z]+\.yml)(?: |$)", block.text, re.M):
        assert (ANSIBLE / playbook).is_file()
    for group in re.findall(r"^ansible ([a-z]+) ", block.text, re.M):
        assert group in {"kafka", "redis", "yadtqd"}
    for command in re.findall(r"^yadtq (?:-o \S+ )?([a-z]+)", block.text, re.M):
        assert cli.get_command(None, command) is not None
    for command in re.findall(r"^yadtqctl ([a-z]+)", block.text, re.M):
        assert command in yadtqctl.commands


def test_the_vault_that_the_page_makes_has_no_example_left() -> None:
    prepare, = of("prepare")
    loop = re.search(r"^while.*?vault\.example\.yml", prepare.text, re.M | re.S)
    made = subprocess.run(["bash", "-c", loop[0]], cwd=ANSIBLE, capture_output=True, text=True, timeout=30, check=True)
    values = re.findall(r"^vault_[a-z_]+: (.*)$", made.stdout, re.M)
    assert len(values) == len(set(values)) >= 8
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in values)


@pytest.mark.parametrize("wrong", ["```\nls\n```\n", "```sh\nls\n```\n", "```console\nls\n```\n",
                                   "```sh moon\nls\n```\n", "```sh host a b\nls\n```\n", "```sh host\nls\n"])
def test_what_is_not_marked_is_refused(wrong: str) -> None:
    with pytest.raises(Unmarked, match="line 2"):
        list(blocks("# A page\n" + wrong))


def test_the_script_of_a_block() -> None:
    found = list(blocks("# A\n```sh controller x\ntrue\nfalse\n```\n## B\n```sh host\nls\n```\n"))
    assert [(b.place, b.situation, b.section, b.line) for b in found] == [("controller", "x", "A", 2),
                                                                         ("host", WELL, "B", 7)]
    assert found[1].script == "set -euo pipefail\nls\n"
    assert subprocess.run(["bash", "-c", found[0].script], check=False).returncode == 1
