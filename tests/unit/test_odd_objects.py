"""What is no plain object, and no array of numbers, arrives equal, or is refused by the writer."""

from __future__ import annotations

import array
import ctypes
import datetime
import json
import mmap
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ringcast import MessageQueue
from ringcast.codec import codec as make_codec
from ringcast.errors import EncodeError
from tests.support import broadcast


class Pair(ctypes.Structure):
    _fields_ = [("number", ctypes.c_int), ("real", ctypes.c_double)]


class Nested(ctypes.Structure):
    _fields_ = [("pairs", Pair * 2), ("name", ctypes.c_char * 8)]


class Backward(ctypes.BigEndianStructure):
    _fields_ = [("number", ctypes.c_int), ("more", ctypes.c_int.__ctype_be__ * 2)]


class Either(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("real", ctypes.c_float)]


class Pointing(ctypes.Structure):
    _fields_ = [("to", ctypes.POINTER(ctypes.c_int))]


class PointingWithin(ctypes.Structure):
    _fields_ = [("number", ctypes.c_int), ("pointing", Pointing * 2)]


class PointingFurther(Pointing):
    _fields_ = [("number", ctypes.c_int)]


class Sub(np.ndarray):
    pass


def released(view: Any) -> Any:
    view.release()
    return view


def of_dtype(dtype: Any) -> Any:
    return np.frombuffer(bytes(range(12)) * 16, np.uint8)[: 3 * np.dtype(dtype).itemsize].view(dtype)


BY_VALUE: dict[str, Callable[[], Any]] = {
    "ctypes int": lambda: ctypes.c_int(5),
    "ctypes array": lambda: (ctypes.c_int * 4)(1, 2, 3),
    "ctypes array of arrays": lambda: ((ctypes.c_int * 2) * 3)((ctypes.c_int * 2)(1, 2)),
    "ctypes array of none": ctypes.c_int * 0,
    "ctypes array of chars": lambda: (ctypes.c_char * 8).from_buffer_copy(b"12345678"),
    "ctypes string buffer": lambda: ctypes.create_string_buffer(b"some"),
    "ctypes unicode buffer": lambda: ctypes.create_unicode_buffer("söme"),
    "ctypes large array": lambda: (ctypes.c_double * 20_000)(*range(20_000)),
    "ctypes structure": lambda: Pair(1, 2.5),
    "ctypes structure of arrays": lambda: Nested((Pair(1, 2.5), Pair(3)), b"name"),
    "ctypes union": lambda: Either(1),
    "ctypes array of structures": lambda: (Pair * 2)(Pair(1, 2.5)),
    "ctypes of the other byte order": lambda: Backward(1, (2, 3)),
    "ctypes int of the other byte order": lambda: ctypes.c_int.__ctype_be__(5),
    "ctypes array of the other byte order": lambda: (ctypes.c_short.__ctype_be__ * 2)(5),
    "array of doubles": lambda: array.array("d", [1, 2]),
    "array of text": lambda: array.array("u", "hé\U0001f600"),
    "array of none": lambda: array.array("b"),
    "datetime": lambda: datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
    "numpy objects": lambda: np.array([1, "a", None, (2,)], dtype=object),
    "numpy record with objects": lambda: np.array([([1], 2)], dtype=[("a", "O"), ("b", "i4")]),
    "numpy record": lambda: of_dtype([("a", "u1"), ("b", "i4")]),
    "numpy aligned record": lambda: of_dtype(np.dtype([("a", "u1"), ("b", "i4")], align=True)),
    "numpy record with a gap": lambda: of_dtype({"names": ["a"], "formats": ["i4"], "offsets": [4], "itemsize": 12}),
    "numpy record with titles": lambda: of_dtype([(("title", "a"), "i4")]),
    "numpy record of none": lambda: np.zeros(3, dtype=[]),
    "numpy record of arrays": lambda: of_dtype([("a", "i4", (2, 2))]),
    "numpy void": lambda: of_dtype("V7"),
    "numpy void of none": lambda: np.zeros(3, "V0"),
    "numpy scalar void": lambda: of_dtype("V7")[1],
    "numpy scalar record": lambda: of_dtype([("a", "u1"), ("b", "i4")])[1],
    "numpy datetime64": lambda: np.array(["2020-01-01", "NaT"], dtype="M8[D]"),
    "numpy scalar datetime64": lambda: np.datetime64("2020-01-01"),
    "numpy timedelta64": lambda: np.array([1, 2], dtype="m8[ns]"),
    "numpy text": lambda: np.array(["a", "bçd"]),
    "numpy bytes": lambda: np.array([b"a", b"bcd"]),
    "numpy bytes of none": lambda: np.zeros(2, "S0"),
    "numpy of the other byte order": lambda: np.arange(3, dtype=np.dtype("i4").newbyteorder()),
    "numpy halves": lambda: np.arange(3, dtype="f2"),
    "numpy long doubles": lambda: np.arange(3, dtype=np.longdouble),
    "numpy of no dimension": lambda: np.array(3.5),
    "numpy of no items": lambda: np.empty((0, 3)),
    "numpy backwards": lambda: np.arange(12).reshape(3, 4)[::-1, ::-2],
    "numpy broadcast": lambda: np.broadcast_to(np.arange(3), (4, 3)),
    "numpy in Fortran's order": lambda: np.asfortranarray(np.arange(12).reshape(3, 4)),
    "numpy masked": lambda: np.ma.array([1, 2, 3], mask=[False, True, False]),
    "numpy recarray": lambda: np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "numpy subclass": lambda: np.arange(3).view(Sub),
    "numpy dtype with metadata": lambda: np.zeros(3, np.dtype("i4", metadata={"unit": "m"})),
    "numpy on ctypes": lambda: np.ctypeslib.as_array((ctypes.c_int * 4)(1, 2, 3)),
    "numpy on bytes": lambda: np.frombuffer(b"abcdefgh", "u4"),
}

BY_BYTES: dict[str, Callable[[], Any]] = {
    "memoryview": lambda: memoryview(b"abc"),
    "memoryview of doubles": lambda: memoryview(array.array("d", [1, 2])),
    "memoryview of two dimensions": lambda: np.arange(6).reshape(2, 3).data,
    "memoryview with gaps": lambda: memoryview(b"abcdef")[::2],
    "PickleBuffer": lambda: pickle.PickleBuffer(bytearray(b"abc")),
    "PickleBuffer of ctypes": lambda: pickle.PickleBuffer((ctypes.c_int * 4)(1, 2, 3)),
}

REFUSED: dict[str, Callable[[], Any]] = {
    "ctypes pointer": lambda: ctypes.pointer(ctypes.c_int(1)),
    "ctypes void pointer": lambda: ctypes.c_void_p(5),
    "ctypes char pointer": lambda: ctypes.c_char_p(b"some"),
    "ctypes object": lambda: ctypes.py_object(5),
    "ctypes function": lambda: ctypes.CFUNCTYPE(None)(print),
    "ctypes structure with a pointer": Pointing,
    "ctypes structure of structures with a pointer": PointingWithin,
    "ctypes array of pointers": lambda: (ctypes.c_char_p * 2)(b"some"),
    "memoryview that was released": lambda: released(memoryview(b"abc")),
    "PickleBuffer with gaps": lambda: pickle.PickleBuffer(memoryview(b"abcdef")[::2]),
    "PickleBuffer that was released": lambda: released(pickle.PickleBuffer(b"abc")),
    "mmap": lambda: mmap.mmap(-1, 100),
    "numpy iterator": lambda: np.nditer(np.arange(3)),
    "file": lambda: sys.__stdout__,
}
"""By pickle and cloudpickle."""

ADDRESSES = [name for name in REFUSED if name.startswith("ctypes")]


def content(value: Any) -> tuple[Any, ...]:
    if isinstance(value, np.ndarray | np.generic):
        return type(value), value.dtype, value.shape, repr(value.tolist())
    if isinstance(value, ctypes.Structure | ctypes.Union | ctypes.Array):
        return type(value), bytes(value)
    return type(value), getattr(value, "value", value)


def through(value: Any) -> Any:
    with broadcast() as (writer, (reader,)):
        writer.enqueue(value)
        received = reader.dequeue(10)
        writer.enqueue({"within": [value, value]})
        within = reader.dequeue(10)["within"]
        assert content(within[0]) == content(within[1]) == content(received)
        return received


@pytest.mark.parametrize("name", BY_VALUE)
@pytest.mark.parametrize("cloudpickle", [True, False])
def test_it_arrives_equal(name: str, cloudpickle: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not cloudpickle:
        monkeypatch.setitem(sys.modules, "cloudpickle", None)
    value = BY_VALUE[name]()
    assert content(through(value)) == content(value)


@pytest.mark.parametrize("name", BY_BYTES)
def test_what_is_bytes_arrives_as_these(name: str) -> None:
    pytest.importorskip("cloudpickle")
    value = BY_BYTES[name]()
    with broadcast() as (writer, (reader,)):
        writer.enqueue([value])
        assert bytes(reader.dequeue(10)[0]) == bytes(value)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_the_writer(name: str) -> None:
    value = REFUSED[name]()
    with broadcast() as (writer, (reader,)):
        for message in (value, [value]):
            with pytest.raises(EncodeError, match="nothing was sent"):
                writer.enqueue(message)
        writer.enqueue("next")
        assert reader.dequeue(10) == "next"


@pytest.mark.parametrize("name", ADDRESSES)
@pytest.mark.parametrize("codec", ["pickle", "raw"])
def test_addresses_are_refused_in_words_that_say_so(name: str, codec: str) -> None:
    with pytest.raises(EncodeError, match=r"address.* mean.? nothing in another process"):
        make_codec(codec).encode(REFUSED[name]())


def test_raw_finds_inherited_addresses_too_and_sends_what_has_none() -> None:
    raw = make_codec("raw")
    with pytest.raises(EncodeError, match="addresses"):
        raw.encode(PointingFurther())
    for value in (Nested((Pair(1, 2.5),), b"name"), Either(1), (ctypes.c_int * 2)(1), ctypes.c_char(b"a")):
        assert bytes(raw.encode(value)[0]) == bytes(value)


@pytest.mark.parametrize("cloudpickle", [True, False])
def test_a_class_of_ctypes_that_has_no_name_is_refused(cloudpickle: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not cloudpickle:
        monkeypatch.setitem(sys.modules, "cloudpickle", None)

    class Local(ctypes.Structure):
        _fields_ = [("number", ctypes.c_int)]

    class LocalInt(ctypes.c_int):
        pass

    class LocalArray(ctypes.c_int * 2):  # type: ignore[misc]
        pass

    with broadcast() as (writer, _):
        for value in (Local(1), LocalInt(1), LocalArray(1), (Local * 2)()):
            with pytest.raises(EncodeError, match=r"Local.*define it at the top of a module"):
                writer.enqueue(value)


def test_a_process_that_has_not_made_the_class_of_an_array_gets_it() -> None:
    program = (
        "import json, sys\n"
        "from ringcast import MessageQueue\n"
        "reader = MessageQueue.create_from_handle(json.loads(sys.argv[1]), 0)\n"
        "print([list(row) for row in reader.dequeue(30)])\n"
    )
    with MessageQueue(1) as queue:
        handle = json.dumps(queue.export_handle())
        queue.enqueue(((ctypes.c_uint16 * 2) * 2)((ctypes.c_uint16 * 2)(1, 2), (ctypes.c_uint16 * 2)(3, 4)))
        said = subprocess.run([sys.executable, "-c", program, handle], capture_output=True, text=True, check=True)
        assert said.stdout == "[[1, 2], [3, 4]]\n"
