"""The types that users' programs see, by two type checkers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ringcast import __file__ as installed

PROGRAM = Path(__file__).parent / "programs" / "users.py"
WRONG = {number for number, line in enumerate(PROGRAM.read_text().splitlines(), 1) if line.endswith("# wrong")}


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """In an empty folder, where no settings of this project are found; with the package that is tested."""
    sources = Path(installed).parent.parent
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))  # whose packages it looks up
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(sources), "MYPYPATH": str(sources)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_mypy_accepts_what_is_right_and_nothing_else(tmp_path: Path) -> None:
    said = run(sys.executable, "-m", "mypy", "--strict", str(PROGRAM), folder=tmp_path)
    lines = {int(found) for found in re.findall(rf"{PROGRAM.name}:(\d+): error", said.stdout)}
    assert lines == WRONG, said.stdout + said.stderr


@pytest.fixture
def pyright() -> str:
    return str(Path(sys.executable).parent / "basedpyright")


def test_pyright_accepts_what_is_right_and_nothing_else(tmp_path: Path, pyright: str) -> None:
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict", "include": [str(PROGRAM)]}))
    said = run(pyright, "--outputjson", "--project", str(tmp_path), folder=tmp_path)
    found = json.loads(said.stdout)["generalDiagnostics"]
    errors = [one for one in found if one["severity"] == "error"]
    assert {one["range"]["start"]["line"] + 1 for one in errors} == WRONG, said.stdout


def test_every_public_type_is_known(tmp_path: Path, pyright: str) -> None:
    said = run(pyright, "--verifytypes", "ringcast", "--ignoreexternal", "--outputjson", folder=tmp_path)
    report = json.loads(said.stdout)["typeCompleteness"]
    public = [symbol for symbol in report["symbols"] if symbol["isExported"]]
    assert public
    unknown = {symbol["name"] for symbol in public if not symbol["isTypeKnown"]}
    assert unknown <= {"ringcast.vllm.connector.RingcastConnector"}  # whose bases are vLLM's, which is not here
