"""The walk of the README: a server in one terminal, the example in another, and `ringcast pool stat` in a third."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from ringcast.pool import PoolServer
from tests.support import DEADLINE_S, ROOT, segments, started_pids, unique_name


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, timeout=240, check=True)
    assert done.stderr == ""
    return done.stdout


def test_what_one_run_of_the_example_stores_the_next_finds_even_after_the_servers_death() -> None:
    command = [sys.executable, "-m", "ringcast", "pool", "serve", "example", "--size", "64MiB", "--keep"]
    for last in (False, True):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            started_pids.add(server.pid)
            assert server.stdout is not None
            assert server.stdout.readline().startswith("serving pool 'example', ")
            there = [re.match(r"(\d) of 4 chunks were there; the answer is (\S+)\n", line) for line in lines()]
            found = [(int(one[1]), one[2]) for one in there if one]
            if not last:
                answers = [answer for _, answer in found]
                assert [hits for hits, _ in found] == [0, 2]
            assert lines() == [f"4 of 4 chunks were there; the answer is {answer}\n" for answer in answers]
            assert "chunks        6 of 4096, 0 being stored\n" in run("-m", "ringcast", "pool", "stat", "example")
            server.send_signal(signal.SIGTERM if last else signal.SIGKILL)
            server.wait(DEADLINE_S)
    assert run("-m", "ringcast", "pool", "rm", "example") == "Removed pool 'example'.\n"
    assert segments() == set()


def lines() -> list[str]:
    return run("examples/pool_arrays.py").splitlines(keepends=True)


def test_the_readmes_snippet_runs_as_it_stands() -> None:
    section = (ROOT / "README.md").read_text().partition("### A pool of chunks\n")[2].partition("\n### ")[0]
    snippet = section.partition("```python\n")[2].partition("```")[0]
    name = unique_name("p")
    names: dict[str, object] = {"token_ids": range(1000), "compute": lambda array, index: array.fill(index + 1)}
    with PoolServer(name, "4MiB"):
        program = compile(snippet.replace('"kv0"', repr(name)), "README.md", "exec")
        for hits in (0, 3):
            exec(program, names)
            assert names["hits"] == hits
