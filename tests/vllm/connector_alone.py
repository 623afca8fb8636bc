"""In the environment of an engine: what the connector refuses, and that what it says of itself is what vLLM asks for.

python -m tests.vllm.connector_alone
"""

from __future__ import annotations

import pickle
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from ringcast.errors import ArgumentError, LayoutError


def main() -> None:
    """Try each; says so at the end."""
    import torch
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole, supports_hma
    from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec

    from ringcast.vllm import _messages, connector

    prometheus: Any = import_module("prometheus_client")
    kinds = {kind: kind for kind in (prometheus.Counter, prometheus.Gauge, prometheus.Histogram)}
    full = FullAttentionSpec(block_size=16, num_kv_heads=1, head_size=64, dtype=torch.float32)
    sliding = SlidingWindowSpec(block_size=16, num_kv_heads=1, head_size=64, dtype=torch.float32, sliding_window=32)

    def made(*specs: Any, extra: dict[str, Any] | None = None, **parallel: int) -> Any:
        transfer = SimpleNamespace(
            kv_connector_extra_config={"pool": "kv0"} if extra is None else extra, kv_load_failure_policy="recompute",
            is_kv_producer=True, is_kv_consumer=True,
        )  # fmt: skip
        config = SimpleNamespace(
            kv_transfer_config=transfer, parallel_config=SimpleNamespace(tensor_parallel_size=1, **parallel)
        )
        groups = [SimpleNamespace(kv_cache_spec=spec, layer_names=["layer"]) for spec in specs]
        cache = SimpleNamespace(kv_cache_groups=groups, num_blocks=8)
        return connector.RingcastConnector(config, KVConnectorRole.WORKER, cache)

    def refused(kind: type[Exception], says: str, *specs: Any, **options: Any) -> None:
        found: Exception | None = None
        try:
            made(*specs, **options)
        except kind as error:
            found = error
        assert found is not None, f"{specs} {options} were taken"
        assert says in str(found), found

    assert supports_hma(connector.RingcastConnector)
    assert made(full).requires_kv_delivery is False
    refused(LayoutError, "SlidingWindowSpec", sliding)
    refused(LayoutError, "FullAttentionSpec", full, sliding)
    refused(LayoutError, "pipeline_parallel_size is 2", full, pipeline_parallel_size=2)
    refused(LayoutError, "decode_context_parallel_size is 4", full, decode_context_parallel_size=4)
    refused(LayoutError, "on 2 machines", full, nnodes_within_dp=2)
    refused(ArgumentError, "'tiemout'", full, extra={"pool": "kv0", "tiemout": 3})
    for message in (
        _messages.PlanMetadata(), _messages.ReportMetadata({"a"}, {1: 1}), _messages.HandshakeMetadata((1,), None, "f")
    ):  # fmt: skip
        assert pickle.loads(pickle.dumps(message)) == message
    together = _messages.PoolStats(data={"a": 1}).aggregate(_messages.PoolStats(data={"a": 2, "b": 1}))
    assert together.reduce() == {"a": 3, "b": 1}
    assert not together.is_empty()
    metrics = connector.RingcastConnector.build_prom_metrics(
        SimpleNamespace(kv_transfer_config=None), kinds, ["engine"], {0: ["0"]}
    )
    assert metrics is not None
    metrics.observe({"blocks_loaded": 3, "of another release": 1})
    assert prometheus.REGISTRY.get_sample_value("vllm:ringcast_pool_blocks_loaded_total", {"engine": "0"}) == 3
    print("all as it should be")


if __name__ == "__main__":
    main()
