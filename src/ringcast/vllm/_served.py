"""What of an engine is served, and what is refused; what makes its chunks its own. Imported by the engine only."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from typing import Any

import torch
import vllm

from ringcast.errors import ArgumentError, LayoutError
from ringcast.vllm._pages import form_of
from ringcast.vllm._scheduling import Model

_KINDS = {"FullAttentionSpec", "MLAAttentionSpec"}
"""Kinds of cache of which a block holds the tokens that its hash says, and all of them."""


def only_group(vllm_config: Any, kv_cache_config: Any) -> Any:
    """The group of layers whose blocks are stored. Raises LayoutError, with the reason, for what is not served."""
    parallel = vllm_config.parallel_config
    for name in ("pipeline_parallel_size", "decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel, name, 1) > 1:
            raise LayoutError(
                f"{name} is {getattr(parallel, name)}, and must be 1: the parts of a chunk are alike, one of each rank "
                "of the tensor parallel group"
            )
    if (machines := getattr(parallel, "nnodes_within_dp", 1)) > 1:
        raise LayoutError(
            f"the engine's workers are on {machines} machines, and a pool is the memory of one: they could not share it"
        )
    groups = kv_cache_config.kv_cache_groups
    kinds = [sorted({type(spec).__name__ for spec in _specs(group.kv_cache_spec)}) for group in groups]
    if len(groups) != 1 or not set(kinds[0]) <= _KINDS:
        raise LayoutError(
            f"this model's KV cache has groups of {kinds}; a ringcast pool serves one group of full attention: of "
            "sliding windows, states and several groups a prefix is no row of blocks that stay"
        )
    return groups[0]


def _specs(spec: Any) -> Iterable[Any]:
    """Of each layer, where they are told apart."""
    inner = getattr(spec, "kv_cache_specs", None)
    return inner.values() if isinstance(inner, dict) else [spec]


def block_tokens_of(group: Any) -> int:
    """Tokens of a block."""
    tokens: int = next(iter(_specs(group.kv_cache_spec))).block_size
    return tokens


def cpu_isa(group: Any, tensor: torch.Tensor) -> str | None:
    """What a CPU's kernels pack pages for; None on a device."""
    if tensor.device.type != "cpu":
        return None
    spec = next(iter(_specs(group.kv_cache_spec)))
    try:
        from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

        isa = _get_attn_isa(spec.dtype, spec.block_size, spec.head_size)
    except Exception as error:
        raise LayoutError(f"how this CPU's kernels pack the KV cache cannot be told: {error!r}") from error
    return f"{platform.machine()} {isa}"


def form(vllm_config: Any, kv_cache_config: Any, tensors: list[torch.Tensor], n_blocks: int) -> str:
    """What else pages depend on: the release, its block size and its hashes, and how dimensions lie in a page."""
    cache = vllm_config.cache_config
    lying = [(str(tensor.dtype), form_of(tensor.shape, tensor.stride(), n_blocks)) for tensor in tensors]
    said = json.dumps(
        [lying, str(getattr(kv_cache_config, "kv_cache_layout", None)), str(cache.cache_dtype),
         str(cache.prefix_caching_hash_algo), str(tensors[0].device.type)]
    )  # fmt: skip
    digest = hashlib.sha256(said.encode()).hexdigest()[:16]
    return f"{vllm.__version__[:24]} {cache.block_size} {digest}"


def model_of(vllm_config: Any, kv_cache_config: Any, group: Any, form: str) -> Model:
    """What makes this engine's chunks its own. Raises ArgumentError."""
    model, cache = vllm_config.model_config, vllm_config.cache_config
    config = model.hf_config.to_json_string() if hasattr(model.hf_config, "to_json_string") else str(model.hf_config)
    said = [str(model.quantization), str(model.dtype), config]
    if str(getattr(vllm_config.load_config, "load_format", "")) == "dummy":
        said.append(f"weights of seed {model.seed}")
    revision = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
    dtype = model.dtype if cache.cache_dtype in ("auto", None) else cache.cache_dtype
    block_tokens = block_tokens_of(group)
    hash_tokens = getattr(kv_cache_config, "hash_block_size", None) or block_tokens
    if block_tokens % hash_tokens:
        raise ArgumentError(f"a block of {block_tokens} tokens is no whole number of hashes, of {hash_tokens}")
    name = model.model if len(model.model.encode()) <= 1024 else hashlib.sha256(model.model.encode()).hexdigest()
    return Model(
        name, f"{model.revision or ''}#{revision}", str(dtype).removeprefix("torch."), form, block_tokens,
        block_tokens // hash_tokens,
    )  # fmt: skip
