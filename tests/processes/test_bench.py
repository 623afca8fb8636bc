"""`ringcast bench`, from end to end: what it measures, what it says of it, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")
pytest.importorskip("numpy")

from ringcast import __version__
from tests.support import DEADLINE_S

SHORT = ("--seconds", "0.01", "--rounds", "2")
BUSY = re.compile(r"ringcast: warning: the machine was busy: .*\n")


def bench(*arguments: str, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The command, in an environment that lacks some packages."""
    entry = (
        f"import sys; sys.modules.update(dict.fromkeys({without!r}))\n"
        f"from ringcast.cli import main; sys.exit(main(['bench', *{list(arguments)!r}]))"
    )
    return subprocess.run(
        [sys.executable, "-c", entry], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def complaints(done: subprocess.CompletedProcess[str]) -> str:
    """What it says on the standard error, but for the machine, which other tests may keep busy."""
    return BUSY.sub("", done.stderr)


@pytest.fixture(scope="module")
def done() -> subprocess.CompletedProcess[str]:
    """A short run."""
    return bench(*SHORT)


def test_it_measures_both_and_compares_in_words(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, complaints(done)) == (0, "")
    first, *lines = done.stdout.splitlines()
    assert first.split() == ["readers", "ringcast", "multiprocessing.Queue", "ringcast", "is"]
    value = r"[\d.,]+ \S+"
    for title in ("latency of 64 B, p50", "rate of 64 B", "arrays of 1 MiB"):
        at = next(at for at, line in enumerate(lines) if line.startswith(title))
        for readers in (1, 2):
            row = lines[at + readers - 1].removeprefix(title)
            assert re.fullmatch(rf" +{readers} +{value} +{value} +([\d.,]+x (fast|slow)er|same)", row), row
    assert max(map(len, lines[:6])) <= 80


def test_a_percentile_that_too_few_samples_carry_is_left_out_and_that_is_said(
    done: subprocess.CompletedProcess[str],
) -> None:
    assert "p99" not in done.stdout.split("No p99")[0]
    assert "No p99: 400 samples were taken, 10,000 carry one" in done.stdout


def test_the_json_has_the_machine_the_versions_the_settings_every_round_and_the_medians() -> None:
    done = bench("--json", *SHORT)
    assert (done.returncode, complaints(done)) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["schema"] == "ringcast-bench/1"
    assert found["machine"].keys() >= {"date", "cpu", "cpus", "kernel", "python", "placement", "load_before"}
    assert found["versions"]["ringcast"] == __version__
    assert (found["settings"]["rounds"], found["settings"]["effort"], found["rounds"]) == (2, 0.02, 2)
    assert list(found["subjects"]) == ["ringcast", "mp.Queue"]
    cases = {key: list(workload["cases"]) for key, workload in found["workloads"].items()}
    assert cases == {"latency": ["1", "2"], "rate": ["1", "2"], "arrays": ["1MiB/1", "1MiB/2"]}
    for workload in found["workloads"].values():
        headline = next(iter(workload["metrics"]))
        for case in workload["cases"].values():
            assert list(case["rows"]) == ["ringcast", "mp.Queue"]
            for row in case["rows"].values():
                assert len(row["rounds"]) == 2
                assert row[headline] == median(each[headline] for each in row["rounds"]) > 0
    assert found["workloads"]["latency"]["cases"]["1"]["rows"]["ringcast"]["p99"] is None


@contextmanager
def busy_machine() -> Iterator[None]:
    """Others compute meanwhile: two processes for each CPU."""
    loop = "print(flush=True)\nwhile True: pass"
    others = [
        subprocess.Popen([sys.executable, "-c", loop], stdout=subprocess.PIPE) for _ in range(2 * (os.cpu_count() or 1))
    ]
    try:
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()
        yield
    finally:
        for other in others:
            other.kill()
            other.communicate()


@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not say what others use")
def test_a_busy_machine_is_warned_of() -> None:
    with busy_machine():
        done = bench("--json", *SHORT)
    assert done.returncode == 0
    assert BUSY.search(done.stderr), done.stderr
    assert json.loads(done.stdout)["machine"]["others_percent"] >= 10


@pytest.mark.parametrize("option", ["--seconds=nan", "--seconds=inf", "--seconds=-1", "--seconds=0", "--rounds=0"])
def test_a_time_or_a_count_that_is_none_is_wrong_usage(option: str) -> None:
    done = bench(option)
    assert (done.returncode, done.stdout) == (2, "")
    assert option.partition("=")[0] in done.stderr


def test_a_picture_without_matplotlib_names_the_extra_before_anything_is_measured(tmp_path: Path) -> None:
    done = bench(*SHORT, "--plot", str(tmp_path / "bench.png"), without=("matplotlib",))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == 'ringcast: a picture needs matplotlib: pip install "ringcast[bench]"\n'


def test_a_picture_of_another_kind_is_wrong_usage(tmp_path: Path) -> None:
    done = bench(*SHORT, "--plot", str(tmp_path / "bench.txt"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "neither .png nor .svg" in done.stderr


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG\r\n"), (".svg", b"<?xml")])
def test_a_picture_is_drawn_beside_the_table(tmp_path: Path, suffix: str, begins: bytes) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / f"bench{suffix}"
    done = bench(*SHORT, "--plot", str(picture))
    assert (done.returncode, complaints(done)) == (0, "")
    assert "latency of 64 B, p50" in done.stdout
    assert picture.read_bytes().startswith(begins)


def test_without_numpy_the_arrays_are_left_out_and_that_is_said() -> None:
    done = bench(*SHORT, without=("numpy",))
    assert (done.returncode, complaints(done)) == (0, "")
    assert "of 1 MiB" not in done.stdout
    assert 'Left out: arrays: NumPy is not installed: pip install "ringcast[numpy]"' in done.stdout
    assert re.search(r"rate of 64 B +1 +\d", done.stdout)
