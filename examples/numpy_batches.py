"""Arrays to two workers that each compute a part; the results come back over a queue per worker.

    python examples/numpy_batches.py

Arrays travel beside the pickle, through shared memory; an answer queue is the mirror image: the parent is its reader.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from ringcast import Handle, MessageQueue

WORKERS = 2
BATCHES = 20


def work(handle: Handle, rank: int, pipe: Connection[Any, Any]) -> None:
    """For each batch, the sums of every WORKERS-th row."""
    with MessageQueue.create_from_handle(handle, rank) as batches, MessageQueue(1) as answers:
        pipe.send(answers.export_handle())
        for batch in batches:
            answers.enqueue(batch[rank::WORKERS].sum(axis=1))


def main() -> None:
    context = multiprocessing.get_context("spawn")
    answers = []
    with MessageQueue(WORKERS) as queue:
        for rank in range(WORKERS):
            here, there = context.Pipe()
            context.Process(target=work, args=(queue.export_handle(), rank, there)).start()
            there.close()
            answers.append(MessageQueue.create_from_handle(here.recv(), 0))
        source = np.random.default_rng(0)
        for _ in range(BATCHES):
            batch = source.random((512, 4096), dtype=np.float32)  # 8 MiB
            queue.enqueue(batch, timeout=60)
            for rank, answer in enumerate(answers):
                np.testing.assert_array_equal(answer.dequeue(timeout=60), batch[rank::WORKERS].sum(axis=1))
    print(f"{BATCHES} batches of {batch.nbytes >> 20} MiB: all sums are right")


if __name__ == "__main__":
    main()
