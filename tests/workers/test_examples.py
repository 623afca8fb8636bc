"""The examples of worker groups, as people run them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from tests.support import ROOT


def run_example(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_data_parallel_evaluation_with_a_progress_bar() -> None:
    out = run_example(sys.executable, "examples/evaluate.py")
    assert "80/80 batches" in out
    assert "mean error 3.52e-04 over 20000 samples, 4 workers" in out


def test_a_controller_of_a_torchrun_job() -> None:
    pytest.importorskip("torch")
    out = run_example(
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4",
        "examples/torchrun_group.py",
    )  # fmt: skip
    assert "3 workers, 3000 rows, gradient 0.0" in out


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: ringcast[ray]")
def test_actors_of_a_ray_cluster_of_two_nodes() -> None:
    out = run_example(sys.executable, "examples/ray_group.py")
    assert "4 actors on 2 nodes: 332833500, 249500250000" in out
