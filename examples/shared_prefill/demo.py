"""Prefill with a pool of keys and values, by three workers of two engines, and what a killed server does to it.

    make demo-pool              # or, with ringcast[demo] installed: python examples/shared_prefill/demo.py

Engine A has two worker processes and engine B has one, whose paged caches are laid out differently. They share a small
transformer's weights, and a pool. The prompts are questions about modules of the standard library.

    engine.py       what connects an engine to the pool; read this first
    transformer.py  the model and its paged cache
    prompts.py      the prompts
    report.py       the table and the picture
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
from engine import CHUNK_TOKENS, Served, Worker
from prompts import MODULES, make_prompts
from report import Run, draw, table

from ringcast import WorkerGroup
from ringcast.workers import Member

say = partial(print, flush=True)  # each step when it comes, also into a pipe

SEED = 7
POOL_SIZE = "48MiB"


@contextmanager
def served(pool: str) -> Iterator[subprocess.Popen[str]]:
    """A process that serves the pool, from the moment at which it can be used."""
    command = [sys.executable, "-m", "ringcast", "pool", "serve", pool, "--size", POOL_SIZE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            if not line:
                raise SystemExit("the pool's server has not started; what is above says why")
            say(f"   Process {server.pid} says: {line.strip()}")
            yield server
        finally:
            server.terminate()


def run(title: str, workers: dict[str, Member], prompts: list[list[int]], with_pool: bool) -> Run:
    """All prompts, dealt out to the workers like cards."""
    begun = time.monotonic()
    calls = {
        name: worker.submit("serve", prompts[number :: len(workers)], with_pool)
        for number, (name, worker) in enumerate(workers.items())
    }
    lanes: dict[str, list[Served]] = {name: call.result() for name, call in calls.items()}
    done = Run(title, begun, time.monotonic() - begun, lanes)
    say(f"   {done.tokens - done.reused:,} of {done.tokens:,} tokens were computed, in {done.seconds:.1f} s.")
    return done


def compare(first: Run, other: Run) -> None:
    """Each prompt's logits must be those of the first run, bit for bit."""
    for one, same in zip(first.served, other.served, strict=True):
        if not torch.equal(one.logits, same.logits):
            raise SystemExit(f"{other.title}: the logits of a prompt are not those of the first run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    most = len(MODULES)
    parser.add_argument("--modules", type=int, choices=range(1, most + 1), default=most, help="that are asked about")
    parser.add_argument("--questions", type=int, choices=range(1, 11), default=6, help="about each module")
    parser.add_argument("--picture", type=Path, default=Path("demo-pool.png"), help="where to draw the runs")
    options = parser.parse_args()

    prompts = make_prompts(options.modules, options.questions, SEED)
    say(f"{len(prompts)} questions about {options.modules} modules of the standard library; a token is a byte.")
    pool = f"demo-{os.getpid()}"
    say("1. A pool is served, and two workers of engine A and one of engine B connect to it.")
    with (
        served(pool) as server,
        WorkerGroup(Worker, 2, args=(pool, SEED, "A"), rank_args=[(0,), (1,)]) as engine_a,
        WorkerGroup(Worker, 1, args=(pool, SEED, "B"), rank_args=[(0,)]) as engine_b,
    ):
        workers = {
            "engine A, worker 0": engine_a[0],
            "engine A, worker 1": engine_a[1],
            "engine B, worker 0": engine_b[0],
        }
        say("2. Prefill without the pool: every worker computes all of its prompts.")
        runs = [run("without the pool", workers, prompts, with_pool=False)]
        say("3. The same with the pool, which is empty: beginnings that prompts share are computed once.")
        runs.append(run("with the pool", workers, prompts, with_pool=True))
        say("4. The server is killed with SIGKILL.")
        server.kill()
        server.wait()
        chunks = engine_b[0].call("chunks_there", prompts[0])
        say(f"   With no server, engine B still finds {chunks} chunks of {CHUNK_TOKENS} tokens of the first prompt.")
        say("5. Another server starts.")
        with served(pool):
            say("6. The same prompts again: only what fills no chunk is computed.")
            runs.append(run("after the server's death", workers, prompts, with_pool=True))
    for other in runs[1:]:
        compare(runs[0], other)
    say(f"\n{table(runs)}\n\nOK: in all runs each prompt's logits are the same, bit for bit.")
    draw(runs, options.picture)
    say(f"The picture of it is {options.picture}.")


def end(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends this as Ctrl-C does: through the ends of the `with` blocks."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
