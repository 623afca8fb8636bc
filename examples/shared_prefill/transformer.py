"""A small decoder-only transformer, of the shape of today's models, over a paged KV cache. It knows nothing of pools.

Tokens are bytes. Rotary positions, RMS norms, a gated feed-forward, and fewer heads of keys and values than of queries.
The weights are random, made from a seed: what it says makes no sense, but it is the same for the same prompt.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY = 256
LAYERS, WIDTH, INNER = 4, 384, 1024
HEADS, KV_HEADS, HEAD_SIZE = 12, 2, 32


class PagedCache(NamedTuple):
    """Keys and values in blocks, which prompts take in any order; engines differ in how the blocks lie in memory."""

    kv: Tensor | list[tuple[Tensor, Tensor]]
    """The engine's own tensors."""
    dims: str
    """The order of their dimensions: Layers, 2 for keys and values, Blocks, N tokens of a block, Heads, Content."""
    block_tokens: int
    planes: list[tuple[Tensor, Tensor]]
    """Views of each layer's keys and values as [blocks, tokens of a block, heads, content], whatever the order."""

    def write(self, layer: int, blocks: Tensor, start: int, keys: Tensor, values: Tensor) -> None:
        """Put the keys and values of the tokens from `start` on, [tokens, heads, content], into a prompt's blocks."""
        at = torch.arange(start, start + len(keys))
        for plane, rows in zip(self.planes[layer], (keys, values), strict=True):
            plane[blocks[at // self.block_tokens], at % self.block_tokens] = rows

    def read(self, layer: int, blocks: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """The keys and the values of a prompt's first `tokens` tokens, [heads, tokens, content]."""
        keys, values = (plane[blocks].flatten(0, 1)[:tokens].transpose(0, 1) for plane in self.planes[layer])
        return keys, values


def tokens_first(tokens: int) -> PagedCache:
    """One tensor for everything, blocks of 16 tokens, of each token all heads side by side."""
    kv = torch.zeros(LAYERS, 2, tokens // 16, 16, KV_HEADS, HEAD_SIZE)
    return PagedCache(kv, "L2BNHC", 16, [(layer[0], layer[1]) for layer in kv])


def heads_first(tokens: int) -> PagedCache:
    """Two tensors for each layer, blocks of 32 tokens, of each head all tokens side by side."""
    shape = (tokens // 32, KV_HEADS, 32, HEAD_SIZE)
    kv = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(LAYERS)]
    return PagedCache(kv, "BHNC", 32, [(keys.transpose(1, 2), values.transpose(1, 2)) for keys, values in kv])


class Layer(nn.Module):
    """Attention and feed-forward, each added to what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.inner_norm = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, (HEADS + 2 * KV_HEADS) * HEAD_SIZE, bias=False)
        self.out = nn.Linear(HEADS * HEAD_SIZE, WIDTH, bias=False)
        self.gate_up = nn.Linear(WIDTH, 2 * INNER, bias=False)
        self.down = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x: Tensor, number: int, start: int, cache: PagedCache, blocks: Tensor) -> Tensor:
        tokens = len(x)
        heads = self.qkv(self.attention_norm(x)).view(tokens, HEADS + 2 * KV_HEADS, HEAD_SIZE)
        queries, keys, values = heads.split((HEADS, KV_HEADS, KV_HEADS), dim=1)
        cache.write(number, blocks, start, rotated(keys, start), values)
        keys, values = cache.read(number, blocks, start + tokens)
        mask = torch.ones(tokens, start + tokens, dtype=torch.bool).tril(start)
        queries = rotated(queries, start).transpose(0, 1)
        # With a batch's dimension in front, without which torch has only a slow way.
        seen = F.scaled_dot_product_attention(queries[None], keys[None], values[None], mask, enable_gqa=True)[0]
        x = x + self.out(seen.transpose(0, 1).flatten(1))
        gate, up = self.gate_up(self.inner_norm(x)).chunk(2, dim=1)
        added: Tensor = self.down(F.silu(gate) * up)
        return x + added


class Transformer(nn.Module):
    """All layers, from token to logits."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    @torch.inference_mode()
    def forward(self, tokens: Tensor, start: int, cache: PagedCache, blocks: Tensor) -> Tensor:
        """The logits after the last of these tokens, the first of which is the prompt's number `start`.

        Reads the keys and values of all tokens before them from the cache, and writes theirs.
        """
        x = self.embedding(tokens)
        for number, layer in enumerate(self.layers):
            x = layer(x, number, start, cache, blocks)
        logits: Tensor = self.head(self.norm(x[-1]))
        return logits


def rotated(x: Tensor, start: int) -> Tensor:
    """Turns each pair of a head's numbers by an angle that grows with the token's position."""
    angles = torch.arange(start, start + len(x))[:, None] * 10_000.0 ** -torch.linspace(0, 1, HEAD_SIZE // 2)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)
