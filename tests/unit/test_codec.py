"""Every codec gives back what it was given, and damaged or refused messages raise. No queue is involved."""

from __future__ import annotations

import array
import datetime
import math
import pickle
import sys
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ringcast.codec import ENVIRONMENT, MSGPACK, PICKLE, RAW, Codec, codec
from ringcast.codec.msgpack import ARRAY_CODE
from ringcast.errors import ArgumentError, DecodeError, EncodeError, PickleRefusedError
from tests.support import run_python

SMALL = 64


def arrived(frame: Any) -> Any:
    """The frame as a reader gets it: bytes if it is small, else a read-only view."""
    copy = bytes(frame)
    return copy if len(copy) < SMALL else memoryview(copy)


def through(made: Codec, obj: Any) -> Any:
    frames: Any = made.encode(obj)
    if isinstance(frames, bytes):
        return made.decode(made.encoding, frames, [])
    return made.decode(made.encoding, arrived(frames[0]), [arrived(frame) for frame in frames[1:]])


def equal(a: Any, b: Any) -> bool:
    """Equal in types, dtypes and bytes, so that NaNs equal themselves."""
    if isinstance(a, np.ndarray | np.generic):
        same = type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape
        return same and a.tobytes() == b.tobytes()
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return type(a) is type(b) and (a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)))


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    )


PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(max_size=100)
ARRAYS = npst.arrays(
    # NumPy's own pickling loses the byte order of dates.
    npst.scalar_dtypes().filter(lambda dtype: dtype.isnative) | npst.unicode_string_dtypes(),
    npst.array_shapes(min_dims=0, min_side=0),
)


@given(nested(PLAIN | ARRAYS))
@settings(deadline=None, max_examples=100)
def test_nested_objects_come_back_through_pickle(obj: Any) -> None:
    assert equal(through(codec("pickle"), obj), obj)


@given(nested(PLAIN | ARRAYS))
@settings(deadline=None, max_examples=100)
def test_nested_objects_come_back_through_msgpack(obj: Any) -> None:
    assert equal(through(codec("msgpack"), obj), obj)


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_damaged_msgpack_raises_or_decodes(data: bytes) -> None:
    made = codec("msgpack")
    header = msgspec.msgpack.encode(msgspec.msgpack.Ext(ARRAY_CODE, data))
    for stream in (data, header):
        try:
            made.decode(MSGPACK, stream, [b"12345678"])
        except Exception as error:
            assert not isinstance(error, SystemError)  # noqa: PT017


@pytest.mark.parametrize(
    "header",
    [
        ("<f8", [2], "C", 0),
        ("<f8", [-1], "C", 0),
        ("<f8", [1], "C", 1),
        ("<f8", [1], "C", -1),
        ("<f8", [1], "C", None),
        ("<f8", [1], "A", 0),
        ("|O", [1], "C", 0),
        ("O", [1], "C", 0),
        ("[('a', '|O')]", [1], "C", 0),
        ("__import__('os')", [1], "C", 0),
        ("[" * 10000, [1], "C", 0),
        ("<V0", [2**62, 2**62], "C", None),
        ("<f8", [1] * 100, "C", 0),
        (b"<f8", [1], "C", 0),
        ("<f8",),
    ],
)
def test_a_wrong_array_header_raises(header: Any) -> None:
    stream = msgspec.msgpack.encode(msgspec.msgpack.Ext(ARRAY_CODE, msgspec.msgpack.encode(header)))
    with pytest.raises((ValueError, TypeError, msgspec.MsgspecError)):
        codec("msgpack").decode(MSGPACK, stream, [b"12345678"])


def test_arrays_in_pickles_are_read_only_views_of_their_frames() -> None:
    made = codec("pickle")
    frames: Any = made.encode({"a": np.arange(100)})
    buffer = memoryview(bytes(frames[1]))
    result = made.decode(PICKLE, frames[0], [buffer])["a"]
    assert len(frames[0]) < 300
    assert np.shares_memory(result, np.frombuffer(buffer, np.uint8))
    assert not result.flags.writeable


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_in_msgpack_are_read_only_views_of_their_frames(order: Any) -> None:
    made = codec("msgpack")
    given = np.asarray(np.arange(12.0).reshape(3, 4), order=order)
    frames: Any = made.encode([given])
    assert np.shares_memory(np.frombuffer(frames[1], np.uint8), given)
    buffer = bytearray(frames[1])
    [result] = made.decode(MSGPACK, frames[0], [buffer])
    assert np.shares_memory(result, np.frombuffer(buffer, np.uint8))
    assert not result.flags.writeable
    assert result.flags.f_contiguous == (order == "F")
    np.testing.assert_array_equal(result, given)


@pytest.mark.parametrize(
    "given",
    [
        np.arange(20)[::-2],
        np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        np.broadcast_to(np.float32(3), (4, 5)),
        np.array("2020-01-01", "M8[D]"),
        np.zeros(3, [("a", "<i4"), ("b", "<f8", (2, 2)), ("c", [("d", "U3")])]),
        np.zeros(3, np.dtype({"names": ["a", "b"], "formats": ["u1", "f8"]}, align=True)),
        np.zeros((0, 4)),
        np.zeros(3, "V0"),
        np.zeros(3, "U0"),
        np.zeros(2, np.longdouble),
        np.zeros(2, np.float16),
        np.zeros(2, ">c16"),
        np.zeros(2, bool),
    ],
)
def test_arrays_of_any_shape_and_dtype_come_back_through_msgpack(given: Any) -> None:
    (result,) = through(codec("msgpack"), [given])
    assert equal(result, np.ascontiguousarray(given) if given.ndim else given)


@pytest.mark.parametrize(
    "given",
    [
        np.float64(1.5),
        np.int8(-3),
        np.bool_(True),
        np.datetime64("2020"),
        np.timedelta64(5, "s"),
        np.complex64(1j),
        np.array((1, 2.0), [("a", "<i4"), ("b", "<f8")])[()],
        np.longdouble(1) / 3,
    ],
)
def test_numpy_scalars_come_back_through_msgpack(given: Any) -> None:
    assert equal(through(codec("msgpack"), {"x": given})["x"], given)


@pytest.mark.parametrize(
    "given", [1j, object(), np.array([None]), np.ma.masked_array([1], [True]), range(3), lambda: 0, int]
)
def test_what_msgpack_does_not_have_is_refused_by_name(given: Any) -> None:
    with pytest.raises(EncodeError, match="pickle"):
        codec("msgpack").encode([given])


def test_the_encoder_is_clean_after_an_error() -> None:
    made = codec("msgpack")
    with pytest.raises(EncodeError):
        made.encode([np.arange(3), 1j])
    assert isinstance(made.encode([1]), bytes)


class Step(msgspec.Struct, tag=True):
    number: int
    data: np.ndarray[Any, Any]
    scale: np.float32 | None = None


class Stop(msgspec.Struct, tag=True):
    when: datetime.datetime


def test_messages_are_converted_to_the_message_type() -> None:
    made = codec("msgpack", message_type=Step | Stop)
    step = through(made, Step(3, np.arange(100), np.float32(2)))
    assert type(step) is Step
    assert equal(step.data, np.arange(100))
    assert equal(step.scale, np.float32(2))
    stop = Stop(datetime.datetime.now(datetime.timezone.utc))
    assert through(made, stop) == stop
    with pytest.raises(msgspec.ValidationError):
        through(made, {"type": "Step", "number": "x", "data": np.arange(2)})
    with pytest.raises(msgspec.ValidationError):
        through(made, {"type": "Step", "number": 1, "data": [1, 2]})
    with pytest.raises(ArgumentError, match="message_type"):
        codec("msgpack", message_type=int | Step | list[int] | tuple[int])


def test_foreign_extension_values_pass() -> None:
    value = msgspec.msgpack.Ext(5, b"x")
    assert through(codec("msgpack"), [value]) == [value]


def test_every_codec_decodes_msgpack() -> None:
    frames: Any = codec("msgpack").encode([1, np.arange(50)])
    for name in ("pickle", "raw"):
        result = codec(name).decode(MSGPACK, frames[0], frames[1:])
        assert equal(result, [1, np.arange(50)])


@pytest.mark.parametrize("name", ["pickle", "msgpack", "raw"])
def test_pickles_are_refused_where_they_are_not_allowed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = pickle.dumps([1])
    assert codec(name).decode(PICKLE, stream, []) == [1]
    assert codec(name).loads is pickle.loads
    refusing = codec(name, allow_pickle=False)
    assert refusing.loads is None
    with pytest.raises(PickleRefusedError, match="allow_pickle=False"):
        refusing.decode(PICKLE, stream, [])
    monkeypatch.setenv(ENVIRONMENT, "0")
    with pytest.raises(PickleRefusedError, match="next call goes on"):
        codec(name).decode(PICKLE, stream, [])
    assert codec(name, allow_pickle=True).decode(PICKLE, stream, []) == [1]
    monkeypatch.setenv(ENVIRONMENT, "no")
    with pytest.raises(ArgumentError, match=ENVIRONMENT):
        codec(name)


def test_attributes() -> None:
    made = [codec(name) for name in ("raw", "pickle", "msgpack")]
    assert [(each.encoding, each.arrays) for each in made] == [(RAW, False), (PICKLE, True), (MSGPACK, True)]
    assert [each.dumps for each in made] == [None, pickle.dumps, None]
    with pytest.raises(ArgumentError, match="'json'"):
        codec("json")
    with pytest.raises(DecodeError, match="encoding 9"):
        made[0].decode(9, b"", [])


@pytest.mark.parametrize(
    "given",
    [
        b"abc",
        bytearray(b"abc"),
        memoryview(b"abc"),
        array.array("d", [1, 2]),
        np.asfortranarray(np.ones((2, 3))),
        b"",
        np.zeros(2, [("a", "<i4"), ("b", "<f8")]),
    ],
)
def test_raw_sends_the_bytes_of_a_buffer_uncopied(given: Any) -> None:
    view: Any
    [view] = codec("raw").encode(given)
    assert (view.format, view.contiguous, view.ndim) == ("B", True, 1)
    assert bytes(view) == (given.tobytes("A") if isinstance(given, np.ndarray) else bytes(memoryview(given)))


@pytest.mark.parametrize("given", [{}, "text", 5, np.arange(9)[::2], np.array([None]), memoryview(b"abcd")[::2]])
def test_raw_refuses_what_has_no_contiguous_bytes(given: Any) -> None:
    with pytest.raises(EncodeError, match="codec 'raw' sends"):
        codec("raw").encode(given)


def test_functions_and_closures_travel_by_cloudpickle() -> None:
    pytest.importorskip("cloudpickle")
    data = np.arange(100)

    def closure(x: int) -> Any:
        return data + x

    frames: Any = codec("pickle").encode([closure, lambda: 5])
    assert len(frames) == 2
    result = codec("pickle").decode(PICKLE, frames[0], frames[1:])
    assert equal(result[0](3), data + 3)
    assert result[1]() == 5


class Refuses:
    def __reduce__(self) -> Any:
        raise KeyError("mine")


def test_the_first_error_is_raised() -> None:
    with pytest.raises(KeyError, match="mine"):
        codec("pickle").encode(Refuses())


def test_without_cloudpickle_a_function_is_refused_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(EncodeError, match="cloudpickle"):
        codec("pickle").encode(lambda: 0)
    with pytest.raises(KeyError, match="mine"):
        codec("pickle").encode(Refuses())


def test_nothing_foreign_is_imported_unless_needed() -> None:
    result = run_python(
        "import sys\nfrom ringcast import codec\nfrom ringcast.codec import arrays, msgpack, objects, tensors\n"
        "made = codec.codec('pickle'); made.decode(2, made.encode([1, 'a']), []); codec.codec('raw').encode(b'x')\n"
        "print([name for name in ('numpy', 'torch', 'msgspec', 'cloudpickle') if name in sys.modules])"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "[]\n", "")
