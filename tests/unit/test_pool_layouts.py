"""KVLayout: sizes, bounds, one fingerprint for who has tensors and who has not."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from ringcast.errors import ArgumentError, ArgumentTypeError
from ringcast.pool import KVLayout, Namespace

PLAIN = KVLayout.sizes([64, 32], pages_per_chunk=2, shards=2, cpu_isa="amx")


def tensors() -> list[tuple[Any, int]]:
    return [(torch.zeros(10, 64, dtype=torch.int8), 64), (np.zeros((10, 8), np.float32), 32)]


def test_tensors_and_sizes_make_equal_layouts() -> None:
    made = KVLayout.pages(tensors(), pages_per_chunk=2, shards=2, cpu_isa="amx")
    assert made == PLAIN
    assert made.fingerprint == PLAIN.fingerprint
    assert hash(made) == hash(PLAIN)
    assert (made.n_pages, PLAIN.n_pages) == (10, None)


def test_a_chunk_is_parts_back_to_back_of_pages_back_to_back() -> None:
    assert (PLAIN.part_bytes, PLAIN.chunk_bytes) == (192, 384)
    assert PLAIN.bounds(0) == ((0, 128), (128, 64))
    assert PLAIN.bounds(1) == ((192, 128), (320, 64))
    for part in (-1, 2):
        with pytest.raises(ArgumentError, match="part"):
            PLAIN.bounds(part)


@pytest.mark.parametrize(
    "change",
    [
        {"page_bytes": [32, 64]},
        {"page_bytes": [64]},
        {"page_bytes": [64, 32, 1]},
        {"pages_per_chunk": 1},
        {"shards": 1},
        {"cpu_isa": None},
        {"cpu_isa": "vec"},
    ],
)
def test_whatever_moves_a_byte_changes_the_fingerprint(change: dict[str, Any]) -> None:
    plain: dict[str, Any] = {"page_bytes": [64, 32], "pages_per_chunk": 2, "shards": 2, "cpu_isa": "amx"}
    assert KVLayout.sizes(**plain).fingerprint == PLAIN.fingerprint
    assert KVLayout.sizes(**plain | change).fingerprint != PLAIN.fingerprint


def test_dimensions_may_lie_in_any_order_without_gaps() -> None:
    pages = torch.zeros(10, 4, 16, dtype=torch.int8)
    for view in (pages, pages.permute(2, 0, 1), pages.view(10, 1, 64), pages[:5], pages[::2]):
        assert KVLayout.pages([(view, 64)]).page_bytes == (64,)
    assert KVLayout.pages([(pages[:, :2], 32)]).n_pages == 10, "gaps between pages do no harm"
    for view in (pages[::2], pages[:, :, 1:], torch.zeros(1, dtype=torch.int8).expand(640)):
        with pytest.raises(ArgumentError, match=r"tensors\[0\] has gaps"):
            KVLayout.pages([(view, 32)])
    with pytest.raises(ArgumentError, match="gaps"):
        KVLayout.pages([(np.zeros((10, 64), np.int8)[::-1], 64)])


@pytest.mark.parametrize("axis", range(3))
def test_a_dimension_of_one_may_have_any_stride(axis: int) -> None:
    padded = np.zeros((10, 96), np.int8)[:, :64]
    shape, strides = list(padded.shape), list(padded.strides)
    shape.insert(axis, 1)
    strides.insert(axis, 96_000)
    assert KVLayout.pages([(np.lib.stride_tricks.as_strided(padded, shape, strides), 64)]).n_pages == 10


def test_types_of_other_bytes_have_other_fingerprints() -> None:
    """Also where NumPy calls them the same: of the other byte order, with other fields."""
    kinds = [np.dtype(kind) for kind in ("<u4", ">u4", "<f4", ">f4", "u2,u2", "u1,u1,u2", "V4")]
    prints = {KVLayout.tokens(np.zeros((2, 4, 8, 2, 16), kind), 8, "2BNHC").fingerprint for kind in kinds}
    assert len(prints) == len(kinds)
    spaces = {Namespace("m", dtype=kind, layout="any") for kind in kinds}
    assert len({space.dtype for space in spaces}) == len(kinds)


def nested() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is a prototype
        return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: torch.zeros(4, 8, 2, 16, dtype=torch.complex64).conj(), "resolve_conj"),
        (lambda: torch._neg_view(torch.zeros(4, 8, 2, 16)), "resolve_neg"),
        (lambda: torch.zeros(4, 8, 2, 16, device="meta"), "has memory, not a Tensor of meta"),
        (nested, "strided tensor, not 'nested'"),
    ],
)
def test_tensors_whose_memory_has_not_their_values_are_refused(make: Any, what: str) -> None:
    tensor = make()
    with pytest.raises(ArgumentTypeError, match=what):
        KVLayout.tokens([tensor], 8, "BNHC")
    with pytest.raises(ArgumentTypeError, match=what):
        KVLayout.pages([(tensor, 64)])


def test_tensors_must_be_rows_of_pages_and_equally_many() -> None:
    with pytest.raises(ArgumentError, match="no whole pages of 48"):
        KVLayout.pages([(np.zeros(100, np.int8), 48)])
    with pytest.raises(ArgumentError, match="no whole pages"):
        KVLayout.pages([(np.zeros(0, np.int8), 48)])
    with pytest.raises(ArgumentError, match=r"same number of pages, not \[2, 1\]"):
        KVLayout.pages([(np.zeros(96, np.int8), 48), (np.zeros(48, np.int8), 48)])


@pytest.mark.parametrize(
    "given",
    [
        None,
        5,
        "ab",
        [np.zeros(4)],
        [(np.zeros(4),)],
        [([0, 0], 1)],
        [(torch.zeros(4).to_sparse(), 4)],
        [(np.zeros(4), "4")],
    ],
)
def test_what_is_no_tensor_with_a_size_is_refused(given: Any) -> None:
    with pytest.raises(ArgumentTypeError):
        KVLayout.pages(given)


@pytest.mark.parametrize(
    ("change", "type_of_error"),
    [
        ({"page_bytes": []}, ArgumentError),
        ({"page_bytes": [0]}, ArgumentError),
        ({"page_bytes": [1.5]}, ArgumentTypeError),
        ({"page_bytes": 64}, ArgumentTypeError),
        ({"page_bytes": b"ab"}, ArgumentTypeError),
        ({"page_bytes": [1 << 41]}, ArgumentError),
        ({"pages_per_chunk": 0}, ArgumentError),
        ({"pages_per_chunk": True}, ArgumentTypeError),
        ({"shards": 0}, ArgumentError),
        ({"cpu_isa": 5}, ArgumentTypeError),
        ({"cpu_isa": ""}, ArgumentError),
        ({"cpu_isa": "\ud800"}, ArgumentError),
    ],
)
def test_sizes_are_checked(change: dict[str, Any], type_of_error: type[Exception]) -> None:
    with pytest.raises(type_of_error):
        KVLayout.sizes(**{"page_bytes": [64]} | change)


def test_a_layout_travels_without_its_tensors() -> None:
    made = KVLayout.pages(tensors(), pages_per_chunk=2, shards=2, cpu_isa="amx")
    again = pickle.loads(pickle.dumps(made))
    assert again == made
    assert again.tensors == ()
