"""An engine of NumPy arrays, with the KV connector's two sides and a pool of their own: what vLLM would call, in order.

A block's bytes follow from its hash, its rank and its layer, so that a block which holds anything else is seen.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ringcast.pool import KVLayout
from ringcast.vllm._copying import Copying
from ringcast.vllm._plans import Plan, Report
from ringcast.vllm._pool_events import Announcements
from ringcast.vllm._pool_settings import Settings
from ringcast.vllm._scheduling import Model, Scheduling
from tests.support import DEADLINE_S

BLOCK = 4
PAGE = 4096
LAYERS = 2
RANKS = 2
CHUNK = PAGE * LAYERS * RANKS
MODEL = Model("model", "1", "uint8", "toy", BLOCK)


def hashes(tokens: Sequence[int]) -> list[bytes]:
    """Of the tokens' whole blocks, each of which covers those before it."""
    found, last = [], b""
    for i in range(0, len(tokens) - BLOCK + 1, BLOCK):
        last = hashlib.sha256(last + bytes(tokens[i : i + BLOCK])).digest()
        found.append(last)
    return found


def page(of: bytes, rank: int, layer: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What a rank computes of a block in a layer."""
    return np.resize(np.frombuffer(hashlib.sha256(of + bytes([rank, layer])).digest(), np.uint8), PAGE)


@dataclass
class ToyRequest:
    """As much of a request as is looked at."""

    request_id: str
    tokens: list[int]
    cache_salt: str | None = None
    lora_request: Any = None
    skip_reading_prefix_cache: bool = False
    num_computed_tokens: int = 0
    blocks: list[int] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def all_token_ids(self) -> list[int]:
        return self.tokens

    @property
    def block_hashes(self) -> list[bytes]:
        return hashes(self.tokens)


class Toy:
    """An engine of two ranks. It has no prefixes of its own: all that it need not compute is the pool's."""

    def __init__(self, pool: str, blocks: int = 64, model: Model = MODEL, **settings: Any) -> None:
        self.settings = Settings.of({"pool": pool, "timeout": DEADLINE_S, "retry": 0.0, **settings})
        self.free = list(range(blocks))
        self.held: dict[int, int] = {}
        self.n_blocks = blocks
        self.requests: dict[str, ToyRequest] = {}
        self.caches = [[np.zeros((blocks, PAGE), np.uint8) for _ in range(LAYERS)] for _ in range(RANKS)]
        layouts = [KVLayout.pages([(layer, PAGE) for layer in cache], shards=RANKS) for cache in self.caches]
        self.workers = [Copying(self.settings, layout, rank) for rank, layout in enumerate(layouts)]
        self.told = Announcements(self.settings)
        self.announced: list[object] = []
        self.side = Scheduling(
            self.settings, model, KVLayout.sizes(layouts[0].page_bytes, shards=RANKS), self, self.blocks_of,
            announcements=self.told,
        )  # fmt: skip
        self.failed_blocks: set[int] = set()
        self.received: dict[str, int] = {}
        self.loaded: set[str] = set()
        self.wait_until(lambda: self.side.client is not None)

    # --- What the connector asks of an engine.

    def count(self) -> int:
        return self.n_blocks

    def hold(self, blocks: list[int]) -> None:
        for block in blocks:
            self.held[block] = self.held.get(block, 0) + 1

    def let_go(self, blocks: list[int]) -> None:
        for block in blocks:
            self.held[block] -= 1
            if not self.held[block]:
                del self.held[block]

    def blocks_of(self, request: str) -> list[int]:
        return self.requests[request].blocks

    # --- What an engine does.

    def step(self, scheduled: dict[str, int] | None = None) -> Plan:
        """One step, which computes so many tokens of each of these requests."""
        plan = self.side.plan(scheduled or {})
        for worker in self.workers:
            worker.begin(plan)  # before it computes
        for name, tokens in (scheduled or {}).items():
            self.compute(self.requests[name], tokens)
        self.hear()
        return plan

    def hear(self) -> None:
        """What the workers tell after a step, as vLLM puts it together."""
        whole: set[str] = set()
        together: Report | None = None
        for worker in self.workers:
            for name in worker.take_received():
                self.received[name] = self.received.get(name, 0) + 1
                if self.received[name] == RANKS:
                    whole.add(name)
                    del self.received[name]
            self.failed_blocks |= worker.take_failed_blocks()
            report = worker.take_report()
            together = report if together is None else together.aggregate(report)
        self.side.update(whole, together)
        self.announced += self.told.take()
        self.loaded |= whole

    def compute(self, request: ToyRequest, tokens: int) -> None:
        """The next tokens of a request."""
        first = request.num_computed_tokens // BLOCK
        request.num_computed_tokens += tokens
        for i in range(first, request.num_computed_tokens // BLOCK):
            for rank, cache in enumerate(self.caches):
                for layer, of_layer in enumerate(cache):
                    of_layer[request.blocks[i]] = page(request.block_hashes[i], rank, layer)

    def admit(self, request: ToyRequest) -> int:
        """A new request: what the pool has of it is loaded; how many of its tokens that were."""
        self.loaded = set()
        self.requests[request.request_id] = request
        asked: list[tuple[int | None, bool]] = []

        def is_known() -> bool:
            asked.append(self.side.matched(request, 0))
            return asked[-1][0] is not None

        self.wait_until(is_known)
        tokens, beside = asked[-1]
        assert tokens is not None
        assert beside == (tokens > 0)
        needed = -(-request.num_tokens // BLOCK)
        fresh = [block for block in self.free if block not in self.held][:needed]
        request.blocks = fresh
        self.free = [block for block in self.free if block not in fresh]
        self.side.allocated(request, request.blocks, tokens)
        request.num_computed_tokens = tokens
        if tokens:
            self.step()
            self.wait_until(lambda: request.request_id in self.loaded)
            bad = [i for i, block in enumerate(request.blocks) if block in self.failed_blocks]
            self.failed_blocks.clear()
            if bad:
                request.num_computed_tokens = bad[0] * BLOCK
        return request.num_computed_tokens

    def run(self, request: ToyRequest, *, settle: bool = True) -> int:
        """A request from its beginning to its end; how many of its tokens were loaded. Its blocks must be right."""
        loaded = self.admit(request)
        if request.num_tokens > loaded:
            self.step({request.request_id: request.num_tokens - loaded})
        self.check(request)
        self.end(request)
        if settle:
            self.settle()
        return loaded

    def check(self, request: ToyRequest) -> None:
        """Each block of it that is full holds what it must."""
        for i in range(request.num_computed_tokens // BLOCK):
            for rank, cache in enumerate(self.caches):
                for layer, of_layer in enumerate(cache):
                    expected = page(request.block_hashes[i], rank, layer)
                    assert bytes(of_layer[request.blocks[i]]) == bytes(expected), f"block {i} of rank {rank}"

    def end(self, request: ToyRequest) -> None:
        """Its blocks may be used by others, but for those that are held."""
        self.side.finished(request.request_id)
        del self.requests[request.request_id]
        self.free += request.blocks

    def settle(self) -> None:
        """Steps until no store is under way."""
        self.wait_until(lambda: not self.side.busy)

    def wait_until(self, condition: Any) -> None:
        """Steps, as an engine goes on with, until it holds."""
        until = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < until, "it never came"
            self.step()
            time.sleep(0.001)  # an engine's step takes longer

    def counted(self) -> dict[str, int]:
        """All counts since the last time."""
        together: dict[str, int] = {}
        for counts in (self.side.counts, *(worker.counts for worker in self.workers)):
            for name, count in counts.take().items():
                together[name] = together.get(name, 0) + count
        return together

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.side.close()

    def __enter__(self) -> Toy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
