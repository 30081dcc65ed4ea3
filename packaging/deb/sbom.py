"""Writes what a package is made of, as a CycloneDX 1.6 bill of materials (JSON).

    sbom.py wheels FOLDER    --name NAME --version VERSION --arch ARCH >FILE     the wheels in FOLDER
    sbom.py jars   JARS.tsv  --name NAME --version VERSION --arch ARCH >FILE     the jars of packaging/kafka/JARS.tsv

Runs in a build, with the Python that the packages are for (markers of requirements are read as it reads them). Reads
what is packed, not what was asked for; same input and SOURCE_DATE_EPOCH, same bytes. Never asks the network.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import uuid
import zipfile
from datetime import UTC, datetime
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

Json = dict[str, Any]

# How the libraries that say it with a classifier or in words of their own name their licence.
LICENCES = {
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "LGPL-2.1-or-later": "LGPL-2.1-or-later",
    "MIT License": "MIT",
    "MIT": "MIT",
    "Apache 2": "Apache-2.0",
}


def licence(metadata: Message) -> list[Json]:
    """CycloneDX's `licenses` of a wheel; empty when it does not say."""
    if expression := metadata.get("License-Expression"):
        if " " in expression:
            return [{"expression": expression}]
        return [{"license": {"id": expression}}]
    for said in (metadata.get("License", ""), *metadata.get_all("Classifier", [])):
        if said in LICENCES:
            return [{"license": {"id": LICENCES[said]}}]
    return []


def sha256(data: bytes) -> list[Json]:
    """CycloneDX's `hashes` of some bytes."""
    return [{"alg": "SHA-256", "content": hashlib.sha256(data).hexdigest()}]


def compiled_in(archive: zipfile.ZipFile) -> list[Json]:
    """The foreign shared libraries that a wheel brings along (librdkafka, OpenBLAS ...)."""
    return [{"type": "file", "name": name, "hashes": sha256(archive.read(name))}
            for name in sorted(archive.namelist()) if ".libs/" in name and ".so" in name]


def wheel(file: Path) -> tuple[Json, list[Requirement]]:
    """A wheel as a component, and what it requires."""
    with zipfile.ZipFile(file) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA") and n.count("/") == 1)
        metadata = Parser().parsestr(archive.read(name).decode("utf-8"))
        parts = compiled_in(archive)
    purl = f"pkg:pypi/{canonicalize_name(metadata['Name'])}@{metadata['Version']}"
    found = {"type": "library", "bom-ref": purl, "name": metadata["Name"], "version": metadata["Version"],
             "description": metadata["Summary"], "hashes": sha256(file.read_bytes()), "licenses": licence(metadata),
             "purl": purl, "components": parts}
    requires = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    return {key: value for key, value in found.items() if value}, requires


def wheels(folder: Path) -> tuple[list[Json], list[Json]]:
    """All wheels of a folder as components, and what depends on what among them."""
    read = [wheel(file) for file in sorted(folder.glob("*.whl"))]
    refs = {canonicalize_name(component["name"]): component["bom-ref"] for component, _ in read}
    extras = asked_extras(read)
    edges = []
    for component, requires in read:
        wanted = {refs[name] for requirement in requires if (name := canonicalize_name(requirement.name)) in refs
                  and applies(requirement, extras.get(canonicalize_name(component["name"]), set()))}
        edges.append({"ref": component["bom-ref"], "dependsOn": sorted(wanted)})
    return [component for component, _ in read], edges


def asked_extras(read: list[tuple[Json, list[Requirement]]]) -> dict[str, set[str]]:
    """The extras of each distribution that another one asks for."""
    found: dict[str, set[str]] = {}
    for _, requires in read:
        for requirement in requires:
            found.setdefault(canonicalize_name(requirement.name), set()).update(requirement.extras)
    return found


def applies(requirement: Requirement, extras: set[str]) -> bool:
    """Whether a requirement holds here, with any of these extras or without."""
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras))


def jars(table: Path) -> tuple[list[Json], list[Json]]:
    """The jars of a table: file name, SHA-256, group:artifact:version, licence."""
    found = []
    for line in table.read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        file, digest, coordinates, named = line.split("\t")
        group, artifact, version = coordinates.split(":")
        purl = f"pkg:maven/{group}/{artifact}@{version}?type=jar"
        kind = "expression" if " " in named else "license"
        found.append({"type": "library", "bom-ref": purl, "group": group, "name": artifact, "version": version,
                      "hashes": [{"alg": "SHA-256", "content": digest}],
                      "licenses": [{kind: named if kind == "expression" else {"id": named}}], "purl": purl,
                      "properties": [{"name": "yadtq:file", "value": file}]})
    return found, []


def bill(root: Json, components: list[Json], edges: list[Json]) -> Json:
    """The whole document."""
    when = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    needed = {ref for edge in edges for ref in edge["dependsOn"]}
    tops = sorted(component["bom-ref"] for component in components if component["bom-ref"] not in needed)
    content = json.dumps([root, components, edges], sort_keys=True)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", "bomFormat": "CycloneDX", "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}", "version": 1,
        "metadata": {"timestamp": f"{when:%Y-%m-%dT%H:%M:%SZ}", "component": root},
        "components": components,
        "dependencies": [{"ref": root["bom-ref"], "dependsOn": tops}, *edges],
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=("wheels", "jars"))
    parser.add_argument("source", type=Path)
    for name in ("name", "version", "arch"):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()


def main() -> None:
    """Print the bill."""
    asked = arguments()
    purl = f"pkg:deb/yadtq/{asked.name}@{asked.version}?arch={asked.arch}&distro=debian-12"
    root = {"type": "application", "bom-ref": purl, "name": asked.name, "version": asked.version, "purl": purl}
    components, edges = (wheels if asked.kind == "wheels" else jars)(asked.source)
    json.dump(bill(root, components, edges), sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
