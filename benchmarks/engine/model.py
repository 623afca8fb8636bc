"""A Llama so small that a step is mostly what the engine does around it. Its weights are random, by one seed."""

from __future__ import annotations

import json
from pathlib import Path

VOCABULARY = 2048
_HIDDEN = 128

_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": _HIDDEN,
    "intermediate_size": 2 * _HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "head_dim": 64, "vocab_size": VOCABULARY, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "float32",
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


_LARGER = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8,
           "num_key_value_heads": 8, "max_position_embeddings": 4096}  # fmt: skip
"""Of which a long prompt takes a while: 16 KiB a token and rank."""


def make(folder: Path, *, larger: bool = False) -> Path:
    """The folder that vLLM loads; the weights are made while it does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_CONFIG | (_LARGER if larger else {})))
    return folder


def prompts(count: int, tokens: int, first: int = 0) -> list[list[int]]:
    """So many prompts of so many tokens, each time the same; another `first` makes others."""
    return [[3 + (7 * (first + i) + j) % (VOCABULARY - 10) for j in range(tokens)] for i in range(count)]
