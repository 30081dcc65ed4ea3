"""The parts of a package's build: bills of materials, manual pages and completions."""
from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

import jars_table
import manpages
import sbom
from yadtq.config import OPTIONS


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """An application, a library that it needs with an extra, what that extra needs, and what nobody here needs."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel(folder, "Shop", "Requires-Dist: Queue.Lib[fast]>=1\nLicense-Expression: MIT\n")
    wheel(folder, "queue_lib", "Requires-Dist: turbo; extra == 'fast'\nRequires-Dist: other; extra == 'slow'\n"
                               "Classifier: License :: OSI Approved :: Apache Software License\n")
    wheel(folder, "turbo", "Requires-Dist: absent\nLicense-Expression: MIT AND Zlib\n",
          {"turbo.libs/libx-1.so.1": b"ELF"})
    wheel(folder, "other", "")
    return folder


def wheel(folder: Path, name: str, metadata: str, more: dict[str, bytes] | None = None) -> None:
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}-1.0.dist-info/METADATA",
                         f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\nSummary: it\n{metadata}\n")
        for file, content in (more or {}).items():
            archive.writestr(file, content)


def bill(folder: Path) -> dict:
    components, edges = sbom.wheels(folder)
    return sbom.bill({"type": "application", "bom-ref": "root", "name": "x", "version": "1"}, components, edges)


@pytest.fixture(autouse=True)
def epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def test_the_bill_has_what_is_packed_with_its_checksums(wheels: Path) -> None:
    made = {component["name"]: component for component in bill(wheels)["components"]}
    assert set(made) == {"Shop", "queue_lib", "turbo", "other"}
    packed = (wheels / "Shop-1.0-py3-none-any.whl").read_bytes()
    assert made["Shop"]["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(packed).hexdigest()}]
    assert made["queue_lib"]["purl"] == "pkg:pypi/queue-lib@1.0"
    assert made["turbo"]["components"][0]["name"] == "turbo.libs/libx-1.so.1"


def test_licences_are_told_however_a_library_says_them(wheels: Path) -> None:
    told = {component["name"]: component.get("licenses") for component in bill(wheels)["components"]}
    assert told == {"Shop": [{"license": {"id": "MIT"}}], "queue_lib": [{"license": {"id": "Apache-2.0"}}],
                    "turbo": [{"expression": "MIT AND Zlib"}], "other": None}


def test_only_the_extras_that_are_asked_for_count(wheels: Path) -> None:
    needs = {edge["ref"]: edge["dependsOn"] for edge in bill(wheels)["dependencies"]}
    assert needs["pkg:pypi/shop@1.0"] == ["pkg:pypi/queue-lib@1.0"]
    assert needs["pkg:pypi/queue-lib@1.0"] == ["pkg:pypi/turbo@1.0"]
    assert needs["root"] == ["pkg:pypi/other@1.0", "pkg:pypi/shop@1.0"]


def test_the_same_wheels_give_the_same_bill_and_others_another(wheels: Path) -> None:
    first = bill(wheels)
    assert first == bill(wheels)
    assert first["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    (wheels / "other-1.0-py3-none-any.whl").unlink()
    assert bill(wheels)["serialNumber"] != first["serialNumber"]


def test_jars_are_named_by_their_coordinates(tmp_path: Path) -> None:
    table = tmp_path / "JARS.tsv"
    table.write_text("# head\na-1.jar\t00\torg.a:a:1\tMIT\nb-2.jar\t11\torg.b:b:2\tEPL-2.0 OR MIT\n")
    components, _ = sbom.jars(table)
    assert [component["purl"] for component in components] == [
        "pkg:maven/org.a/a@1?type=jar", "pkg:maven/org.b/b@2?type=jar"]
    assert [component["licenses"] for component in components] == [
        [{"license": {"id": "MIT"}}], [{"expression": "EPL-2.0 OR MIT"}]]
    json.dumps(components)


# ---- what jars are --------------------------------------------------------------------------------------------------
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">{}</project>"""
PARENT = "<parent><groupId>org.a</groupId><artifactId>top</artifactId><version>3</version></parent>"
TWO = ("<licenses><license><name>EPL 2.0</name></license>"
       "<license><name>GPL2 w/ CPE</name><url>https://www.gnu.org/software/classpath/license.html</url></license></licenses>")


def repository(folder: Path, jar_pom: str, parent_pom: str) -> Path:
    for path, text in (("org/a/lib/1.2/lib-1.2.pom", jar_pom), ("org/a/top/3/top-3.pom", parent_pom)):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(POM.format(text))
    (folder / "org/a/lib/1.2/lib-1.2.jar").touch()
    return folder


def test_a_jar_is_what_its_place_and_its_pom_say(tmp_path: Path) -> None:
    there = repository(tmp_path, PARENT, TWO)
    assert jars_table.row(there, "lib-1.2.jar", "00") == (
        "lib-1.2.jar\t00\torg.a:lib:1.2\tEPL-2.0 OR GPL-2.0-only WITH Classpath-exception-2.0\n")


@pytest.mark.parametrize("pom", ["", "<licenses><license><name>Beerware</name></license></licenses>"])
def test_a_licence_that_nobody_knows_is_not_passed_over(tmp_path: Path, pom: str) -> None:
    with pytest.raises(ValueError, match="licence"):
        jars_table.row(repository(tmp_path, PARENT, pom), "lib-1.2.jar", "00")


# ---- manual pages ---------------------------------------------------------------------------------------------------
def plain(page: str) -> str:
    return page.replace("\\-", "-").replace("\\e", "\\")


@pytest.mark.parametrize(("name", "words"), [
    ("yadtq", ["yadtq submit", "--wait", "yadtq dlq replay", "  130  interrupted"]),
    ("yadtqctl", ["yadtqctl drain", "yadtqctl status", "--check", "yadtqctl dlq purge"]),
    ("yadtqd", ["--check-config", "--option", "-o", "HUP reads the configuration again"]),
])
def test_a_page_has_what_help_has(name: str, words: list[str]) -> None:
    page = plain(manpages.command_page(name, "2026-01-01"))
    assert [word for word in words if word not in page] == []
    assert "\b" not in page


def test_the_page_of_the_configuration_has_every_option() -> None:
    page = plain(manpages.configuration_page("2026-01-01"))
    assert [name for name in OPTIONS if f"\\fB{name}\\fR" not in page] == []


def test_no_line_of_text_is_taken_for_a_request() -> None:
    assert manpages.escape(".one\n'two\nth\\ree-four") == "\\&.one\n\\&'two\nth\\eree\\-four"


@pytest.mark.parametrize("name", list(manpages.PROGRAMS))
def test_completions_call_the_program_back(name: str) -> None:
    source = manpages.completion(name)
    assert f"_{name.upper()}_COMPLETE=bash_complete" in source
