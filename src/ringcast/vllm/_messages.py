"""What travels inside vLLM, as it wants it: metadata of steps, statistics, events. Imported by the engine only."""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_events import MEDIUM_CPU, BlockRemoved, BlockStored
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats
from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash

from ringcast.vllm._counts import EXPLAINED
from ringcast.vllm._plans import Handshake, Plan, Report
from ringcast.vllm._pool_events import Removed, Stored


class HandshakeMetadata(Handshake, KVConnectorHandshakeMetadata):  # type: ignore[misc]
    """A `Handshake`, as vLLM wants it."""


class PlanMetadata(Plan, KVConnectorMetadata):  # type: ignore[misc]
    """A `Plan`, as vLLM wants it."""


class ReportMetadata(Report, KVConnectorWorkerMetadata):  # type: ignore[misc]
    """A `Report`, as vLLM wants it."""


class PoolStats(KVConnectorStats):  # type: ignore[misc]
    """What has been done since the last time: `_counts.EXPLAINED`."""

    def reset(self) -> None:
        """Nothing has been done."""
        self.data: dict[str, int] = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        """Of several sides, or times, together."""
        for name, count in other.data.items():
            self.data[name] = self.data.get(name, 0) + count
        return self

    def reduce(self) -> dict[str, int | float]:
        """What vLLM's log shows."""
        return dict(self.data)

    def is_empty(self) -> bool:
        """Has nothing been done?"""
        return not self.data


class PoolMetrics(KVConnectorPromMetrics):  # type: ignore[misc]
    """The same as counters for Prometheus, `vllm:ringcast_pool_<name>`."""

    def __init__(
        self,
        vllm_config: Any,
        metric_types: Any,
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._counters = {}
        for name, explained in EXPLAINED.items():
            counter = self._counter_cls(f"vllm:ringcast_pool_{name}", documentation=explained, labelnames=labelnames)
            self._counters[name] = {
                engine: counter.labels(*values) for engine, values in per_engine_labelvalues.items()
            }

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        """Count what an engine has told."""
        for name, count in transfer_stats_data.items():
            if name in self._counters:
                self._counters[name][engine_idx].inc(count)


def event_of(told: Stored | Removed, block_tokens: int) -> Any:
    """What vLLM tells its routers."""
    block = maybe_convert_block_hash(told.hash)
    if isinstance(told, Removed):
        return BlockRemoved(block_hashes=[block], medium=MEDIUM_CPU)
    return BlockStored(
        block_hashes=[block], parent_block_hash=None if told.parent is None else maybe_convert_block_hash(told.parent),
        token_ids=told.tokens, block_size=block_tokens, lora_id=None, lora_name=None, medium=MEDIUM_CPU,
    )  # fmt: skip
