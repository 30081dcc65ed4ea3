"""What the Debian packages are made of agrees with the project: versions, options, files, Kafka's tools, licences."""
from __future__ import annotations

import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

import yadtq
from yadtq.config import OPTIONS, Settings

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
YADTQ, KAFKA = PACKAGING / "debian", PACKAGING / "kafka" / "debian"


def first_version(changelog: Path) -> str:
    return re.match(r"[a-z-]+ \(([^)]+)\)", changelog.read_text())[1]


def test_all_versions_are_one() -> None:
    projects = [tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in (ROOT, ROOT / "client")]
    assert {project["version"] for project in projects} == {yadtq.__version__}
    assert first_version(YADTQ / "changelog") == yadtq.__version__


def test_the_package_of_kafka_has_the_version_of_its_pom() -> None:
    pinned = re.search(r"<kafka.version>(.+)</kafka.version>", (PACKAGING / "kafka" / "pom.xml").read_text())[1]
    assert first_version(KAFKA / "changelog").rsplit("-", 1)[0] == pinned


@pytest.mark.parametrize("folder", [YADTQ, KAFKA])
def test_every_file_to_install_is_there(folder: Path) -> None:
    made = ("libs/",)  # by the build
    for list_ in folder.glob("*.install"):
        for line in list_.read_text().splitlines():
            source = line.split()[0]
            if not source.startswith(made):
                where = folder / source.removeprefix("debian/") if source.startswith("debian/") else ROOT / source
                assert where.exists(), line


def test_the_shipped_configuration_changes_nothing_and_suggests_what_is_valid(tmp_path: Path) -> None:
    shipped = (YADTQ / "yadtq.toml").read_text()
    assert tomllib.loads(shipped) == {}
    suggested = re.sub(r"^#(?=[a-z_]+ = )", "", shipped, flags=re.MULTILINE)
    assert len(tomllib.loads(suggested)) == 8
    (tmp_path / "yadtq.toml").write_text(suggested)
    assert Settings.load(tmp_path / "yadtq.toml", env={}).kafka_replication_factor == 3


def test_the_suggested_environment_is_of_options() -> None:
    names = re.findall(r"^#YADTQ_([A-Z_]+)=", (YADTQ / "default" / "yadtqd").read_text(), re.MULTILINE)
    assert names
    assert {name.lower() for name in names} <= set(OPTIONS)


def test_the_copyright_names_every_library() -> None:
    locked = (ROOT / "requirements" / "runtime.txt").read_text()
    wanted = {line.split("==")[0].replace("-", "_") for line in locked.splitlines()
              if re.match(r"[a-z]", line) and "win32" not in line and ">= '3.12'" not in line}
    named = set(re.findall(r"wheels/([a-z0-9_]+)-\*", (YADTQ / "copyright").read_text()))
    assert named == wanted


# ---- Kafka ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def jars() -> Path:
    told = subprocess.run([PACKAGING / "kafka" / "fetch.sh", "path"], text=True, capture_output=True, check=True,
                          timeout=10)
    return Path(told.stdout.strip())


def test_every_tool_of_kafka_is_a_class_that_is_there(jars: Path) -> None:
    classes = re.findall(r"^  yadtq-kafka-[a-z-]+\) class=([\w.]+) ;;$", (KAFKA / "tool").read_text(), re.MULTILINE)
    there: set[str] = set()
    for jar in jars.glob("kafka*.jar"):
        with zipfile.ZipFile(jar) as archive:
            there.update(archive.namelist())
    assert len(classes) == 17
    assert [name for name in classes if f"{name.replace('.', '/')}.class" not in there] == []


def test_the_table_of_jars_is_that_of_the_checksums() -> None:
    sums = dict(reversed(line.split()) for line in (PACKAGING / "kafka" / "SHA256SUMS").read_text().splitlines())
    table = (PACKAGING / "kafka" / "JARS.tsv").read_text()
    rows = [line.split("\t") for line in table.splitlines() if line[0] != "#"]
    assert {name: digest for name, digest, _, _ in rows} == sums
    assert all(coordinates.count(":") == 2 and licence for _, _, coordinates, licence in rows)


def test_the_packaged_broker_loses_as_little_as_that_of_a_checkout() -> None:
    def settings(file: Path) -> dict[str, str]:
        return dict(re.findall(r"^([a-z][\w.]+)=(.*)$", file.read_text(), re.MULTILINE))

    ours, checkout = settings(KAFKA / "server.properties"), settings(PACKAGING / "kafka" / "server.properties.in")
    for name in ("auto.create.topics.enable", "log.retention.ms", "log.retention.bytes", "offsets.retention.minutes",
                 "message.max.bytes", "replica.fetch.max.bytes", "offsets.topic.replication.factor"):
        assert ours[name] == checkout[name], name


SINGLE = "controller.quorum.bootstrap.servers=127.0.0.1:9093\nlog.dirs={data}\n"


def first_start(tmp_path: Path, properties: str = SINGLE) -> subprocess.CompletedProcess[str]:
    """kafka.service's ExecStartPre with a stand-in for the tool that formats: it writes down how it was called."""
    data = tmp_path / "data"
    (tmp_path / "server.properties").write_text(properties.format(data=data))
    tool = tmp_path / "storage"
    tool.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/called\nmkdir -p {data}\n'
                    f'echo "cluster.id=$3" >{data}/meta.properties\n')
    tool.chmod(0o755)
    return subprocess.run([KAFKA / "first-start", tmp_path / "server.properties", tmp_path / "seen" / "cluster.id"],
                          env={"PATH": "/usr/bin:/bin", "STORAGE_TOOL": str(tool)}, text=True, capture_output=True,
                          check=False, timeout=20)


def called(tmp_path: Path) -> list[str]:
    file = tmp_path / "called"
    return file.read_text().splitlines() if file.exists() else []


def test_the_first_start_formats_and_later_ones_do_not(tmp_path: Path) -> None:
    assert first_start(tmp_path).returncode == 0
    assert first_start(tmp_path).returncode == 0
    call, = called(tmp_path)
    cluster = re.fullmatch(rf"format --cluster-id ([\w][\w-]{{21}}) --config {tmp_path}/server.properties --standalone",
                           call)[1]
    assert (tmp_path / "seen" / "cluster.id").read_text() == f"{cluster}\n"


def test_a_static_quorum_of_one_is_not_formatted_as_a_dynamic_one(tmp_path: Path) -> None:
    assert first_start(tmp_path, "controller.quorum.voters=1@127.0.0.1:9093\nlog.dirs={data}\n").returncode == 0
    assert "--standalone" not in called(tmp_path)[0]


def test_a_disk_that_is_not_mounted_is_not_taken_for_a_first_start(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "meta.properties").write_text("version=1\ncluster.id=aaaaaaaaaaaaaaaaaaaaaa\n")
    assert first_start(tmp_path).returncode == 0
    (tmp_path / "data" / "meta.properties").unlink()
    told = first_start(tmp_path)
    assert told.returncode == 1
    assert "is its disk mounted?" in told.stderr
    assert "aaaaaaaaaaaaaaaaaaaaaa" in told.stderr
    assert called(tmp_path) == []


@pytest.mark.parametrize("quorum", ["controller.quorum.voters=1@a:9093,2@b:9093",
                                    "controller.quorum.bootstrap.servers=a:1,b:1"])
def test_a_node_of_several_is_left_to_whoever_sets_them_up(tmp_path: Path, quorum: str) -> None:
    told = first_start(tmp_path, quorum + "\nlog.dirs={data}\n")
    assert told.returncode == 1
    assert "one of several nodes" in told.stderr
    assert called(tmp_path) == []


# ---- the build's command line ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("arguments", [["now"], ["--out"], ["--suffix"], ["--suffix", "1"], ["--suffix", "+a b"]])
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    told = subprocess.run([PACKAGING / "build.sh", *arguments], text=True, capture_output=True, timeout=20, check=False)
    assert told.returncode != 0
    assert "--suffix" in told.stderr
