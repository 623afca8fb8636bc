"""A data-parallel evaluation: four workers share the samples, and a progress bar shows what has been done.

    python examples/evaluate.py

The samples lie in memory that all workers see; each call is a batch's bounds. A batch goes to whoever is free.
"""

from __future__ import annotations

import concurrent.futures
import math
import sys

from ringcast import WorkerGroup

WORKERS = 4
SAMPLES, BATCH = 20_000, 250


class Evaluation:
    """What each worker holds."""

    def __init__(self, power: int) -> None:
        self.power = power
        self.samples: list[float] = []

    def load(self, samples: list[float]) -> int:
        self.samples = samples
        return len(samples)

    def error(self, first: int, end: int) -> float:
        """The summed error of a polynomial of the sine, over some samples."""
        return sum(abs(math.sin(x) - self.polynomial(x)) for x in self.samples[first:end])

    def polynomial(self, x: float) -> float:
        return math.fsum((-1.0) ** (k // 2) * x**k / math.factorial(k) for k in range(1, self.power + 1, 2))


def show(done: int, of: int) -> None:
    filled = 40 * done // of
    print(f"\r[{'#' * filled}{'.' * (40 - filled)}] {done}/{of} batches", end="", file=sys.stderr, flush=True)


def main() -> None:
    samples = [3.0 * index / SAMPLES for index in range(SAMPLES)]
    with WorkerGroup(Evaluation, WORKERS, kwargs={"power": 9}) as group:
        assert group.call("load", samples) == [SAMPLES] * WORKERS
        waiting = [(first, min(first + BATCH, SAMPLES)) for first in range(0, SAMPLES, BATCH)]
        batches = len(waiting)
        running: dict[concurrent.futures.Future[float], int] = {
            group[rank].submit("error", *waiting.pop()): rank for rank in range(WORKERS)
        }
        total, done = 0.0, 0
        while running:
            finished, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in finished:
                rank = running.pop(future)
                total += future.result()
                done += 1
                if waiting:
                    running[group[rank].submit("error", *waiting.pop())] = rank
            show(done, batches)
    print(f"\nmean error {total / SAMPLES:.2e} over {SAMPLES} samples, {WORKERS} workers")


if __name__ == "__main__":
    main()
