"""Programs that start workers, in all the ways in which a program can be started."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

MODEL = """
import sys
from ringcast import WorkerGroup

class Model:
    def add(self, number):
        return number + 1

def main(**options):
    with WorkerGroup(Model, 2, **options) as group:
        print(group.call("add", 1))
"""
PROGRAM = f"""{MODEL}
if __name__ == "__main__":
    main()
"""
WITHOUT_CLOUDPICKLE = f"import sys\nsys.modules['cloudpickle'] = None\n{PROGRAM}"


def started(where: Path, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], check=False, capture_output=True, input=text, text=True, timeout=60, cwd=where
    )


def in_a_zip_file(where: Path, program: str) -> list[str]:
    with zipfile.ZipFile(where / "program.pyz", "w") as archive:
        archive.writestr("__main__.py", program)
    return ["program.pyz"]


def as_a_package(where: Path, program: str) -> list[str]:
    (where / "package").mkdir()
    (where / "package" / "__init__.py").touch()
    (where / "package" / "__main__.py").write_text(program)
    return ["-m", "package"]


def as_a_module(where: Path, program: str) -> list[str]:
    (where / "program.py").write_text(program)
    return ["-m", "program"]


WAYS = [in_a_zip_file, as_a_package, as_a_module, lambda _, program: ["-c", program]]
NAMES = ["zip file", "package", "module", "-c"]


@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_a_class_of_the_program_itself_is_there_in_workers(way: object, tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    assert callable(way)
    done = started(tmp_path, *way(tmp_path, PROGRAM))
    assert (done.stdout, done.stderr) == ("[2, 2]\n", "")


@pytest.mark.parametrize("way", [WAYS[0], WAYS[1], WAYS[3]], ids=[NAMES[0], NAMES[1], NAMES[3]])
def test_where_it_cannot_be_the_error_says_what_to_do(way: object, tmp_path: Path) -> None:
    assert callable(way)
    done = started(tmp_path, *way(tmp_path, WITHOUT_CLOUDPICKLE))
    assert "EncodeError: Model: it is defined in the program itself" in done.stderr
    assert done.stderr.count("Traceback") == 2, "the error, and that there is no cloudpickle"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_program_that_starts_workers_when_it_is_imported_is_told_so(method: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(f"{MODEL}\nmain(start_method={method!r})\n")
    done = started(tmp_path, "program.py")
    assert done.returncode == 1
    assert "RoleError: a worker that is being started imports this program" in done.stderr
    assert "bootstrapping" not in done.stderr


def test_a_program_from_standard_input_is_told_so(tmp_path: Path) -> None:
    done = started(tmp_path, "-", text=PROGRAM)
    assert "ArgumentError: start_method='spawn': workers import the program" in done.stderr
    done = started(tmp_path, "-", text=PROGRAM.replace("main()\n", "main(start_method='fork')\n"))
    assert (done.stdout, done.stderr) == ("[2, 2]\n", "")
