"""A small part of something large travels as about its own bytes; errors name the class; dtypes keep all they have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ringcast import MessageQueue
from ringcast.errors import DecodeError

torch: Any = pytest.importorskip("torch")


def through(value: Any, **options: Any) -> tuple[Any, int]:
    with MessageQueue(1) as queue, MessageQueue.create_from_handle(queue.export_handle(), 0, **options) as reader:
        queue.enqueue(value, timeout=10)
        return reader.dequeue(10), queue.stats()["bytes"]


LARGE = torch.arange(1024 * 1024, dtype=torch.float32).reshape(1024, 1024)


@pytest.mark.parametrize(
    "value",
    [
        LARGE[:, 5],
        LARGE[::64, ::64],
        LARGE[:, 5:6].expand(1024, 500),
        LARGE.t()[7, ::2],
        LARGE[:, 3].view(torch.int32),
    ],
)
def test_a_view_with_large_gaps_travels_without_them(value: Any) -> None:
    got, size = through([value])
    assert torch.equal(got[0], value)
    assert size < 100_000


def test_views_that_lie_apart_travel_without_what_is_between_them() -> None:
    got, size = through([LARGE[0], LARGE[1000]])
    assert torch.equal(got[0], LARGE[0])
    assert torch.equal(got[1], LARGE[1000])
    assert size < 20_000


def test_views_that_share_elements_share_them_on_arrival_gaps_or_not() -> None:
    (column, same, part), _ = through([LARGE[:, 5], LARGE[:, 5], LARGE[10:20, 5]])
    column[12] = -1
    assert same[12] == part[2] == -1


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["quantised", "with an attribute"])
def test_parts_that_pytorch_pickles_travel_without_their_storage(kind: str) -> None:
    value = torch.quantize_per_tensor(LARGE, 0.1, 3, torch.qint8)[:, 5] if kind == "quantised" else LARGE[:, 5]
    if kind != "quantised":
        value.note = "kept"
    got, size = through([value])
    assert torch.equal(got[0].dequantize(), value.dequantize())
    assert getattr(got[0], "note", None) == getattr(value, "note", None)
    assert size < 20_000


@pytest.mark.parametrize("kind", ["string_view", "binary_view", "list_view", "large_list_view", "dense_union"])
def test_arrow_slices_whose_buffers_do_not_follow_their_length_travel_without_them(kind: str) -> None:
    pa = pytest.importorskip("pyarrow")
    count = 1 << 16
    if kind == "dense_union":
        numbers = pa.array(range(count), pa.int32())
        whole = pa.UnionArray.from_dense(pa.array([0] * count, pa.int8()), numbers, [numbers])
    elif kind.endswith("list_view"):
        whole = pa.array([[1, 2, 3]] * count, getattr(pa, kind)(pa.int64()))
    else:
        text = "longer than what fits a view"
        whole = pa.array([text if kind == "string_view" else text.encode()] * count, getattr(pa, kind)())
    got, size = through(whole.slice(1000, 3))
    assert got.equals(whole.slice(1000, 3))
    assert got.type == whole.type
    assert size < 10_000


@pytest.mark.parametrize("make", ["slice", "batch", "column", "array"])
def test_a_slice_of_arrow_data_travels_without_its_buffers(make: str) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"x": np.arange(1 << 18), "s": ["some text"] * (1 << 18)}).slice(1000, 3)
    value = {
        "slice": table,
        "batch": table.to_batches()[0],
        "column": table["s"],
        "array": table["x"].chunk(0),
    }[make]
    got, size = through(value)
    assert got.equals(value)
    assert size < 10_000


class Odd(Exception):
    def __init__(self, stuff: dict[str, int]) -> None:
        super().__init__(stuff["two"])


def test_the_error_names_the_class_that_cannot_be_rebuilt() -> None:
    with pytest.raises(DecodeError, match=r"test_small_parts\.Odd"):
        through([Odd({"two": 2})])


ALIGNED = np.dtype([("a", "i1"), ("b", "f8")], align=True)
PADDED = np.dtype({"names": ["a", "b"], "formats": ["i1", "f8"], "offsets": [0, 8], "itemsize": 16})


@pytest.mark.parametrize(
    ("dtype", "plain"),
    [
        (np.dtype("f8", metadata={"u": 1}), np.dtype("f8")),
        (ALIGNED, PADDED),
        (np.dtype([("n", ALIGNED)]), np.dtype([("n", PADDED)])),
        (np.dtype([("n", np.dtype("i4", metadata={"u": 1}))]), np.dtype([("n", "i4")])),
    ],
)
def test_a_lone_array_keeps_alignment_and_metadata(dtype: Any, plain: Any) -> None:
    assert dtype == plain
    for each in (plain, dtype, plain):  # equal, but not the same
        got = through(np.zeros(5, each))[0].dtype
        assert got == each
        assert got.isalignedstruct == each.isalignedstruct
        assert got.metadata == each.metadata
        for name in each.names or ():
            assert got[name].isalignedstruct == each[name].isalignedstruct
            assert got[name].metadata == each[name].metadata


@pytest.mark.parametrize("dtype", ["M8[ns]", "m8[s]", [("a", "i4"), ("t", "M8[s]")]])
def test_elements_without_a_buffer_format_are_no_pickle(dtype: Any) -> None:
    for value in (np.zeros((3, 4), dtype), np.zeros((3, 4), dtype).T, np.zeros((6, 4), dtype)[::-2]):
        got, _ = through(value, allow_pickle=False)
        assert got.dtype == value.dtype
        assert got.tolist() == value.tolist()


def test_more_dtypes_than_are_remembered_arrive_as_they_are() -> None:
    with MessageQueue(1) as queue, MessageQueue.create_from_handle(queue.export_handle(), 0) as reader:
        for width in [*range(1, 600), 1, 2]:
            queue.enqueue(np.zeros(2, f"V{width}"), timeout=10)
            assert reader.dequeue(10).dtype == np.dtype(f"V{width}")


def test_fields_that_are_renamed_in_place_arrive_with_their_new_names() -> None:
    value = np.zeros(2, [("a", "i4"), ("b", "i4")])
    assert through(value)[0].dtype.names == ("a", "b")
    value.dtype.names = ("c", "d")
    assert through(value)[0].dtype.names == ("c", "d")
