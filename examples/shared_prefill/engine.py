"""A worker of an engine, and what connects it to a pool: a layout, a namespace, a client, and `prefill_with_pool`.

Prefill goes in steps of a chunk's tokens, with the pool and without. So a token's keys and values come from the same
operations on the same shapes wherever they are computed, and are the same to the last bit.
"""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

import torch
from torch import Tensor
from transformer import Transformer, heads_first, tokens_first

from ringcast.errors import PoolError
from ringcast.pool import KVLayout, Namespace, PoolClient, chunk_keys, gather_paged, scatter_paged

CHUNK_TOKENS = 128
CACHE_TOKENS = 8192
CACHES = {"A": tokens_first, "B": heads_first}
WAIT_S = 60.0


class Served(NamedTuple):
    """What became of a prompt."""

    logits: Tensor
    """After its last token."""
    tokens: int
    reused: int
    """Tokens whose keys and values came from the pool."""
    begun: float
    """Seconds of `time.monotonic`, which is the same in all processes of a machine; and so the next two."""
    loaded: float
    """The engine's cache had all that came from the pool."""
    ended: float


class Worker:
    """One of an engine's processes: the whole model, a paged cache, and a seat at the pool."""

    def __init__(self, pool: str, seed: int, engine: str, number: int) -> None:
        torch.set_num_threads(1)
        self.model = Transformer(seed)
        self.cache = CACHES[engine](CACHE_TOKENS)
        # Of known form: so engines whose tensors differ, as those of A and B do, read each other's chunks.
        self.layout = KVLayout.tokens(
            self.cache.kv, CHUNK_TOKENS, dims=self.cache.dims, block_tokens=self.cache.block_tokens
        )
        # All that makes bytes unusable elsewhere: with other weights there is nothing to be found.
        self.space = Namespace(
            "transformer.py", revision=f"seed {seed}", dtype=torch.float32, layout=self.layout.fingerprint
        )
        self.client = PoolClient.connect(pool, f"{engine}{number}", layout=self.layout)

    def serve(self, prompts: list[list[int]], with_pool: bool) -> list[Served]:
        """Prefill of one prompt after the other."""
        return [self.prefill(tokens) if with_pool else self.prefill_alone(tokens) for tokens in prompts]

    def prefill(self, tokens: list[int]) -> Served:
        """Takes from the pool what is there, computes the rest, and gives that to the pool."""
        try:
            return self.prefill_with_pool(tokens)
        except PoolError as error:  # a cache never fails an engine
            logging.warning("going on without the pool: %s", error)
            return self.prefill_alone(tokens)

    def prefill_with_pool(self, tokens: list[int]) -> Served:
        begun = time.monotonic()
        blocks = self.free_blocks(len(tokens))
        # The last token is always computed, for its logits: its chunk would be of no use.
        keys = chunk_keys(tokens[:-1], self.space, CHUNK_TOKENS)
        per_chunk = CHUNK_TOKENS // self.cache.block_tokens
        of_chunks = blocks[: len(keys) * per_chunk].view(-1, per_chunk)
        # `store` reserves what nobody has and nobody computes; `retrieve` waits for what others compute. So nothing is
        # computed twice, and nobody waits in a circle: one waits only for what was reserved before.
        with self.client.store(keys) as store, self.client.retrieve(keys, wait=WAIT_S) as found:
            damaged = scatter_paged(found, self.cache.kv, of_chunks[: found.hits], self.layout).result()
            reused = min(damaged, default=found.hits) * CHUNK_TOKENS
            loaded = time.monotonic()
            logits = self.compute(tokens, reused, blocks)
            reserved = [slot.index for slot in store.slots]
            gather_paged(self.cache.kv, of_chunks[reserved], store, self.layout)
        return Served(logits, len(tokens), reused, begun, loaded, time.monotonic())

    def prefill_alone(self, tokens: list[int]) -> Served:
        """Computes everything."""
        begun = time.monotonic()
        logits = self.compute(tokens, 0, self.free_blocks(len(tokens)))
        return Served(logits, len(tokens), 0, begun, begun, time.monotonic())

    def compute(self, tokens: list[int], start: int, blocks: Tensor) -> Tensor:
        """Runs the model over the tokens from `start` on, where a chunk begins, in steps of a chunk."""
        for at in range(start, len(tokens), CHUNK_TOKENS):
            logits: Tensor = self.model(torch.tensor(tokens[at : at + CHUNK_TOKENS]), at, self.cache, blocks)
        return logits

    def free_blocks(self, tokens: int) -> Tensor:
        """Blocks for so many tokens: all are free, and their order is random, as in an engine that is busy."""
        return torch.randperm(CACHE_TOKENS // self.cache.block_tokens)[: -(-tokens // self.cache.block_tokens)]

    def chunks_there(self, tokens: list[int]) -> int:
        """How many leading chunks of a prompt the pool has; nobody is asked, it is seen in memory."""
        return self.client.lookup(chunk_keys(tokens, self.space, CHUNK_TOKENS)).memory
