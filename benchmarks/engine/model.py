"""Llamas so small that a step is mostly what the engine does around it. Their weights are random, by one seed."""

from __future__ import annotations

import json
import math
from importlib import import_module
from pathlib import Path
from typing import Any

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
"""Of which a long prompt takes a while, and has 16 KiB a token and rank."""


def make(folder: Path) -> Path:
    """The folder that vLLM loads; the weights are made while it does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    return folder


def make_larger(folder: Path) -> Path:
    """One with weights of its own, of such sizes that what it says depends on every token before."""
    import torch

    save: Any = import_module("safetensors.torch").save_file
    hidden, inner, layers = (_LARGER[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    chance = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=chance) / math.sqrt(columns)

    weights = {"model.embed_tokens.weight": matrix(VOCABULARY, hidden), "lm_head.weight": matrix(VOCABULARY, hidden)}
    norms = ["model.norm.weight"]
    for i in range(layers):
        layer = f"model.layers.{i}."
        norms += [f"{layer}{name}.weight" for name in ("input_layernorm", "post_attention_layernorm")]
        weights |= {f"{layer}self_attn.{name}_proj.weight": 2 * matrix(hidden, hidden) for name in "qkvo"}
        weights |= {f"{layer}mlp.{name}_proj.weight": matrix(inner, hidden) for name in ("gate", "up")}
        weights[f"{layer}mlp.down_proj.weight"] = matrix(hidden, inner)
    weights |= {name: torch.ones(hidden) for name in norms}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_CONFIG | _LARGER))
    save(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def prompts(count: int, tokens: int, first: int = 0) -> list[list[int]]:
    """So many prompts of so many tokens, each time the same; another `first` makes others."""
    return [[3 + (7 * (first + i) + j) % (VOCABULARY - 10) for j in range(tokens)] for i in range(count)]
