"""What workers print, and what a group tells of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from ringcast import WorkerGroup
from tests.support import ROOT, eventually, run_python, started_pids
from tests.workers.objects import LONG_S, Gate, Model

SCRIPT = """
import sys
from ringcast import WorkerGroup
from tests.workers.objects import Model
if __name__ == "__main__":
    with WorkerGroup(Model, 2, prefix=sys.argv[1] == "prefix") as group:
        group.call("say", "words")
"""


def test_each_line_of_a_worker_has_its_rank() -> None:
    done = run_python(SCRIPT, "prefix")
    assert done.returncode == 0, done.stderr
    out = sorted(done.stdout.splitlines())
    assert out == sorted(f"[Model rank {rank}] words{more}" for rank in range(2) for more in ("", ", another program"))
    assert sorted(done.stderr.splitlines()) == [f"[Model rank {rank}] words, an error" for rank in range(2)]


def test_output_without_a_prefix_is_left_alone() -> None:
    done = run_python(SCRIPT, "none")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("words") == 4
    assert "rank" not in done.stdout + done.stderr


def test_a_cast_s_exception_is_printed_with_its_rank(capfd: pytest.CaptureFixture[str]) -> None:
    with WorkerGroup(Model, 1) as group:
        group.cast("fail", "of a cast")
    assert "[Model rank 0] KeyError: 'of a cast'" in capfd.readouterr().err


def test_the_last_words_of_a_worker_that_dies_are_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with WorkerGroup(Model, 1) as group:
        group.cast("say", "last words")
        group.cast("end", "_exit")
    assert "[Model rank 0] last words\n" in capfd.readouterr().out


def test_statistics_tell_a_straggler() -> None:
    with WorkerGroup(Model, 2) as group:
        for _ in range(5):
            with Gate() as gate:
                future = group.submit("wait_at_by_rank", gate.path, 0.02)
                # Rank 1 begins its nap when rank 0 has answered.
                eventually(lambda: group.stats()["ranks"][0]["under_way"] == 0, "the first answer")
            future.result(LONG_S)
        stats = group.stats()
        first, second = stats["ranks"]
        assert [one["answers"] for one in stats["ranks"]] == [5, 5]
        assert first["behind_p50"] == 0.0
        assert second["behind_p50"] is not None
        assert second["behind_p50"] > 0.02
        assert second["slowest"] == 1.0
        assert second["latency_p50"] is not None
        assert second["latency_p50"] > 0.02
        with Gate() as gate:
            busy = group[1].submit("wait_at", gate.path)
            assert [one["under_way"] for one in group.stats()["ranks"]] == [0, 1]
        busy.result(LONG_S)
        os.kill(group.pids[1], signal.SIGKILL)
        eventually(lambda: not group.stats()["ranks"][1]["alive"])


def _alive(mark: str) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if f"OF_THE_TEST={mark}".encode() in file.read():
                    found.append(pid)
        except OSError:
            continue
    return found


INTERRUPTED = """
import sys, time
from ringcast import WorkerGroup
from tests.workers.objects import Model
if __name__ == "__main__":
    try:
        print("begins", flush=True)
        while True:
            with WorkerGroup(Model, 2) as group:
                futures = [group.submit("echo_only", i) for i in range(20)]
                for step in range(3):
                    group.call("nap", 0.005)
                    list(group[0].stream("count_to", 20))
                [future.result() for future in futures]
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.parametrize("whom", ["the group's process", "all of them"])
def test_ctrl_c_at_any_moment_leaves_nothing(whom: str) -> None:
    for moment in (0.0, 0.05, 0.15, 0.3, 0.45, 0.7):
        mark = f"{os.getpid()}-{moment}-{len(whom)}"
        with subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "OF_THE_TEST": mark}, start_new_session=True,
        ) as process:  # fmt: skip
            started_pids.add(process.pid)
            assert process.stdout is not None
            assert process.stdout.readline() == "begins\n"
            time.sleep(moment)  # the moment is what is tested; nothing is synchronised by it
            (os.killpg if whom == "all of them" else os.kill)(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=30)
        assert "interrupted" in out, (moment, out, err)
        assert "Traceback" not in err, (moment, err)
        eventually(lambda mark=mark: not _alive(mark), "the end of all processes")  # type: ignore[misc]
