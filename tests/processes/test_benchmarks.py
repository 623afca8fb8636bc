"""`python -m benchmarks`, a small part of it: the report, the JSON with its goals, and the pictures of a saved run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("click")
pytest.importorskip("numpy")
pytest.importorskip("cryptography")

from benchmarks.peers import SUBJECTS
from benchmarks.workloads import WORKLOADS
from tests.support import DEADLINE_S, ROOT

pytestmark = pytest.mark.alone


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=4 * DEADLINE_S, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of three workloads with two subjects has written, one across machines, and the pool's."""
    folder = tmp_path_factory.mktemp("benchmarks")
    chosen = ["latency,arrays,startup,ringcast,mp.Queue", "link_rate,link,tls", "pool,server,server-stopped"]
    done = benchmarks("--quick", "--only", ",".join(chosen), "--out", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == (folder / "benchmarks.txt").read_text()
    return folder


def test_the_report_has_a_table_for_each_workload_and_the_goals(folder: Path) -> None:
    report = (folder / "benchmarks.txt").read_text()
    for title in (
        "One-way latency",
        "NumPy arrays, 1 reader",
        "NumPy arrays, 2 readers",
        "Queue made, attached, ready",
    ):
        assert f"\n{title}: " in report
    assert "multiprocessing.Queue: not measured: a running process cannot be given one" in report
    goals = report.partition("\nGoals\n")[2]
    assert "arrays, 1 MiB, 1 reader" in goals
    assert "queue made, attached, ready" in goals


def test_the_json_has_every_row_and_the_goals(folder: Path) -> None:
    found = json.loads((folder / "benchmarks.json").read_text())
    assert found["schema"] == "ringcast-bench/1"
    across = ["link_rate"] if "workload link_rate" not in found["missing"] else []
    assert list(found["workloads"]) == ["latency", "startup", "arrays", "pool", *across]
    for workload in across:
        for case in found["workloads"][workload]["cases"].values():
            assert set(case["rows"]) - {"native"} == {"link", "tls"}
            assert all(row["rate"] > 0 for row in case["rows"].values())
        assert [each["goal"] for each in found["goals"] if each["goal"].startswith("link, 64-byte rate")]
    pool = found["workloads"]["pool"]["cases"]
    measured = {name: {key: row for key, row in case["rows"].items() if key != "native"} for name, case in pool.items()}
    assert measured["retrieve/16/1"].keys() == {"server", "server-stopped"}
    assert measured["prepare/16/4"].keys() == {"server"}
    assert all(row["p50"] > 0 and "errors" not in row for rows in measured.values() for row in rows.values())
    assert [each["verdict"] for each in found["goals"] if each["goal"].startswith("pool, p50, 16 keys, lookup")]
    rows = found["workloads"]["arrays"]["cases"]["1MiB/2"]["rows"]
    assert {"ringcast", "mp.Queue"} <= set(rows)
    assert "native" in rows or "native floor" in found["missing"]
    assert {each["verdict"] for each in found["goals"]} <= {"reached", "missed", "not measured"}
    # Of so few samples p99 is no figure, and neither is what is held against it.
    assert found["workloads"]["latency"]["cases"]["all"]["rows"]["ringcast"]["p99"] is None
    assert [each["verdict"] for each in found["goals"] if each["goal"].endswith("latency, p99")] == ["not measured"]


def test_a_saved_run_can_be_drawn_again(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = benchmarks("--plot", str(folder / "benchmarks.json"), "--out", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    drawn = {path.name: path.read_bytes()[:4] for path in tmp_path.iterdir()}
    assert drawn == dict.fromkeys(["benchmarks.png", "hero-dark.png", "hero-light.png"], b"\x89PNG")


def test_all_that_can_cross_a_network_is_a_row_of_the_workloads_across_machines_and_of_no_other() -> None:
    across = {"link_latency", "link_rate", "link_bytes"}
    wanted = {"link", "link-plain", "pyzmq-tcp", "pyzmq-curve", "tls", "gloo"}
    for workload in WORKLOADS:
        rows = {subject.key for subject in SUBJECTS if workload.takes(subject)}
        assert rows == wanted if workload.key in across else not rows & wanted


def test_a_list_that_nobody_reads_to_its_end_is_no_error() -> None:
    command = [sys.executable, "-m", "benchmarks", "--list"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(DEADLINE_S)) == (b"", 0)


def test_a_name_that_is_none_is_refused() -> None:
    done = benchmarks("--only", "latency,nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no workload or subject is called nonsense" in done.stderr


def evictions(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.eviction", *arguments]
    env = {name: value for name, value in os.environ.items() if name != "RINGCAST_TRACES"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False, env=env)


def test_traces_are_replayed_through_each_policy(tmp_path: Path) -> None:
    for name in ("conversation", "synthetic"):
        lines = [json.dumps({"timestamp": 0, "hash_ids": [0, 1 + i % 50, 100 + i % 25]}) for i in range(500)]
        (tmp_path / f"{name}_trace.jsonl").write_text("\n".join(lines) + "\n")
    done = evictions(str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("500 requests, 1,500 blocks, 76 different") == 2
    rows = {" ".join(line.split()[:-5]): line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert {"leaf S3-FIFO"} <= set(rows)
    assert "largest error" in done.stdout


def test_without_traces_the_replay_says_so(tmp_path: Path) -> None:
    for arguments in ((), (str(tmp_path),)):
        done = evictions(*arguments)
        assert done.returncode == 2
        assert "traces" in done.stderr
        assert done.stdout == ""
