"""Gather and scatter, of every known layout and of opaque pages, against plain NumPy indexing."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from ringcast import errors
from ringcast.pool import (
    ChunkStatus,
    Keys,
    KVLayout,
    Namespace,
    PoolClient,
    PoolServer,
    gather_paged,
    keys_from_hashes,
    scatter_paged,
)
from tests.support import unique_name

torch = pytest.importorskip("torch")

Array = np.ndarray[Any, Any]
SPACE = Namespace("model", dtype="any", layout="any")


def some_keys(count: int) -> Keys:
    return keys_from_hashes([i.to_bytes(8, "little") for i in range(count)], SPACE)


@contextmanager
def pool_of(layout: KVLayout | int, chunks: int = 16, **options: Any) -> Iterator[tuple[PoolServer, PoolClient]]:
    size = layout if isinstance(layout, int) else layout.chunk_bytes
    with (
        PoolServer(unique_name("p"), max(chunks * size, 65536), entries=max(chunks, 16), **options) as server,
        PoolClient.connect(server.name, "w", layout=layout) as client,
    ):
        yield server, client


def laid_out(rng: random.Random, letters: str, order: str, extents: dict[str, int], dtype: str, padding: int) -> Array:
    """An array whose dimensions are `letters` and lie in memory in `order`, with so much padding behind a row."""
    shape = [extents[letter] + (padding if letter == "C" else 0) for letter in order]
    itemsize = np.dtype(dtype).itemsize
    raw = np.frombuffer(rng.randbytes(int(np.prod(shape)) * itemsize), np.uint8).copy().view(dtype).reshape(shape)
    raw = raw[tuple(slice(extents[letter]) for letter in order)]
    return raw.transpose([order.index(letter) for letter in letters])


def canonical(kv: Any, letters: str) -> Array:
    """[parts, layers, blocks, tokens, heads * size], by plain indexing."""
    layers = []
    for layer in [kv] if isinstance(kv, np.ndarray) else kv:
        parts = []
        for tensor in layer if isinstance(layer, tuple) else [layer]:
            order = [letters.index(letter) for letter in "L2BNHC" if letter in letters]
            array = tensor.transpose(order)
            for axis, letter in enumerate("L2BNHC"):
                if letter not in letters:
                    array = np.expand_dims(array, axis)
            parts.append(array)
        whole = np.concatenate(parts, axis=1)
        if whole.shape[1] == 1 and "H" in letters and not isinstance(layer, tuple):
            half = whole.shape[-1] // 2
            whole = np.concatenate([whole[..., :half], whole[..., half:]], axis=1)
        layers.append(whole)
    whole = np.concatenate(layers, axis=0)
    whole = np.moveaxis(whole, 1, 0)
    return whole.reshape(*whole.shape[:4], -1)


def chunks_of(kv: Any, letters: str, ids: list[int], tokens: int, count: int) -> list[bytes]:
    """What the chunks of these blocks are."""
    whole = canonical(kv, letters)[:, :, ids]
    parts, layers, _, _, width = whole.shape
    whole = whole.reshape(parts, layers, -1, width)
    chunks = []
    for k in range(count):
        mine = whole[:, :, k * tokens : (k + 1) * tokens]
        room = np.zeros((parts, layers, tokens, width), whole.dtype)
        room[:, :, : mine.shape[2]] = mine
        chunks.append(room.tobytes())
    return chunks


# (letters, order in memory, how the tensors are given)
FORMS = [
    ("2BNHC", "2BNHC", "layers"),
    ("2BHNC", "2BHNC", "layers"),
    ("B2NHC", "B2NHC", "layers"),
    ("B2HNC", "B2HNC", "layers"),
    ("2BNHC", "B2HNC", "layers"),
    ("BNC", "BNC", "layers"),
    ("BNC", "BNC", "alone"),
    ("BNHC", "BNHC", "pairs"),
    ("BHNC", "BHNC", "pairs"),
    ("BNC", "BNC", "pairs"),
    ("BL2NHC", "BL2NHC", "alone"),
    ("BL2HNC", "BL2HNC", "alone"),
    ("BHNC", "BHNC", "layers"),
    ("BNHC", "BNHC", "layers"),
    *(("LBHNC", order, "alone") for order in ("LBHNC", "LBNHC", "LHBNC", "BLHNC", "BLNHC", "BHLNC")),
    *((order, order, "alone") for order in ("LBHNC", "LBNHC", "LHBNC", "BLHNC", "BLNHC", "BHLNC")),
]


def some_kv(rng: random.Random, letters: str, order: str, given: str, extents: dict[str, int], dtype: str) -> Any:
    padding = rng.choice([0, 0, 3])
    if given == "alone":
        return laid_out(rng, letters, order, extents, dtype, padding)

    def one() -> Array:
        return laid_out(rng, letters, order, extents, dtype, padding)

    return [(one(), one()) if given == "pairs" else one() for _ in range(extents["L"])]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("letters", "order", "given"), FORMS, ids=str)
def test_every_form_goes_as_plain_indexing_says(letters: str, order: str, given: str, seed: int) -> None:
    rng = random.Random(f"{letters}{order}{given}{seed}")
    extents = {
        "L": rng.randint(1, 3), "2": 2, "B": rng.randint(8, 20), "N": rng.choice([1, 3, 16]), "H": rng.randint(1, 5),
        "C": rng.choice([2, 6, 64]),
    }  # fmt: skip
    if given == "alone" and "L" not in letters:
        extents["L"] = 1
    dtype = rng.choice(["u1", "f2", "f4", "i8"])
    kv = some_kv(rng, letters, order, given, extents, dtype)
    before = canonical(kv, letters).tobytes()
    tokens = rng.choice([1, 2, 3]) * extents["N"] if seed % 2 else rng.randint(1, 3 * extents["N"])
    layout = KVLayout.tokens(kv, tokens, dims=letters, block_tokens=extents["N"])
    count = rng.randint(1, min(12, max(1, 8 * extents["N"] // tokens // 2)))
    wanted = -(-count * tokens // extents["N"])
    least = -(-((count - 1) * tokens + 1) // extents["N"])
    blocks = rng.sample(range(extents["B"]), rng.randint(least, wanted))
    keys = some_keys(count)
    expected = chunks_of(kv, letters, blocks, tokens, count)
    with pool_of(layout) as (_, client):
        assert canonical(kv, letters).tobytes() == before, "the trial has put back what was there"
        with client.store(keys) as store:
            assert gather_paged(kv, blocks, store, layout, threads=rng.choice([None, 1, 3])).result() == []
        with client.retrieve(keys) as found:
            assert [bytes(slot.array) for slot in found.slots] == expected
            target = some_kv(rng, letters, order, given, extents, dtype)
            untouched = canonical(target, letters).copy()
            elsewhere = rng.sample(range(extents["B"]), len(blocks))
            there = min(count * tokens, len(blocks) * extents["N"])
            skip = rng.choice([0, rng.randint(0, count * tokens)])
            result = scatter_paged(found, target, np.array(elsewhere, np.int32), layout, skip, threads=2).result()
            assert result == []
        wanted_now = untouched.copy()
        for token in range(skip, there):
            block, within = divmod(token, extents["N"])
            wanted_now[:, :, elsewhere[block], within] = canonical(kv, letters)[:, :, blocks[block], within]
        assert canonical(target, letters).tobytes() == wanted_now.tobytes()


def test_engines_of_different_tensors_read_each_others_chunks() -> None:
    rng = random.Random(5)
    extents = {"L": 2, "2": 2, "B": 12, "N": 4, "H": 3, "C": 8}
    first = some_kv(rng, "2BNHC", "2BNHC", "layers", extents, "f2")
    packed = some_kv(rng, "LBHNC", "BLHNC", "alone", extents | {"C": 16, "N": 8}, "f2")
    mine = KVLayout.tokens(first, 8, "2BNHC")
    theirs = KVLayout.tokens(packed, 8, "LBHNC")
    assert mine == theirs
    assert mine.fingerprint == theirs.fingerprint
    keys = some_keys(2)
    with pool_of(mine) as (server, client), PoolClient.connect(server.name, "other", layout=theirs) as other:
        with client.store(keys) as store:
            gather_paged(first, [3, 1, 0, 2], store, mine)
        with other.retrieve(keys) as found:
            assert scatter_paged(found, packed, [9, 4], theirs).result() == []
    there = canonical(first, "2BNHC")[:, :, [3, 1, 0, 2]].reshape(2, 2, 2, 8, 24)
    assert (canonical(packed, "LBHNC")[:, :, [9, 4]].view("u2") == there.view("u2")).all()


DTYPES = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "bool", "int64", "float16"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_element_type_of_torch_goes_by_its_bytes(dtype: str) -> None:
    raw = torch.randint(0, 2, (6, 4, 16 * getattr(torch, dtype).itemsize), dtype=torch.uint8)
    kv = raw.view(getattr(torch, dtype))
    layout = KVLayout.pages([(kv, 4 * 16 * kv.element_size())], pages_per_chunk=2)
    typed = KVLayout.tokens(kv, 8, block_tokens=4)
    assert typed.form is not None
    assert typed.form.dtype == dtype
    for chosen in (layout, typed):
        keys = some_keys(2)
        target = torch.zeros_like(raw).view(kv.dtype)
        with pool_of(chosen) as (_, client):
            with client.store(keys) as store:
                gather_paged(kv, torch.tensor([5, 0, 2, 3]), store, chosen)
            with client.retrieve(keys) as found:
                assert scatter_paged(found.slots, target, [0, 1, 2, 3], chosen).result() == []
        assert torch.equal(target.view(torch.uint8)[:4], raw[[5, 0, 2, 3]])


def test_pages_with_gaps_between_them_and_dimensions_in_any_order() -> None:
    rng = np.random.default_rng(3)
    padded = rng.integers(0, 256, (10, 96), np.uint8)[:, :64]
    permuted = rng.integers(0, 256, (10, 4, 8), np.uint8).transpose(2, 0, 1)
    layout = KVLayout.pages([(padded, 64), (permuted, 32)], pages_per_chunk=3)
    keys = some_keys(2)
    ids = [9, 3, 4, 0, 8, 1]
    flat = permuted.transpose(1, 2, 0).reshape(10, 32)
    with pool_of(layout) as (_, client):
        with client.store(keys) as store:
            gather_paged([padded, permuted], ids, store, layout)
        with client.retrieve(keys) as found:
            for k, slot in enumerate(found.slots):
                mine = ids[3 * k : 3 * k + 3]
                assert bytes(slot.array) == padded[mine].tobytes() + flat[mine].tobytes()


def test_large_chunks_are_cut_into_stretches_whose_checksums_are_joined() -> None:
    size = 700_001
    kv = np.random.default_rng(1).integers(0, 256, (5, size), np.uint8)
    layout = KVLayout.pages([(kv, size)], pages_per_chunk=2)
    keys = some_keys(2)
    for threads in (1, 4):
        with pool_of(layout, chunks=4) as (server, client):
            with client.store(keys) as store:
                assert gather_paged(kv, [4, 0, 3, 2], store, layout, threads=threads).result() == []
            # Another process's first look, by the whole chunk.
            with PoolClient.connect(server.name, "v", layout=layout) as other, other.retrieve(keys) as found:
                assert found.statuses == [ChunkStatus.HIT] * 2
                assert [bytes(slot.array) for slot in found.slots] == [kv[[4, 0]].tobytes(), kv[[3, 2]].tobytes()]
                assert scatter_paged(found, kv, [0, 1, 2, 3], layout, threads=threads).result() == []


def test_a_tensor_that_was_changed_in_place_is_copied_as_it_is_now() -> None:
    """Its memory is where it was, and its dimensions are elsewhere in it."""
    kv = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (6, 4, 4, 8), np.uint8))
    layout = KVLayout.tokens(kv, 4, "BNHC")
    with pool_of(layout) as (_, client):
        for count in (1, 2):
            expected = kv[3].reshape(4, 4, 2, 4).permute(2, 0, 1, 3).numpy().tobytes()
            with client.store(some_keys(count)) as store:
                gather_paged(kv, [3], store, layout)
            with client.retrieve(some_keys(count)) as found:
                assert bytes(found.slots[-1].array) == expected
            kv.transpose_(1, 2)
        kv.resize_(6, 4, 4, 4)
        with pytest.raises(errors.LayoutError), client.store(some_keys(3)) as store:
            gather_paged(kv, [3], store, layout)


def test_a_future_can_be_awaited() -> None:
    kv = np.arange(640, dtype=np.uint8).reshape(10, 64)
    layout = KVLayout.pages([(kv, 64)])

    async def copied(client: PoolClient) -> list[int]:
        keys = some_keys(3)
        with client.store(keys) as store:
            assert await asyncio.wrap_future(gather_paged(kv, [1, 2, 3], store, layout)) == []
        with client.retrieve(keys) as found:
            return await asyncio.wrap_future(scatter_paged(found, kv, [7, 8, 9], layout))

    with pool_of(layout) as (_, client):
        assert asyncio.run(copied(client)) == []
    assert (kv[[7, 8, 9]] == kv[[1, 2, 3]]).all()


def test_a_forked_child_copies_by_threads_of_its_own() -> None:
    size = 3 << 20  # two are more than the caller copies himself
    kv = np.random.default_rng(1).integers(0, 256, (8, size), np.uint8)
    layout = KVLayout.pages([(kv, size)])
    with pool_of(layout) as (server, client):
        with client.store(some_keys(2)) as store:
            gather_paged(kv, [1, 2], store, layout, threads=3).result()
        slots = client.prepare_store(some_keys(4)).slots
        child = os.fork()
        if child == 0:
            code = 1
            try:
                own = PoolClient.connect(server.name, "child", layout=layout)
                found = own.prepare_retrieve(some_keys(2))
                target = np.zeros_like(kv)
                assert scatter_paged(found, target, [5, 6], layout, threads=3).result(30) == []
                assert (target[[5, 6]] == kv[[1, 2]]).all()
                own.close()
                with pytest.raises(errors.ForkedError):
                    gather_paged(kv, [1, 2], slots, layout)
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
