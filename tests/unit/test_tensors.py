"""Dtypes as text, and tensors through pickle: equal, aliased as before, private, and no larger than what is touched."""

from __future__ import annotations

import gc
import itertools
import pickle
import warnings
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as npst

from ringcast.codec import PICKLE, codec
from ringcast.codec.arrays import dtype_of, dtype_text
from ringcast.errors import EncodeError

torch: Any = pytest.importorskip("torch")


def encode(obj: Any) -> list[Any]:
    frames = codec("pickle").encode(obj)
    return frames if isinstance(frames, list) else [frames]


def decode(frames: list[Any]) -> Any:
    copies = [bytes(frame) for frame in frames]
    views = [copy if len(copy) < 64 else memoryview(copy) for copy in copies]
    return codec("pickle").decode(PICKLE, views[0], views[1:])


def through(obj: Any) -> Any:
    return decode(encode(obj))


def test_a_storage_arrives_with_the_tensors_on_it() -> None:
    tensor = torch.arange(1000)
    alone = through(tensor.untyped_storage())
    assert (type(alone), bytes(alone)) == (torch.UntypedStorage, bytes(tensor.untyped_storage()))
    part, storage, again = through([tensor[10:20], tensor.untyped_storage(), tensor.untyped_storage()])
    assert part.tolist() == list(range(10, 20))
    assert storage.data_ptr() == again.data_ptr() == part.data_ptr() - 80
    assert through([torch.empty(0).untyped_storage()])[0].nbytes() == 0


def same_bits(a: Any, b: Any) -> bool:
    def raw(x: Any) -> bytes:
        flat = x.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
        return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""

    return a.dtype == b.dtype and a.shape == b.shape and raw(a) == raw(b)


NAMES = [
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "complex32",
    "complex64",
    "complex128",
    "bool",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
]


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(torch, name)])
def test_every_dtype_comes_back(name: str) -> None:
    dtype = getattr(torch, name)
    size = torch.empty(0, dtype=dtype).element_size()
    data = torch.arange(96 * size).remainder(2 if name == "bool" else 200).to(torch.uint8).view(dtype)
    frames = encode({"x": data, "y": 1})
    assert [len(memoryview(frame).cast("B")) for frame in frames[1:]] == [16, 96 * size]
    assert same_bits(decode(frames)["x"], data)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.tensor(3.5),
        lambda: torch.arange(24).reshape(2, 3, 4).permute(2, 0, 1),
        lambda: torch.arange(24.0)[5:20:3],
        lambda: torch.tensor([7]).expand(1000, 3),
        lambda: torch.arange(24).reshape(4, 6)[1:3, 2:4],
        lambda: torch.empty(0),
        lambda: torch.empty(3, 0, 2, dtype=torch.int32),
        lambda: torch.arange(5)[5:],
        lambda: torch.tensor([1 + 2j, 3]).conj(),
        lambda: torch.tensor([1 + 2j, 3]).conj().imag,
        lambda: torch.ones(3, 4, 5, 6).to(memory_format=torch.channels_last),
    ],
)
def test_shapes_and_strides_come_back(make: Any) -> None:
    given = make()
    result = through([given])[0]
    assert same_bits(result, given)
    if not given.is_neg():  # resolving that makes it contiguous
        assert result.stride() == given.stride()
    assert type(result) is torch.Tensor


def test_only_what_is_touched_is_sent() -> None:
    whole = torch.arange(1000, dtype=torch.float64)
    frames = encode([whole[100:110], torch.tensor(1).expand(1000)])
    assert sorted(memoryview(frame).nbytes for frame in frames[1:]) == [8, 32, 80]
    assert memoryview(encode(torch.arange(10)[3])[2]).nbytes == 8


def test_views_of_one_storage_share_one_span_and_memory_again() -> None:
    whole = torch.arange(1000, dtype=torch.float64)
    views = [
        whole[200:210],
        whole[100:150:5],
        whole[205:220],
        whole[100:102],
    ]
    frames = encode({"views": views, "other": torch.ones(3)})
    assert sorted(memoryview(frame).nbytes for frame in frames[1:]) == [12, 56, 120 * 8]
    result = decode(frames)
    assert all(same_bits(a, b) for a, b in zip(result["views"], views, strict=True))
    result["views"][0][5] = -1
    result["views"][1][0] = -2
    assert result["views"][2][0] == -1
    assert result["views"][3][0] == -2
    assert whole[205] == 205


def test_views_of_different_item_sizes_share_memory() -> None:
    whole = torch.zeros(64, dtype=torch.uint8)
    views = [whole[13:20], whole[16:48].view(torch.float64), whole[9:10]]
    result = through(views)
    result[1].fill_(1.0)
    assert result[0].tolist() == [0, 0, 0, *torch.ones(1, dtype=torch.float64).view(torch.uint8)[:4].tolist()]
    assert result[2].shape == (1,)


def test_one_tensor_twice_is_one_tensor() -> None:
    x = torch.ones(5)
    a, b = through([x, x])
    assert a is b


def test_requires_grad_and_parameters() -> None:
    leaf = torch.ones(3, requires_grad=True)
    inner = leaf * 2
    parameter = torch.nn.Parameter(torch.ones(4), requires_grad=False)
    parameter.kind = "weight"
    conj = torch.ones(2, dtype=torch.complex64, requires_grad=True).conj()
    tied = torch.nn.Parameter(parameter.data[:2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = through([leaf, inner, parameter, conj, tied])
    assert [each.requires_grad for each in result] == [True, True, False, True, True]
    assert all(each.is_leaf for each in result)
    assert type(result[2]) is torch.nn.Parameter
    assert result[2].kind == "weight"
    with torch.no_grad():
        result[2][0] = 9
    assert result[4][0] == 9
    assert type(result[0]) is torch.Tensor


def test_a_module_travels_with_its_tied_weights() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    model[1].weight = model[0].weight
    result = through(model)
    assert result[1].weight is result[0].weight
    assert torch.equal(result(torch.ones(8)), model(torch.ones(8)))


class Subclass(torch.Tensor):  # type: ignore[misc]
    pass


@pytest.mark.filterwarnings("ignore")  # of what PyTorch thinks of its own old features
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.quantize_per_tensor(torch.arange(10.0), 0.5, 3, torch.qint8),
        lambda: torch.eye(5).to_sparse(),
        lambda: torch.eye(5).to_sparse_csr(),
        lambda: torch.ones(3).as_subclass(Subclass),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: torch.empty(4, device="meta"),
    ],
)
def test_other_kinds_are_pickled_as_torch_does_it(make: Any) -> None:
    given = make()
    [result] = through([given])
    assert type(result) is type(given)
    assert result.layout == given.layout
    assert result.device == given.device
    if given.layout is torch.strided and not given.is_nested and given.device.type == "cpu":
        assert torch.equal(result, given)


def test_a_tensor_with_attributes_keeps_them() -> None:
    x = torch.ones(3)
    x.note = "mine"
    [result] = through([x])
    assert result.note == "mine"


def test_a_tensor_larger_than_its_storage_is_not_read_beyond_it() -> None:
    x = torch.ones(100)
    x.untyped_storage().resize_(4)
    try:
        codec("pickle").encode(x)
    except Exception as error:
        assert not isinstance(error, SystemError)  # noqa: PT017


def test_the_result_is_private_and_writable_without_any_warning() -> None:
    frames = [bytes(frame) for frame in encode([torch.arange(100), np.arange(100)])]
    before = list(frames)
    views = [memoryview(frame) for frame in frames]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor, array = codec("pickle").decode(PICKLE, views[0], views[1:])
        tensor += 1
    assert frames == before
    assert tensor[0] == 1
    assert not array.flags.writeable


def test_on_writable_memory_nothing_is_copied() -> None:
    class Memory(bytearray):
        pass

    given = [torch.arange(100), torch.ones(50)]
    stream, *frames = encode(given)
    memories = [Memory(frame) for frame in frames]
    views = [weakref.ref(memory) for memory in memories if len(memory) >= 200]
    result = codec("pickle").decode(PICKLE, stream, memories)
    del memories
    assert all(same_bits(a, b) for a, b in zip(result, given, strict=True))
    gc.collect()
    memory = views[0]()
    assert memory is not None
    memory[:8] = (55).to_bytes(8, "little")
    assert result[0][0] == 55
    kept = result[0][3:]
    del result, memory
    gc.collect()
    assert [view() is not None for view in views] == [True, False]
    del kept
    gc.collect()
    assert views[0]() is None


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, lambda: torch.device("meta")])
def test_modes_do_not_matter(mode: Any) -> None:
    given = torch.arange(100)
    with mode():
        result = through([given, torch.ones(0, 3, device="cpu")])
    assert same_bits(result[0], given)
    assert result[0].device.type == "cpu"


def test_tensors_are_let_go_with_their_frames() -> None:
    gc.disable()
    try:
        x = torch.ones(1000)
        ref = weakref.ref(x.untyped_storage())
        frames = encode([x, x[3:]])
        del x
        del frames
        alive = ref() is not None
    finally:
        gc.enable()
    assert not alive


def test_tensors_inside_closures_travel_by_cloudpickle() -> None:
    pytest.importorskip("cloudpickle")
    x = torch.arange(1000)
    frames = encode([lambda: x, x[10:]])
    assert len(frames) == 3
    assert len(frames[0]) < 4000
    function, view = decode(frames)
    view[0] = -1
    assert function()[10] == -1


def test_torch_tensors_are_refused_by_msgpack() -> None:
    for value in (torch.ones(3), torch.nn.Parameter(torch.ones(3))):
        with pytest.raises(EncodeError, match="codec='pickle'"):
            codec("msgpack").encode([value])


def test_pickles_made_without_a_packer_are_still_read() -> None:
    given = torch.ones(3)
    assert torch.equal(codec("pickle").decode(PICKLE, pickle.dumps(given), []), given)


@given(npst.scalar_dtypes() | npst.nested_dtypes(max_leaves=5) | npst.array_dtypes(max_size=4))
@settings(deadline=None)
def test_dtypes_come_back_from_their_text(dtype: np.dtype[Any]) -> None:
    text = dtype_text(dtype)
    if dtype.hasobject:
        assert text is None
    elif text is not None:
        assert dtype_of(text) == dtype
    else:
        assert dtype.names is not None


SIMPLE = [np.dtype(code) for code in "?bBhHiIlLqQefdgFDGSUVMm"] + [
    np.dtype(each) for each in ("U7", "S3", "V5", "M8[25s]")
]


@pytest.mark.parametrize(
    "dtype",
    list(SIMPLE)
    + [each.newbyteorder() for each in SIMPLE]
    + [
        np.dtype([("a", "i4"), (("title", "b"), ">f8", (3, 2))]),
        np.dtype((np.int32, (3,))),
        np.dtype("u1,f8", align=True),
    ]
    + [np.dtype(([("a", "u1")], (2,))), np.dtype([("x", [("y", "M8[ns]"), ("z", "U3")])])],
)
def test_dtypes_have_a_text(dtype: np.dtype[Any]) -> None:
    text = dtype_text(dtype)
    assert text is not None
    assert dtype_of(text) == dtype


def test_dtypes_with_objects_extensions_or_metadata_have_no_text() -> None:
    assert dtype_text(np.dtype(object)) is None
    assert dtype_text(np.dtype([("a", "i4"), ("b", object)])) is None
    if hasattr(np.dtypes, "StringDType"):
        assert dtype_text(np.dtypes.StringDType()) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dtype_text(np.dtype("f8", metadata={"a": 1})) is None
        assert dtype_text(np.dtype([("a", "f8")], metadata={"a": 1})) is None


@pytest.mark.parametrize(
    "text",
    ["", "O", "|O8", "<q8", "f8", "[", "[('a',)]", "[('a', 'O')]", "('<f8', -1)", "<V99999999999", "{}", "[[[]]]"],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"dtype|objects"):
        dtype_of(text)


def test_many_tensors_of_many_storages() -> None:
    given = [torch.full((n,), n) for n in range(50)]
    result = through(list(itertools.chain(given, [each[1:] for each in given])))
    assert all(same_bits(a, b) for a, b in zip(result, given, strict=False))
