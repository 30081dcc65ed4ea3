"""The shape of the project: who may import whom, and what must never be there."""
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "client" / "src" / "yadtq"
DAEMON = ROOT / "yadtqd"


def imports(file: Path) -> set[str]:
    """The modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_client_never_imports_the_daemon() -> None:
    guilty = {f.name for f in CLIENT.rglob("*.py") if any(m.split(".")[0] == "yadtqd" for m in imports(f))}
    assert not guilty


@pytest.mark.parametrize("module", ["yadtqd.supervisor", "yadtqd.control_server", "yadtqd.main"])
def test_the_supervisor_imports_neither_numpy_nor_tasks(module: str) -> None:
    code = (f"import sys, {module}; unwanted = ('numpy', 'kafka', 'redis', 'yadtqd.tasks.arithmetic', 'asyncio');"
            "bad = [m for m in unwanted if m in sys.modules]; print(bad); sys.exit(bool(bad))")
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT,
                            timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("folder", ["packaging", "systemd", "ansible"])
def test_no_folder_shadows_a_real_package(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_both_imports_give_the_same_client() -> None:
    code = "import client, yadtq; assert client.YADTQClient is yadtq.YADTQClient; print('same')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", timeout=60,
                            check=False)
    assert result.stdout.strip() == "same", result.stderr


def test_no_file_has_grown_out_of_its_role() -> None:
    long = {str(f.relative_to(ROOT)): n for folder in (CLIENT, DAEMON) for f in folder.rglob("*.py")
            if (n := len(f.read_text().splitlines())) > 420}
    assert not long
