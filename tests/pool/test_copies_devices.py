"""Tensors of a device: with a stand-in for its stream that shows the order, and on a real one where there is one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from ringcast.pool import ChunkStatus, KVLayout, _accelerators, _copies, gather_paged, scatter_paged
from tests.pool.test_copies import pool_of, some_keys

torch = pytest.importorskip("torch")


class LateStream:
    """Does nothing until somebody waits for it: what does not wait finds nothing done."""

    made: list[LateStream]

    def __init__(self, device: Any) -> None:
        self._work: list[Callable[[], None]] = []
        self.log: list[str] = []
        self.made.append(self)

    def after_caller(self) -> None:
        self.log.append("after the caller's")

    def run(self, work: Callable[[], None]) -> None:
        self.log.append("run")
        self._work.append(work)

    def synchronise(self) -> None:
        self.log.append("synchronise")
        for work in self._work:
            work()
        self._work.clear()

    @property
    def idle(self) -> bool:
        return not self._work


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> type[LateStream]:
    """The processor's tensors count as a device's."""
    LateStream.made = []
    monkeypatch.setattr(_accelerators, "stream_of", LateStream)
    monkeypatch.setattr(_copies, "is_device", lambda device: True)
    return LateStream


LAYOUTS: list[Callable[[], tuple[Any, KVLayout, int]]] = [
    lambda: _pages(torch.int8),
    lambda: _pages(torch.bfloat16),
    lambda: _tokens((2, 12, 4, 2, 8), "2BNHC", torch.bfloat16, 8),
    lambda: _tokens((12, 2, 4, 16), "BHNC", torch.float32, 8),
    lambda: _tokens((12, 4, 24), "BNC", torch.float8_e4m3fn, 6),
    lambda: _tokens((12, 3, 2, 4, 2, 8), "BL2NHC", torch.float16, 4),
]


def _raw(shape: tuple[int, ...], dtype: Any) -> Any:
    size = torch.empty(0, dtype=dtype).element_size()
    return torch.randint(0, 256, (*shape[:-1], shape[-1] * size), dtype=torch.uint8).view(dtype)


def _pages(dtype: Any) -> tuple[Any, KVLayout, int]:
    kv = _raw((12, 64), dtype)
    return kv, KVLayout.pages([(kv, 64 * kv.element_size())], pages_per_chunk=2), 4


def _tokens(shape: tuple[int, ...], dims: str, dtype: Any, tokens: int) -> tuple[Any, KVLayout, int]:
    kv = _raw(shape, dtype)
    layout = KVLayout.tokens(kv, tokens, dims)
    return kv, layout, -(-2 * tokens // 4)


def block_bytes(kv: Any, layout: KVLayout, block: int) -> bytes:
    dims = "BC" if layout.form is None else layout.form.dims
    part = kv.select(dims.index("B"), block).contiguous().cpu()
    return bytes(part.view(torch.uint8).numpy().tobytes())


@pytest.mark.parametrize("make", LAYOUTS)
@pytest.mark.parametrize("staging", [64 << 20, 1])
def test_nothing_is_committed_or_done_before_the_device_has_ended(
    make: Callable[[], tuple[Any, KVLayout, int]], staging: int, late: type[LateStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    kv, layout, count = make()
    ids = [7, 0, 11, 4][:count]
    cut = layout.form is not None and layout.pages_per_chunk % layout.form.block_tokens != 0
    if not cut:
        monkeypatch.setattr(_accelerators, "_STAGING_BYTES", staging)
    with pool_of(layout) as (_, client):
        keys = some_keys(2)
        with client.store(keys) as store:
            gather_paged(kv, ids, store, layout)
        [gathered] = late.made
        assert gathered.idle
        assert gathered.log[0] == "after the caller's"
        assert gathered.log[1:3] == ["run", "synchronise"]
        # By the processor, as if it were no device's.
        with monkeypatch.context() as plain:
            plain.setattr(_copies, "is_device", lambda device: False)
            on_cpu = torch.zeros_like(kv.view(torch.uint8)).view(kv.dtype)
            with client.retrieve(keys) as found:
                assert scatter_paged(found, on_cpu, ids, layout).result() == []
        for block in ids if not cut else ids[:-1]:
            assert block_bytes(on_cpu, layout, block) == block_bytes(kv, layout, block)
        target = torch.zeros_like(kv.view(torch.uint8)).view(kv.dtype)
        with client.retrieve(keys) as found:
            future = scatter_paged(found, target, ids, layout)
            assert future.result() == []
        assert late.made[1].idle, "the future was done when the device was"
        assert torch.equal(target.view(torch.uint8), on_cpu.view(torch.uint8))


def test_tokens_are_skipped_and_missing_ones_are_zeros_on_a_device(late: type[LateStream]) -> None:
    kv, layout, _ = _tokens((2, 12, 4, 2, 8), "2BNHC", torch.float32, 8)
    keys = some_keys(2)
    with pool_of(layout) as (_, client):
        with client.store(keys) as store:
            gather_paged(kv, [3, 5, 1], store, layout)
        target = torch.zeros_like(kv)
        with client.retrieve(keys) as found:
            assert not found.slots[1].array.view("f4").reshape(2, 8, 16)[:, 4:].any()
            assert scatter_paged(found, target, [3, 5, 1], layout, skip_tokens=6).result() == []
    assert not target[:, 3].any()
    assert not target[:, 5, :2].any()
    assert torch.equal(target[:, 5, 2:].view(torch.uint8), kv[:, 5, 2:].view(torch.uint8))
    assert torch.equal(target[:, 1].view(torch.uint8), kv[:, 1].view(torch.uint8))


def test_a_device_that_fails_leaves_a_store_that_is_not_committed(
    late: type[LateStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    kv, layout, count = _pages(torch.int8)
    with pool_of(layout) as (_, client):
        store = client.prepare_store(some_keys(2))

        def fail(stream: LateStream) -> None:
            raise RuntimeError("the device is lost")

        with monkeypatch.context() as broken:
            broken.setattr(LateStream, "synchronise", fail)
            future = gather_paged(kv, range(count), store, layout)
            with pytest.raises(RuntimeError, match="the device is lost"):
                future.result()
        with pytest.raises(Exception, match="holds nothing"):
            client.commit_store(store)
        gather_paged(kv, range(count), store, layout)
        assert client.commit_store(store) == [ChunkStatus.COMMITTED] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no accelerator here")
@pytest.mark.parametrize("make", LAYOUTS)
def test_on_a_real_accelerator(make: Callable[[], tuple[Any, KVLayout, int]]) -> None:
    kv, layout, count = make()
    ids = [7, 0, 11, 4][:count]
    on_device = torch.zeros_like(kv.view(torch.uint8)).view(kv.dtype).cuda()
    cut = layout.form is not None and layout.pages_per_chunk % layout.form.block_tokens != 0
    with pool_of(layout) as (_, client):
        keys = some_keys(2)
        # The engine's own stream is still at work, and then writes the blocks: the gather must wait for that.
        busy = torch.zeros(4096, 4096, device="cuda")
        for _ in range(20):
            busy = busy @ busy
        on_device.view(torch.uint8).copy_(kv.view(torch.uint8).pin_memory(), non_blocking=True)
        with client.store(keys) as store:
            gather_paged(on_device, ids, store, layout)
        target = torch.zeros_like(kv.view(torch.uint8)).view(kv.dtype).cuda()
        with client.retrieve(keys) as found:
            assert scatter_paged(found, target, ids, layout).result() == []
        for block in ids if not cut else ids[:-1]:
            assert block_bytes(target, layout, block) == block_bytes(kv, layout, block)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no accelerator here")
def test_how_fast_it_is_on_a_real_accelerator(capsys: pytest.CaptureFixture[str]) -> None:
    kv = torch.randint(0, 256, (512, 1 << 20), dtype=torch.uint8, device="cuda")
    layout = KVLayout.pages([(kv, 1 << 20)], pages_per_chunk=32)
    ids = torch.randperm(512)[:256]
    with pool_of(layout, chunks=8) as (_, client):
        keys = some_keys(8)
        begin = time.perf_counter()
        with client.store(keys) as store:
            gather_paged(kv, ids, store, layout).result()
            gathered = time.perf_counter() - begin
        target = torch.zeros_like(kv)
        begin = time.perf_counter()
        with client.retrieve(keys) as found:
            assert scatter_paged(found, target, ids, layout).result() == []
        scattered = time.perf_counter() - begin
    assert torch.equal(target[ids], kv[ids])
    with capsys.disabled():
        print(f"\n256 MiB: gather {0.268 / gathered:.2f} GB/s, scatter {0.268 / scattered:.2f} GB/s")
