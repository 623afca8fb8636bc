"""One process broadcasts work to three others; each gets every message, once and in order.

    python examples/broadcast.py

The queue's handle travels to the workers as an argument; with a handle no message is lost, however late a worker comes.
"""

from __future__ import annotations

import multiprocessing

from ringcast import Handle, MessageQueue

WORKERS = 3
STEPS = 1000


def work(handle: Handle, rank: int) -> None:
    """Receive until the writer closes."""
    with MessageQueue.create_from_handle(handle, rank) as queue:
        steps = [message["step"] for message in queue]
    assert steps == list(range(STEPS))
    print(f"worker {rank}: {len(steps)} messages, in order")


def main() -> None:
    context = multiprocessing.get_context("spawn")
    with MessageQueue(WORKERS, max_chunks=64, max_chunk_bytes=64 << 10) as queue:
        workers = [context.Process(target=work, args=(queue.export_handle(), rank)) for rank in range(WORKERS)]
        for worker in workers:
            worker.start()
        queue.wait_until_ready(timeout=60)
        for step in range(STEPS):
            queue.enqueue({"step": step, "tokens": [step, step + 1]}, timeout=60)
    # Leaving the block has closed the queue: the workers read what is left, then their loops end.
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
