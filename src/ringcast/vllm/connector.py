"""vLLM's KV connector over a ringcast pool: what its `--kv-transfer-config` names. Imported by the engine only.

    {"kv_connector": "RingcastConnector", "kv_connector_module_path": "ringcast.vllm.connector", "kv_role": "kv_both",
     "kv_load_failure_policy": "recompute", "kv_connector_extra_config": {"pool": "kv0"}}

Here are vLLM's names and types; what is done is in `_scheduling`, in the engine core, and in `_copying`, in each
worker. docs/vllm-pool.md is the guide.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

from ringcast.errors import LayoutError
from ringcast.pool import KVLayout
from ringcast.vllm._copying import Copying
from ringcast.vllm._messages import (
    HandshakeMetadata,
    PlanMetadata,
    PoolMetrics,
    PoolStats,
    ReportMetadata,
    event_of,
)
from ringcast.vllm._pages import page_bytes
from ringcast.vllm._plans import Report
from ringcast.vllm._pool_events import Announcements
from ringcast.vllm._pool_settings import Settings
from ringcast.vllm._scheduling import Scheduling
from ringcast.vllm._served import block_tokens_of, cpu_isa, form, model_of, only_group

try:
    from vllm.v1.metrics.cache_hit_source import CacheHitSource
except ImportError:  # a release that does not ask
    CacheHitSource = None

_log = logging.getLogger("vllm.ringcast")


class RingcastConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """Prefixes that an engine has computed, for every engine of the machine that has the same model and pool.

    One is made in the engine core and one in each worker. Raises ArgumentError for settings, LayoutError for models
    and ways to run them that it cannot serve, so that the engine does not start; from then on nothing.
    """

    if CacheHitSource is not None:
        _cache_hit_source = CacheHitSource.HOST

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._settings = Settings.of(self._kv_transfer_config.kv_connector_extra_config)
        self._group = only_group(vllm_config, kv_cache_config)
        self._scheduling: Scheduling | None = None
        self._copying: Copying | None = None
        self._announcements: Announcements | None = None
        self._handshake: HandshakeMetadata | None = None
        self._pool: Any = None
        if role == KVConnectorRole.SCHEDULER and self._kv_transfer_config.kv_load_failure_policy != "recompute":
            _log.warning(
                "ringcast: kv_load_failure_policy is %r: a request of which a chunk cannot be loaded fails; with "
                "'recompute' it is computed", self._kv_transfer_config.kv_load_failure_policy,
            )  # fmt: skip

    @property
    def requires_kv_delivery(self) -> bool:
        """No: what is not stored is computed again."""
        return False

    # --- The scheduler's side.

    def set_xfer_handshake_metadata(self, metadata: dict[int, KVConnectorHandshakeMetadata]) -> None:
        """All workers have told what their pages are: from here on there are requests."""
        told = list(metadata.values())
        shards = self._vllm_config.parallel_config.tensor_parallel_size
        if len(told) != shards or any(one != told[0] for one in told):
            raise LayoutError(f"the {shards} workers' pages must be alike; they are {told}")
        events = self._vllm_config.kv_events_config
        if events is not None and events.enable_kv_cache_events:
            self._announcements = Announcements(self._settings)
        layout = KVLayout.sizes(told[0].page_bytes, shards=shards, cpu_isa=told[0].cpu_isa)
        self._scheduling = Scheduling(
            self._settings, model_of(self._vllm_config, self._kv_cache_config, self._group, told[0].form), layout,
            self, self._blocks_of,
            loads=self._kv_transfer_config.is_kv_consumer, stores=self._kv_transfer_config.is_kv_producer,
            announcements=self._announcements,
        )  # fmt: skip

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        """The engine's blocks, which stores hold."""
        self._pool = gpu_block_pool

    def count(self) -> int:
        """How many blocks the engine has."""
        return len(self._pool.blocks)

    def hold(self, blocks: list[int]) -> None:
        """These blocks are neither freed nor used for anything else until they are let go."""
        self._pool.touch([self._pool.blocks[block] for block in blocks])

    def let_go(self, blocks: list[int]) -> None:
        """The last ones are evicted first."""
        self._pool.free_blocks([self._pool.blocks[block] for block in reversed(blocks)])

    def _blocks_of(self, request: str) -> Sequence[int]:
        blocks: Sequence[int] = self._kv_cache_manager.get_block_ids(request)[0]
        return blocks

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        """Tokens that the pool has, beyond those; loads are asynchronous, always."""
        try:
            return (0, False) if self._scheduling is None else self._scheduling.matched(request, num_computed_tokens)
        except Exception:  # nothing has been promised yet, and a cache fails no engine
            _log.exception("ringcast: the pool was not looked at")
            return 0, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """The engine has blocks for them."""
        if self._scheduling is not None:
            self._scheduling.allocated(request, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        """What the workers have to do with this step."""
        if self._scheduling is None:
            return PlanMetadata()
        plan = self._scheduling.plan(scheduler_output.num_scheduled_tokens)
        return PlanMetadata(plan.loads, plan.stores)

    def update_connector_output(self, connector_output: Any) -> None:
        """What the workers have done."""
        if self._scheduling is not None:
            report = connector_output.kv_connector_worker_meta
            self._scheduling.update(connector_output.finished_recving or (), report)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """Its blocks may go: those that are being stored are held."""
        if self._scheduling is not None:
            self._scheduling.finished(request.request_id)
        return False, None

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """The same."""
        return self.request_finished(request, block_ids[0] if block_ids else [])

    def has_pending_block_frees(self) -> bool:
        """Do stores alone hold blocks, which are free soon?"""
        held = self._scheduling.held() if self._scheduling is not None else ()
        return any(self._pool.blocks[block].ref_cnt == 1 for block in held)

    def has_pending_push_work(self) -> bool:
        """Are there stores to be ended, for which the engine goes on with empty steps?"""
        return self._scheduling is not None and self._scheduling.busy

    def take_events(self) -> Iterable[Any]:
        """Blocks that are in the pool since, or no more, of those that this engine has stored."""
        if self._announcements is None:
            return ()
        return [event_of(one, block_tokens_of(self._group)) for one in self._announcements.take()]

    def reset_cache(self) -> bool | None:
        """This engine finds nothing that was stored until now, and stores for itself alone from now on."""
        if self._scheduling is not None:
            self._scheduling.forget()
        return True

    # --- The workers' side.

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """The worker's tensors: opaque pages, one a block and layer."""
        from vllm.distributed.parallel_state import get_tensor_model_parallel_rank

        names = [name for name in self._group.layer_names if name in kv_caches]
        tensors = [kv_caches[name] for name in names]
        if not tensors:
            raise LayoutError(f"no layer of {self._group.layer_names} has a cache on this worker")
        n_blocks = self._kv_cache_config.num_blocks
        pages = [
            page_bytes(name, tensor.shape, tensor.stride(), tensor.element_size(), n_blocks)
            for name, tensor in zip(names, tensors, strict=True)
        ]
        shards = self._vllm_config.parallel_config.tensor_parallel_size
        isa = cpu_isa(self._group, tensors[0])
        layout = KVLayout.pages(list(zip(tensors, pages, strict=True)), shards=shards, cpu_isa=isa)
        lying = form(self._vllm_config, self._kv_cache_config, tensors, n_blocks)
        self._handshake = HandshakeMetadata(layout.page_bytes, layout.cpu_isa, lying)
        fence = None if tensors[0].device.type == "cpu" else _fence_of(tensors[0].device)
        self._copying = Copying(self._settings, layout, get_tensor_model_parallel_rank(), fence)

    def get_handshake_metadata(self) -> KVConnectorHandshakeMetadata | None:
        """What the scheduler's side is told of them."""
        return self._handshake

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Begin what the step's plan asks for."""
        if self._copying is not None and self._connector_metadata is not None:
            self._copying.begin(self._connector_metadata)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing is loaded for the step that is under way."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Whole blocks are stored, once all layers are there."""

    def wait_for_save(self) -> None:
        """What is stored is held by the scheduler's side: nothing has to wait."""

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """Loads that have ended, well or not."""
        return None, None if self._copying is None else self._copying.take_received()

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks that hold nothing of use."""
        return set() if self._copying is None else self._copying.take_failed_blocks()

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        """What else the scheduler's side is told."""
        report = Report() if self._copying is None else self._copying.take_report()
        return ReportMetadata(report.failed_loads, report.stored, report.not_stored) if report else None

    # --- Both.

    def get_kv_connector_stats(self) -> KVConnectorStats | None:
        """What this side has done since the last time."""
        side = self._scheduling or self._copying
        counts = side.counts.take() if side is not None else {}
        return PoolStats(data=counts) if counts else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KVConnectorStats | None:
        """The same, from what has travelled."""
        return PoolStats(data=data or {})

    @classmethod
    def build_prom_metrics(
        cls, vllm_config: Any, metric_types: Any, labelnames: list[str], per_engine_labelvalues: dict[int, list[object]]
    ) -> KVConnectorPromMetrics | None:
        """The same, for Prometheus."""
        return PoolMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    def shutdown(self) -> None:
        """Give everything back."""
        for side in (self._scheduling, self._copying):
            if side is not None:
                side.close()


def _fence_of(device: torch.device) -> Callable[[], Callable[[], object]]:
    def fence() -> Callable[[], object]:
        event = torch.Event(device)
        event.record()
        wait: Callable[[], object] = event.synchronize
        return wait

    return fence
