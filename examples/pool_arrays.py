"""Arrays in a pool that outlive the process which computed them. A server in one terminal, and in others this program:

    ringcast pool serve example --size 64MiB
    python examples/pool_arrays.py
    ringcast pool stat example --watch 1

Each prompt is cut into chunks of 256 tokens. What the pool has of it is read where it lies, the rest is computed and
stored. The second prompt begins as the first does, so half of it is there; run the program again, and all of both is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ringcast.pool import Namespace, PoolClient, chunk_keys

POOL = "example"
TOKENS = 256
SHAPE = (8, TOKENS, 64)  # layers, tokens, channels
CHUNK_BYTES = 8 * TOKENS * 64 * 4
SPACE = Namespace(model="example", dtype="float32", layout="layers, tokens, channels")


def compute(tokens: Sequence[int], chunk: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What a model would take long for: here a sum of all tokens up to each."""
    sums = np.cumsum(np.asarray(tokens, np.float32))[chunk * TOKENS : (chunk + 1) * TOKENS]
    return np.broadcast_to(sums[None, :, None], SHAPE)


def answer(client: PoolClient, tokens: Sequence[int]) -> tuple[int, int, float]:
    """How many chunks of the prompt were there, how many it has, and what the model says."""
    keys = chunk_keys(tokens, SPACE, TOKENS)
    with client.retrieve(keys) as found:
        total = sum(float(slot.array.view(np.float32).sum()) for slot in found.slots)
        hits = found.hits
    with client.store(keys) as store:
        for slot in store.slots:  # those that are not there, and that nobody else is storing
            slot.array.view(np.float32).reshape(SHAPE)[:] = compute(tokens, slot.index)
    for chunk in range(hits, len(keys)):
        total += float(compute(tokens, chunk).sum())
    return hits, len(keys), total


def main() -> None:
    with PoolClient.connect(POOL, "pool_arrays", layout=CHUNK_BYTES) as client:
        first = range(4 * TOKENS)
        second = [*first[: 2 * TOKENS], *range(2 * TOKENS)]
        for tokens in (first, second):
            hits, chunks, total = answer(client, tokens)
            print(f"{hits} of {chunks} chunks were there; the answer is {total:.6g}")


if __name__ == "__main__":
    main()
