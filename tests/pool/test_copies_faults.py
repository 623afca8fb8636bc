"""Copies that must not be made, that end badly, and leases that end while one runs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest

from ringcast import errors
from ringcast.pool import ChunkStatus, KVLayout, PoolClient, PoolServer, _copies, gather_paged, scatter_paged
from tests.pool.pools import Starter, begun, long_turns, start_server
from tests.pool.test_copies import pool_of, some_keys
from tests.support import DEADLINE_S, SHM, Child, Link, eventually, unique_name

torch = pytest.importorskip("torch")

Array = np.ndarray[Any, Any]
PAGE = 4096
LARGE = 8 << 20  # copied by other threads than the caller's


def some_pages(count: int = 10, size: int = PAGE) -> Array:
    return np.random.default_rng(count).integers(0, 256, (count, size), np.uint8)


def typed(count: int = 10) -> tuple[Array, KVLayout]:
    kv = np.random.default_rng(1).integers(0, 99, (2, count, 4, 2, 8), np.uint16)
    return kv, KVLayout.tokens(kv, 8, "2BNHC")


@pytest.mark.parametrize(
    ("ids", "what"),
    [
        ([0, 10], "a block id"),
        ([0, -1], "a block id"),
        ([0, True], "a block id"),
        ([0, 1.0], "a block id"),
        ([0, 1 << 70], "a block id"),
        ([0, "1"], "a block id"),
        ([0], "block_ids has 1 blocks, and 2 chunks of this layout have 2"),
        ([0, 1, 2], "block_ids has 3 blocks"),
        ([], "block_ids has 0 blocks"),
        (None, "block_ids must be"),
        ("01", "block_ids must be"),
        (np.array([0.0, 1.0]), "block_ids must be integers"),
        (np.array([True, False]), "block_ids must be integers"),
        (torch.tensor([0.0, 1.0]), "block_ids must be integers"),
    ],
)
def test_blocks_that_there_are_not_are_refused_and_the_store_can_go_on(ids: Any, what: str) -> None:
    kv = some_pages()
    layout = KVLayout.pages([(kv, PAGE)])
    with pool_of(layout) as (_, client), client.store(some_keys(2)) as store:
        with pytest.raises(errors.ArgumentError, match=what):
            gather_paged(kv, ids, store, layout)
        gather_paged(kv, [3, 4], store, layout)


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int32, np.int64, np.uint64])
def test_numpys_integers_are_blocks(kind: Any) -> None:
    kv = some_pages()
    layout = KVLayout.pages([(kv, PAGE)])
    for ids in (np.array([3, 4], kind), [kind(3), kind(4)], np.array([[3], [4]], kind)):
        with pool_of(layout) as (_, client):
            with client.store(some_keys(2)) as store:
                gather_paged(kv, ids, store, layout)
            with client.retrieve(some_keys(2)) as found:
                assert bytes(found.slots[1].array) == kv[4].tobytes()


def test_arguments_of_wrong_types_are_refused() -> None:
    kv = some_pages()
    layout = KVLayout.pages([(kv, PAGE)])
    with pool_of(layout) as (_, client), client.store(some_keys(1)) as store:
        refused: list[Callable[[], Any]] = [
            lambda: gather_paged(None, [0], store, layout),
            lambda: gather_paged("kv", [0], store, layout),
            lambda: gather_paged([kv, 3][1:], [0], store, layout),
            lambda: gather_paged(kv, [0], 3, layout),  # type: ignore[arg-type]
            lambda: gather_paged(kv, [0], [3], layout),  # type: ignore[list-item]
            lambda: gather_paged(kv, [0], store, PAGE),  # type: ignore[arg-type]
            lambda: gather_paged(kv, [0], store, layout, threads=True),
            lambda: gather_paged(kv, [0], store, layout, threads=1.5),  # type: ignore[arg-type]
            lambda: scatter_paged(store, kv, [0], layout, "1"),  # type: ignore[arg-type]
        ]
        for call in refused:
            with pytest.raises(errors.ArgumentTypeError):
                call()
        for threads in (0, -1, 1 << 40):
            with pytest.raises(errors.ArgumentError, match="threads"):
                gather_paged(kv, [0], store, layout, threads=threads)
        with pytest.raises(errors.ArgumentError, match="slots are of a store"):
            scatter_paged(store, kv, [0], layout)
        with pytest.raises(errors.ArgumentError, match="twice"):
            gather_paged(kv, [0, 1], [*store.slots, *store.slots], layout)
        gather_paged(kv, [0], store, layout)


def test_tensors_that_are_not_of_the_layout_are_refused_by_an_error_that_names_both() -> None:
    kv, layout = typed()
    others = [
        (kv.astype(np.int16), "int16.*uint16"),
        (kv[:, :, :, :1], r"1 heads.*2 heads"),
        (kv[:, :, :2], r"\[2, 10, 2, 2, 8\].*4 tokens a block"),
        (kv.reshape(2, 10, 4, 16), r"\[2, 10, 4, 16\].*2BNHC"),
        ([kv, kv], "2 layers.*1 layers"),
    ]
    pages = KVLayout.pages([(some_pages(), PAGE)])
    with pool_of(layout) as (_, client), client.store(some_keys(1)) as store:
        for other, what in others:
            with pytest.raises(errors.LayoutError, match=what):
                gather_paged(other, [0, 1], store, layout)
        with pytest.raises(errors.LayoutError, match="its chunks have 512 bytes, and this layout says 4096"):
            gather_paged(some_pages(), [0], store, pages)
        with pytest.raises(errors.LayoutError, match="2 tensors"):
            gather_paged([some_pages(), some_pages()], [0], store, pages)
        with pytest.raises(errors.LayoutError, match=r"of 4096 bytes: .* has gaps"):
            gather_paged(some_pages()[:, :1000], [0], store, pages)
        gather_paged(kv, [0, 1], store, layout)


def test_a_shape_that_fits_several_forms_is_refused_by_an_error_that_says_what_is_missing() -> None:
    kv = np.zeros((2, 10, 16, 8, 4), np.float16)
    with pytest.raises(errors.ArgumentError, match=r"2BNHC or 2BHNC.*block_tokens"):
        KVLayout.tokens([kv], 16)
    assert KVLayout.tokens([kv], 16, block_tokens=8).form.dims == "2BHNC"  # type: ignore[union-attr]
    with pytest.raises(errors.ArgumentError, match=r"2BNHC or 2BHNC or B2NHC or B2HNC.*say block_tokens= or dims="):
        KVLayout.tokens([np.zeros((2, 2, 16, 8, 4))], 16)
    with pytest.raises(errors.ArgumentError, match="2BNHC or 2BHNC: say dims="):
        KVLayout.tokens([np.zeros((2, 10, 8, 8, 4))], 16, block_tokens=8)
    with pytest.raises(errors.ArgumentError, match="none of the known"):
        KVLayout.tokens([kv], 16, block_tokens=5)
    with pytest.raises(errors.ArgumentError, match="none of the known"):
        KVLayout.tokens([np.zeros(8)], 16)
    for dims in ("2BNH", "2BNCH", "XBNHC", "BBNHC", "LBNHC"):
        with pytest.raises(errors.ArgumentError, match="dims is"):
            KVLayout.tokens([kv], 16, dims=dims)
    with pytest.raises(errors.ArgumentError, match="not B2NHC"):
        KVLayout.tokens([kv], 16, dims="B2NHC")
    with pytest.raises(errors.ArgumentError, match="alike"):
        KVLayout.tokens([kv, kv[:, :5]], 16, block_tokens=8)
    with pytest.raises(errors.ArgumentError, match="without gaps"):
        KVLayout.tokens([kv[..., ::2]], 16, block_tokens=8)
    with pytest.raises(errors.ArgumentError, match="nothing twice"):
        KVLayout.tokens([torch.zeros(2, 1, 16, 8, 4).expand(2, 10, 16, 8, 4)], 16, block_tokens=8)


def test_opaque_pages_go_whole() -> None:
    kv = some_pages()
    layout = KVLayout.pages([(kv, PAGE)], pages_per_chunk=2)
    with pool_of(layout) as (_, client):
        with client.store(some_keys(2)) as store:
            with pytest.raises(errors.ArgumentError, match=r"3 blocks, and 2 chunks of this layout have 4$"):
                gather_paged(kv, [0, 1, 2], store, layout)
            gather_paged(kv, [0, 1, 2, 3], store, layout)
        with client.retrieve(some_keys(2)) as found:
            with pytest.raises(errors.ArgumentError, match="skip_tokens is 1; of opaque pages"):
                scatter_paged(found, kv, [0, 1, 2, 3], layout, skip_tokens=1)
            with pytest.raises(errors.ArgumentError, match="block 1 twice"):
                scatter_paged(found, kv, [0, 1, 1, 3], layout)


def test_more_tokens_than_there_are_cannot_be_skipped() -> None:
    kv, layout = typed()
    with pool_of(layout) as (_, client):
        with client.store(some_keys(1)) as store:
            gather_paged(kv, [0, 1], store, layout)
        with client.retrieve(some_keys(1)) as found:
            for skip in (9, -1, 1 << 60):
                with pytest.raises(errors.ArgumentError, match="skip_tokens"):
                    scatter_paged(found, kv, [0, 1], layout, skip_tokens=skip)
            assert scatter_paged(found, kv, [0, 1], layout, skip_tokens=8).result() == []


def test_chunks_that_end_within_blocks_must_be_in_a_row() -> None:
    kv = np.zeros((2, 10, 4, 2, 8), np.uint16)
    layout = KVLayout.tokens(kv, 6, "2BNHC")
    with pool_of(layout) as (_, client), client.store(some_keys(3)) as store:
        with pytest.raises(errors.ArgumentError, match="end within a block"):
            gather_paged(kv, [0, 1, 2], [store.slots[0], store.slots[2]], layout)
        gather_paged(kv, [0, 1, 2, 3, 4], store, layout)


def test_read_only_tensors_can_be_gathered_from_alone() -> None:
    kv = some_pages()
    kv.flags.writeable = False
    layout = KVLayout.pages([(kv, PAGE)])
    with pool_of(layout) as (_, client):
        with client.store(some_keys(1)) as store:
            gather_paged(kv, [5], store, layout)
        with client.retrieve(some_keys(1)) as found, pytest.raises(errors.ArgumentError, match="read-only"):
            scatter_paged(found, kv, [5], layout)


def test_leases_that_have_ended_are_refused() -> None:
    kv = some_pages()
    layout = KVLayout.pages([(kv, PAGE)])
    with pool_of(layout) as (server, client):
        store = client.prepare_store(some_keys(1))
        slots = store.slots
        gather_paged(kv, [0], slots, layout)
        client.commit_store(store)
        aborted = client.prepare_store(some_keys(2))
        given_up = aborted.slots
        client.abort_store(aborted)
        found = client.prepare_retrieve(some_keys(1))
        read = found.slots
        client.commit_retrieve(found)
        calls: list[Callable[[], Any]] = [
            lambda: gather_paged(kv, [0], slots, layout),
            lambda: gather_paged(kv, [0], store, layout),
            lambda: gather_paged(kv, [0], given_up, layout),
            lambda: scatter_paged(read, kv, [0], layout),
            lambda: scatter_paged(found, kv, [0], layout),
        ]
        for call in calls:
            with pytest.raises(errors.LeaseExpiredError, match="given back"):
                call()
        with PoolClient.connect(server.name, "v", layout=layout) as other:
            lease = other.prepare_retrieve(some_keys(1))
        with pytest.raises(errors.PoolClosedError):
            scatter_paged(lease, kv, [0], layout)


def test_nothing_is_filled_any_more_once_a_commit_has_begun(start: Starter) -> None:
    kv = some_pages()
    layout = KVLayout.pages([(kv, PAGE)])
    name = unique_name("p")
    server, _ = start_server(start, name)
    with PoolClient.connect(name, "w", layout=layout, timeout=DEADLINE_S) as client, long_turns():
        store = client.prepare_store(some_keys(1))
        slots = store.slots
        gather_paged(kv, [3], slots, layout)
        server.signal(signal.SIGSTOP)
        call = begun(partial(client.commit_store, store))
        calls: list[Callable[[], Any]] = [
            lambda: gather_paged(kv, [4], slots, layout),
            lambda: gather_paged(kv, [4], store, layout),
            lambda: slots[0].array,
            lambda: slots[0].tensor,
        ]
        for fill in calls:
            with pytest.raises(errors.LeaseExpiredError):
                fill()
        os.kill(server.pid, signal.SIGCONT)
        assert call.result() == [ChunkStatus.COMMITTED]
        with client.retrieve(some_keys(1)) as found:
            assert bytes(found.slots[0].array) == kv[3].tobytes()


def test_a_slot_that_is_empty_is_no_slot() -> None:
    kv = some_pages()
    layout = KVLayout.pages([(kv, PAGE)])
    with pool_of(layout) as (_, client), client.store(some_keys(1)) as store:
        assert gather_paged(kv, [], [], layout).result() == []
        gather_paged(kv, [0], store, layout)


def damage(server: PoolServer, keys: Any, layout: KVLayout, which: int) -> None:
    """Flips a bit of a chunk, as a stray store of another process would."""
    with PoolClient.connect(server.name, "looker", layout=layout) as client, client.retrieve(keys) as found:
        wanted = bytes(found.slots[which].array)
    path = SHM / server.segment.lstrip("/")
    with open(path, "r+b") as file:
        at = file.read().index(wanted)
        file.seek(at + len(wanted) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 4]))


@pytest.mark.parametrize("size", [PAGE, LARGE])
def test_damage_is_found_by_the_copy_and_the_server_is_told(size: int) -> None:
    kv = some_pages(4, size)
    layout = KVLayout.pages([(kv, size)])
    keys = some_keys(3)
    with pool_of(layout, chunks=4) as (server, client):
        with client.store(keys) as store:
            gather_paged(kv, [0, 1, 2], store, layout)
        damage(server, keys, layout, 1)
        target = np.zeros_like(kv)
        with client.retrieve(keys) as found:
            assert scatter_paged(found, target, [1, 2, 3], layout).result() == [1]
        assert (target[[1, 3]] == kv[[0, 2]]).all(), "the others are right"
        eventually(lambda: server.stats()["quarantined"] == 1, "the quarantine")
        with client.retrieve(keys) as found:
            assert found.statuses == [ChunkStatus.HIT, ChunkStatus.MISS, ChunkStatus.MISS]


def test_what_is_changed_by_hand_after_a_gather_is_summed_anew() -> None:
    kv = some_pages()
    layout = KVLayout.pages([(kv, PAGE)])
    with pool_of(layout) as (server, client):
        with client.store(some_keys(2)) as store:
            early = store.slots[0].array
            gather_paged(kv, [1, 2], store, layout).result()
            early[7] ^= 1
            store.slots[1].array[9] ^= 1
        with (
            PoolClient.connect(server.name, "v", layout=layout) as other,
            other.retrieve(some_keys(2)) as found,
        ):
            assert [slot.index for slot in found.slots] == [0, 1]
            assert scatter_paged(found, kv, [0, 1], layout).result() == []


class Held:
    """Copies of other threads than the caller's wait until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._go = threading.Event()
        self._pool.submit(self._go.wait)
        monkeypatch.setattr(_copies, "_executor", lambda: self._pool)

    def let_go(self) -> None:
        self._go.set()


def test_a_commit_waits_for_the_copy_that_fills_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    kv = some_pages(2, LARGE)
    layout = KVLayout.pages([(kv, LARGE)])
    with pool_of(layout, chunks=2) as (_, client):
        held = Held(monkeypatch)
        store = client.prepare_store(some_keys(1))
        future = gather_paged(kv, [1], store, layout)
        committing = threading.Event()
        statuses: list[Any] = []

        def commit() -> None:
            committing.set()
            statuses.extend(client.commit_store(store))

        thread = threading.Thread(target=commit)
        thread.start()
        committing.wait()
        assert client.lookup(some_keys(1)).memory == 0
        assert not future.done()
        held.let_go()
        thread.join()
        assert future.result() == []
        assert statuses == [ChunkStatus.COMMITTED]
        with client.retrieve(some_keys(1)) as found:
            assert bytes(found.slots[0].array) == kv[1].tobytes()


def test_an_abort_does_not_wait_and_the_chunk_is_kept_until_the_copy_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    kv = some_pages(2, LARGE)
    layout = KVLayout.pages([(kv, LARGE)])
    with pool_of(layout, chunks=1) as (server, client):
        held = Held(monkeypatch)
        store = client.prepare_store(some_keys(1))
        future = gather_paged(kv, [1], store, layout)
        client.abort_store(store)
        assert client.held_pins == 1
        assert client.prepare_store(some_keys(2)[1:]).statuses != [ChunkStatus.RESERVED], "its block is in use"
        held.let_go()
        assert future.result() == []
        eventually(lambda: client.held_pins == 0, "the end of the pin")
        eventually(lambda: server.stats()["used_bytes"] == 0, "the block's return")


def test_a_scatters_chunks_stay_pinned_until_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    kv = some_pages(2, LARGE)
    layout = KVLayout.pages([(kv, LARGE)])
    with pool_of(layout, chunks=1) as (_, client):
        with client.store(some_keys(1)) as store:
            gather_paged(kv, [1], store, layout)
        held = Held(monkeypatch)
        with client.retrieve(some_keys(1)) as found:
            future = scatter_paged(found, kv, [0], layout)
        assert client.held_pins == 1
        held.let_go()
        assert future.result() == []
        assert (kv[0] == kv[1]).all()
        eventually(lambda: client.held_pins == 0, "the end of the pin")


def test_a_cancelled_gather_is_not_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    kv = some_pages(2, LARGE)
    layout = KVLayout.pages([(kv, LARGE)])
    with pool_of(layout, chunks=2) as (_, client):
        held = Held(monkeypatch)
        store = client.prepare_store(some_keys(1))
        future = gather_paged(kv, [1], store, layout)
        with pytest.raises(errors.ArgumentError, match="being filled by another copy"):
            gather_paged(kv, [1], store, layout)
        assert future.cancel()
        held.let_go()
        with pytest.raises(errors.PoolError, match="chunk 0 was cancelled or failed, so that it holds nothing"):
            client.commit_store(store)
        assert client.lookup(some_keys(1)).memory == 0
        gather_paged(kv, [0], store, layout)
        assert client.commit_store(store) == [ChunkStatus.COMMITTED]


def test_many_threads_copy_at_once() -> None:
    kv = some_pages(64, 32 << 10)
    layout = KVLayout.pages([(kv, 32 << 10)], pages_per_chunk=2)
    with pool_of(layout, chunks=64) as (_, client):

        def work(number: int) -> bool:
            rng = np.random.default_rng(number)
            keys = some_keys(40)[5 * number : 5 * number + 5]
            ids = rng.integers(0, 64, 10)
            with client.store(keys, parent=None) as store:
                if len(store.slots) < 5:
                    return True  # its parents are not there yet
                gather_paged(kv, ids, store, layout, threads=3)
            target = np.zeros_like(kv)
            with client.retrieve(keys) as found:
                assert scatter_paged(found, target, range(10), layout, threads=3).result() == []
            return bool((target[:10] == kv[ids]).all())

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(work, range(8)))


def gathering(link: Link, name: str) -> None:
    kv = some_pages(4, LARGE)
    layout = KVLayout.pages([(kv, LARGE)], pages_per_chunk=2)
    client = PoolClient.connect(name, "victim", layout=layout)
    store = client.prepare_store(some_keys(2))
    link.send("reserved")
    while True:
        gather_paged(kv, [0, 1, 2, 3], store, layout).result()
        link.send("once more")


def test_a_process_killed_in_a_gather_leaves_nothing(start: Callable[..., Child]) -> None:
    size = 2 * LARGE
    with pool_of(size, chunks=2) as (server, client):
        for _ in range(3):
            victim = start(gathering, server.name)
            assert victim.receive() == "reserved"
            assert victim.receive() == "once more"
            os.kill(victim.pid, signal.SIGKILL)
            eventually(lambda: server.stats()["reserved"] == 0 and server.stats()["used_bytes"] == 0, "the memory")
            assert client.lookup(some_keys(2)).memory == 0
        with client.store(some_keys(2)) as store:
            assert store.statuses == [ChunkStatus.RESERVED] * 2


def test_a_layout_is_tried_on_the_engines_own_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    kv, layout = typed()
    before = kv.copy()
    with pool_of(layout):
        assert (kv == before).all()
    wrong = _copies._found_rows

    def shifted(kv: Any, layout: KVLayout) -> Any:
        rows = wrong(kv, layout)
        planes = [plane._replace(token_stride=plane.head_stride) for plane in rows.planes]
        return rows._replace(planes=planes)

    monkeypatch.setattr(_copies, "_found_rows", shifted)
    _, fresh = typed()
    with (
        PoolServer(unique_name("p"), "1MiB") as server,
        pytest.raises(errors.LayoutError, match=r"gathered from block .* is not what plain indexing finds"),
    ):
        PoolClient.connect(server.name, layout=fresh)
