"""What the command line answers to wrong usage: one line that says what to do, and exit code 2."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from ringcast import _core
from ringcast._version import WIRE_VERSION, __version__
from tests.support import DEADLINE_S, run_python

RINGCAST = "import sys; from ringcast.cli import main; sys.exit(main(sys.argv[1:]))"


def complaint(*arguments: str) -> str:
    """The one line that a command ends with which is not used as it should be."""
    done = run_python(RINGCAST, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ringcast: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ([], "There are pub, sub, ls"),
        (["lss"], "No such command 'lss'. Did you mean 'ls'? See 'ringcast --help'."),
        (["nonsense"], "There are pub, sub, ls"),
        (["ls", "--jsn"], "Did you mean '--json'? See 'ringcast ls --help'."),
        (["pub"], "Missing argument 'NAME'"),
        (["pub", "x", "--max-chunk-bytes", "much"], "'--max-chunk-bytes': 'much' is not a size"),
        (["pub", "x", "--max-chunk-bytes", "99999999999999G"], "'--max-chunk-bytes': '99999999999999G' is not a size"),
    ],
)
def test_wrong_usage_is_2_and_one_line_that_says_what_to_do(arguments: list[str], answer: str) -> None:
    assert answer in complaint(*arguments)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "-1", "soon"])
@pytest.mark.parametrize(
    ("command", "option"),
    [("pub", "--timeout"), ("sub", "--timeout"), ("pub", "--readers"), ("pub", "--max-chunks"), ("sub", "--rank"),
     ("sub", "--count")],
)  # fmt: skip
def test_numbers_that_are_none_are_refused_with_what_is_allowed(command: str, option: str, value: str) -> None:
    line = complaint(command, "x", option, value)
    assert f"'{option}': '{value}' is not allowed; give a " in line


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version_says_all_that_two_processes_have_to_agree_on(option: str) -> None:
    done = run_python(RINGCAST, option)
    assert (done.returncode, done.stderr) == (0, "")
    release, core, layouts, wire = done.stdout.splitlines()
    assert release == f"ringcast {__version__}"
    assert core.startswith(f"core {__version__}, {platform.python_implementation()} {platform.python_version()}")
    of = (_core.LAYOUT_VERSION, _core.POOL_LAYOUT_VERSION, _core.DESK_LAYOUT_VERSION)
    assert layouts == "layouts: queue {}, pool {}, desk {}".format(*of)
    assert wire == f"wire: {WIRE_VERSION}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_completion(shell: str) -> None:
    done = run_python(RINGCAST, "completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_RINGCAST_COMPLETE" in done.stdout


def test_python_m_ringcast_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ringcast", "--version"], capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    assert done.stdout.startswith(f"ringcast {__version__}\n")


def test_each_secret_is_another_one_that_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from ringcast.net._sealing import secret

    found = set()
    for _ in range(3):
        done = run_python(RINGCAST, "secret")
        assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
        monkeypatch.setenv("RINGCAST_SECRET", done.stdout.strip())
        found.add(secret())
    assert len(found) == 3
    assert all(one is not None and len(one) == 43 for one in found)


def test_doctor_as_json_has_every_check_and_the_same_exit_code() -> None:
    done = run_python(RINGCAST, "doctor", "--json")
    checks = json.loads(done.stdout)
    assert {"versions", "kernel", "queue"} <= {check["subject"] for check in checks}
    assert all(check.keys() == {"subject", "status", "found", "remedy"} for check in checks)
    assert done.returncode == any(check["status"] == "problem" for check in checks)
