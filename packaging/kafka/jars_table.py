"""Prints packaging/kafka/JARS.tsv, what each of Kafka's jars is: `jars_table.py SHA256SUMS MAVEN-REPOSITORY`.

Run by `fetch.sh lock`, on the repository that Maven has just filled: a jar's place in it gives its coordinates, its pom
(or a parent's) its licences. Needs only the standard library; never asks a network.
"""
from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

HEAD = "# file, SHA-256, group:artifact:version, the licences that its pom names (SPDX); written by fetch.sh lock\n"
NAMESPACE = "{*}"  # old poms have none

# What names and addresses of licences in poms mean, the first that fits.
SPDX = [
    (r"classpath|gpl2? ?w/ ?cpe|GPL-2\.0-with-classpath", "GPL-2.0-only WITH Classpath-exception-2.0"),
    (r"CDDL.{0,9}1\.1|CDDL\+GPL|CDDL/GPL", "CDDL-1.1 OR GPL-2.0-only WITH Classpath-exception-2.0"),
    (r"CDDL|Common Development and Distribution", "CDDL-1.0"),
    (r"epl-?v?-?_?2|EPL[ -]2|Eclipse Public License.{0,9}2", "EPL-2.0"),
    (r"edl|Eclipse Distribution", "BSD-3-Clause"),
    (r"MPL.{0,9}1\.1", "MPL-1.1"),
    (r"LGPL.{0,9}2\.1", "LGPL-2.1-or-later"),
    (r"apache", "Apache-2.0"),
    (r"CC0|public ?domain", "CC0-1.0"),
    (r"BSD[ -]2", "BSD-2-Clause"),
    (r"BSD|golang\.org/LICENSE|Go License", "BSD-3-Clause"),
    (r"W3C", "W3C"),
    (r"\bMIT\b|jQuery", "MIT"),
]


def spdx(name: str, address: str) -> str:
    """The SPDX expression of a licence in a pom; ValueError when nothing here knows it."""
    for pattern, expression in SPDX:
        if re.search(pattern, f"{name} {address}", re.IGNORECASE):
            return expression
    raise ValueError(f"what is the licence {name!r} ({address})? Add it to jars_table.py")


def place(repository: Path, jar: str) -> Path:
    """Where the repository has a jar; ValueError when not exactly once."""
    found = list(repository.rglob(jar))
    if len(found) != 1:
        raise ValueError(f"{jar} is in the repository {len(found)} times")
    return found[0]


def poms(repository: Path, pom: Path) -> Iterator[ElementTree.Element]:
    """A pom and its parents, as far as they are there."""
    while pom.exists():
        project = ElementTree.parse(pom).getroot()  # noqa: S314 - Maven has just used the same file
        yield project
        parent = project.find(f"{NAMESPACE}parent")
        if parent is None:
            return
        group, artifact, version = (parent.findtext(f"{NAMESPACE}{name}", "").strip()
                                    for name in ("groupId", "artifactId", "version"))
        pom = repository / group.replace(".", "/") / artifact / version / f"{artifact}-{version}.pom"


def licence(repository: Path, pom: Path) -> str:
    """What a jar may be used under: any of the licences of the first pom that has some."""
    for project in poms(repository, pom):
        told = [spdx(entry.findtext(f"{NAMESPACE}name", ""), entry.findtext(f"{NAMESPACE}url", ""))
                for entry in project.iterfind(f"{NAMESPACE}licenses/{NAMESPACE}license")]
        if told:
            return " OR ".join(dict.fromkeys(" OR ".join(told).split(" OR ")))
    raise ValueError(f"{pom} and its parents name no licence")


def row(repository: Path, jar: str, digest: str) -> str:
    """One line of the table."""
    file = place(repository, jar)
    version, artifact, group = file.parent.name, file.parents[1].name, file.parents[2].relative_to(repository)
    pom = file.with_name(f"{artifact}-{version}.pom")
    coordinates = f"{'.'.join(group.parts)}:{artifact}:{version}"
    return f"{jar}\t{digest}\t{coordinates}\t{licence(repository, pom)}\n"


def main() -> None:
    """Print the table."""
    sums, repository = Path(sys.argv[1]), Path(sys.argv[2])
    rows = [row(repository, jar, digest) for digest, jar in map(str.split, sums.read_text("utf-8").splitlines())]
    sys.stdout.write(HEAD + "".join(rows))


if __name__ == "__main__":
    main()
