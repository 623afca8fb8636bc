"""`make demo-pool`, on a part of its input: two engines share a pool whose server is killed; and an interruption.

Shared memory that is left, or a process, is a failure of each test: tests/conftest.py.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("rich")

from tests.support import DEADLINE_S, ROOT

DEMO = (sys.executable, "examples/shared_prefill/demo.py", "--modules", "1", "--questions", "3")
ROW = re.compile(r"([a-z' ]+?) {2,}([\d,]+) +([\d,]+) +(\d+) % +[\d,]+ ms +[\d.]+ s(?: +-?\d+ %)?")
CHUNK_TOKENS = 128


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_two_engines_compute_once_what_prompts_share_and_go_on_where_a_killed_server_was(tmp_path: Path) -> None:
    picture = tmp_path / "made" / "demo.png"
    done = subprocess.run(
        [*DEMO, "--picture", picture], capture_output=True, text=True, cwd=ROOT, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    out = done.stdout
    rows = {row[1]: (number(row[2]), number(row[3])) for line in out.splitlines() if (row := ROW.fullmatch(line))}
    assert list(rows) == ["without the pool", "with the pool", "after the server's death"]
    (all_tokens, none), (once, shared), (rest, most) = rows.values()
    assert (none, once + shared, rest + most) == (0, all_tokens, all_tokens)
    # All three prompts begin with the same instructions and module, of about 2,300 bytes; their ends fill no chunk.
    assert shared >= 2 * 2048
    assert shared % CHUNK_TOKENS == 0
    assert rest < 3 * CHUNK_TOKENS
    found = re.search(r"With no server, engine B still finds (\d+) chunks", out)
    assert found is not None
    assert int(found[1]) >= 2300 // CHUNK_TOKENS
    assert re.search(r"serving pool 'demo-\d+', taken over with \d+ chunks", out)
    assert "OK: in all runs each prompt's logits are the same, bit for bit." in out
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_servers_and_workers(number: signal.Signals) -> None:
    """Ctrl-C is for all processes of a terminal's, SIGTERM for one."""
    with subprocess.Popen(
        DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    ) as demo:
        assert demo.stdout is not None
        assert any(line.startswith("2. Prefill without the pool") for line in demo.stdout)
        (os.killpg if number == signal.SIGINT else os.kill)(demo.pid, number)
        _, err = demo.communicate(timeout=DEADLINE_S)
    complaints = [line for line in err.splitlines() if "not ready after" not in line]  # as on a machine that is busy
    assert (demo.returncode, complaints) == (128 + number, [])
