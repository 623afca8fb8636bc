"""What a PyTorch tensor is on the wire: a view of a span of its storage's memory.

A tensor is pickled as a view of a span: the bytes that any view of its storage in the same message touches, without
those between views that lie apart. One storage is one buffer, and on arrival one storage again, so views that shared
memory at the sender share memory at the receiver. Where gaps inside of views are the larger part (a column of a large
matrix) and no two elements are the same memory, each view is sent as a contiguous copy: its strides on arrival are
those of `contiguous()`, except that expanded axes stay expanded. Views that share elements, as well as gaps, keep their
whole span.

Received memory is shared with other processes and read-only, which tensors do not know: they lie on a private copy, or
on a copy-on-write mapping for a reader that asked for zero copies. Sparse tensors: sparse.py. Other kinds (quantised,
nested, on devices, subclasses, with attributes) are pickled as PyTorch does it. Plain contiguous tensors that are a
message by themselves never come here: src/bindings/tensors.cpp.

PyTorch is imported only when one of these functions needs it.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any

from ringcast._extras import needed
from ringcast.codec.sparse import reduce_sparse

Buffer = bytes | memoryview

_WHAT = "a message with tensors in it"

_SLACK = 65_536
"""Bytes of gaps that are sent rather than copying the elements between them."""

View = tuple[int, int, int, tuple[int, ...], tuple[int, ...]]
"""The first byte, the one behind the last, the item's bytes, the size and the strides."""


class _Lent:
    """The bytes of a tensor as NumPy borrows them. `Tensor.numpy()` would forbid for ever to resize its storage."""

    __slots__ = ("__array_interface__", "_address", "_tensor")

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor
        self._address = tensor.data_ptr()
        self.__array_interface__ = {"data": (self._address, False), "shape": (len(tensor),), "typestr": "|u1"}

    def is_there(self) -> bool:
        """Is the memory still the tensor's? Nothing keeps PyTorch from moving what a storage holds."""
        tensor = self._tensor
        end = tensor.storage_offset() + len(tensor)
        return bool(tensor.data_ptr() == self._address and end <= tensor.untyped_storage().nbytes())


def _buffer_of(tensor: Any) -> Any:
    """Of a tensor of bytes."""
    return needed("numpy", _WHAT).asarray(_Lent(tensor))


def are_there(frames: list[Any]) -> bool:
    """Is the memory of all tensors in these frames where it was when they were made?"""
    lent = (getattr(frame, "base", None) for frame in frames)
    return all(each.is_there() for each in lent if isinstance(each, _Lent))


class _Begins:
    """Where each view of each span of a message begins. Pickled once, along with the first span."""

    __slots__ = ("placeholder",)

    def __init__(self) -> None:
        self.placeholder = PickleBuffer(bytearray())

    def __reduce__(self) -> tuple[Any, ...]:
        return _read_begins, (self.placeholder,)


class _Span:
    """The touched parts of one storage. Pickled once for each message; the pickler's memo makes its views share it."""

    __slots__ = ("begins", "index", "placeholder", "storage", "views")

    def __init__(self, begins: _Begins, index: int, storage: Any) -> None:
        self.begins = begins
        self.index = index
        self.storage = storage
        self.views: dict[View, int] = {}
        self.placeholder = PickleBuffer(bytearray())

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_span, (self.begins, self.index, self.placeholder)

    def pack(self, torch: Any) -> tuple[Any, list[int]]:
        """The bytes to send, and where each view begins in them: the complement of that if it is a copy."""
        views = list(self.views)
        if len(views) == 1 and views[0][1] - views[0][0] <= _SLACK:
            return _buffer_of(self._bytes(torch, *views[0][:2])), [0]
        places = [0] * len(views)
        parts: list[Any] = []
        length = 0
        for group in _groups(views):
            # Views of several item sizes need a common multiple; sizes are powers of two.
            align = max(views[i][2] for i in group)
            start, end = min(views[i][0] for i in group), max(views[i][1] for i in group)
            start -= start % align
            if self._is_gapped(torch, [views[i] for i in group], end - start):
                for i in group:
                    copy = self._elements(torch, views[i])
                    places[i] = ~length
                    parts.append((length, copy))
                    length = _round_up(length + copy.numel())
            else:
                for i in group:
                    places[i] = length + views[i][0] - start
                parts.append((length, self._bytes(torch, start, end)))
                length = _round_up(length + end - start)
        if len(parts) == 1:
            return _buffer_of(parts[0][1]), places
        joined = torch.empty(length, dtype=torch.uint8, device="cpu")
        for at, part in parts:
            joined[at : at + part.numel()].copy_(part)
        return _buffer_of(joined), places

    def _bytes(self, torch: Any, start: int, end: int) -> Any:
        return torch.empty(0, dtype=torch.uint8, device="cpu").set_(self.storage, start, (end - start,), (1,))

    def _elements(self, torch: Any, view: View) -> Any:
        start, _, item, expanded, stride = view
        size = _unexpanded(expanded, stride)
        as_bytes = torch.empty(0, dtype=torch.uint8, device="cpu")
        as_bytes.set_(self.storage, start, (*size, item), (*(step * item for step in stride), 1))
        return as_bytes.contiguous().reshape(-1)

    def _is_gapped(self, torch: Any, views: list[View], span: int) -> bool:
        """Are most bytes of the span in no view, and is no byte in two elements, which copies would take apart?"""
        sizes = [math.prod(_unexpanded(size, stride)) * item for _, _, item, size, stride in views]
        if span <= 2 * sum(sizes) + _SLACK:
            return False
        if len(views) == 1 and _is_injective(*views[0][3:]):
            return True
        unit = min(view[2] for view in views)
        origin = min(view[0] for view in views)
        touched = torch.zeros(span // unit + 1, dtype=torch.bool, device="cpu")
        for start, _, item, expanded, stride in views:
            size = _unexpanded(expanded, stride)
            steps = (*(step * item // unit for step in stride), 1)
            touched.as_strided((*size, item // unit), steps, (start - origin) // unit).fill_(True)
        return bool(int(touched.count_nonzero()) * unit == sum(sizes))


def _groups(views: list[View]) -> list[list[int]]:
    """The indices of views that lie within each other's bounds, with more than some bytes between the groups."""
    if len(views) == 1:
        return [[0]]
    groups: list[list[int]] = []
    reached = 0
    for i in sorted(range(len(views)), key=lambda i: views[i][0]):
        start, end = views[i][:2]
        if groups and start <= reached + _SLACK:
            groups[-1].append(i)
        else:
            groups.append([i])
        reached = max(reached, end)
    return groups


def _unexpanded(size: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n if step else 1 for n, step in zip(size, stride, strict=True))


def _is_injective(size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Is it plain that no two elements are the same memory, expanded axes aside? Told without a map of the span."""
    reached = 0
    for step, n in sorted(zip(stride, _unexpanded(size, stride), strict=True)):
        if n > 1 and step <= reached:
            return False
        reached += (n - 1) * step
    return True


def _round_up(length: int) -> int:
    return (length + 63) & ~63


class TensorPacker:
    """Packs the tensors of one message after the other.

    Pickle with `table` in the dispatch table, then `finish` the buffers, if there are any.

    How far a span reaches is known only after its last view, so spans are pickled with placeholders for their bytes.
    No reference leads back to the packer, so that the tensors are free as soon as the frames are.
    """

    def __init__(self) -> None:
        import torch

        self._torch: Any = torch
        self._spans: dict[int, _Span] = {}  # by storage; each keeps its storage alive, so that no address is used twice
        self._begins = _Begins()

    @property
    def table(self) -> dict[type, Callable[[Any], Any]]:
        """For the pickler's dispatch table."""
        # A Parameter's own reduction is its `data`, an exact Tensor, with its attributes: there is nothing to add.
        return {self._torch.Tensor: self._reduce, self._torch.UntypedStorage: self._reduce_storage}

    def finish(self, buffers: list[PickleBuffer]) -> list[Any]:
        """The bytes of `buffers`, as the pickler gave them out, with those of the spans filled in."""
        packed = {id(span.placeholder): span.pack(self._torch) for span in self._spans.values()}
        frames = []
        for buffer in buffers:
            span = packed.get(id(buffer))
            if span is not None:
                frames.append(span[0])
            elif buffer is self._begins.placeholder:
                table = array("q")
                for _, places in packed.values():
                    table.append(len(places))
                    table.extend(places)
                frames.append(memoryview(table).cast("B"))
            else:
                frames.append(buffer.raw())
        if self._spans:
            self._spans, self._begins = {}, _Begins()
        return frames

    def _reduce_storage(self, storage: Any) -> Any:
        """PyTorch's own pickles of such a storage cannot be read."""
        if storage.device.type != "cpu":
            return storage.__reduce_ex__(5)
        tensor = self._torch.empty(0, dtype=self._torch.uint8, device="cpu")
        return _storage_of, (tensor.set_(storage, 0, (storage.nbytes(),), (1,)),)

    def _reduce(self, tensor: Any) -> Any:
        torch = self._torch
        if not _is_plain(torch, tensor):
            return reduce_sparse(torch, tensor) or _without_spare_memory(torch, tensor).__reduce_ex__(5)
        size, dtype, requires_grad = tuple(tensor.shape), tensor.dtype, tensor.requires_grad
        if tensor.numel() == 0:
            return _rebuild_empty, (dtype, size, tensor.stride(), requires_grad)
        if tensor.is_conj() or tensor.is_neg():
            tensor = tensor.detach().resolve_conj().resolve_neg()
        stride, item = tensor.stride(), tensor.element_size()
        start = tensor.storage_offset() * item
        end = start + item + item * sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        try:
            storage = tensor.untyped_storage()
            inside = end <= storage.nbytes()  # not so after the storage was resized under its tensors
        except RuntimeError:  # a wrapper of a function transform, which has no memory of its own
            inside = False
        if not inside:
            return tensor.__reduce_ex__(5)
        span = self._spans.get(storage._cdata)
        if span is None:
            span = _Span(self._begins, len(self._spans), storage)
            self._spans[storage._cdata] = span
        number = span.views.setdefault((start, end, item, size, stride), len(span.views))
        return _rebuild, (span, number, dtype, size, stride, requires_grad)


def _is_plain(torch: Any, tensor: Any) -> bool:
    """Is it described by a dtype, a shape, strides and memory of this process alone?"""
    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_nested
        and not tensor.__dict__
        and not tensor._backward_hooks
        and not (hasattr(tensor, "has_names") and tensor.has_names())  # named dimensions: gone from later releases
        and not tensor._is_zerotensor()
    )


def _without_spare_memory(torch: Any, tensor: Any) -> Any:
    """The tensor, or a copy where PyTorch, which pickles whole storages, would send much more than its elements."""
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_nested or tensor._backward_hooks:
        return tensor
    try:
        whole = tensor.untyped_storage().nbytes()
    except RuntimeError:  # without memory of its own
        return tensor
    if whole <= 2 * tensor.numel() * tensor.element_size() + _SLACK:
        return tensor
    copy = tensor.detach().clone().requires_grad_(tensor.requires_grad)
    copy.__dict__.update(tensor.__dict__)
    return copy


def torch_is_imported() -> bool:
    """Else there can be no tensors. Another thread may be half-way through importing it."""
    return hasattr(sys.modules.get("torch"), "Tensor")


def _read_begins(buffer: Buffer) -> list[list[int]]:
    numbers = memoryview(buffer).cast("B").cast("q").tolist()
    begins, at = [], 0
    while at < len(numbers):
        count = numbers[at]
        if count < 1:
            raise ValueError(f"a table of tensors has a span of {count} views")
        begins.append(numbers[at + 1 : at + 1 + count])
        at += 1 + count
    return begins


def _open_span(begins: list[list[int]], index: int, buffer: Buffer) -> tuple[Any, list[int]]:
    """The storage of a received span, and where each of its views begins."""
    import torch

    if not memoryview(buffer).readonly:  # it is this process's alone, and may be changed
        return torch.frombuffer(buffer, dtype=torch.uint8).untyped_storage(), begins[index]
    numpy: Any = needed("numpy", _WHAT)
    # NumPy asks for huge pages for large arrays: the copy then takes a fraction of the page faults.
    copy = numpy.frombuffer(buffer, numpy.uint8).copy()
    return torch.from_numpy(copy).untyped_storage(), begins[index]


def _rebuild(
    span: tuple[Any, list[int]],
    number: int,
    dtype: Any,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
) -> Any:
    import torch

    storage, places = span
    begin = places[number]
    if begin < 0:
        begin, stride = ~begin, _strides_of_copy(size, stride)
    tensor = torch.empty(0, dtype=dtype, device="cpu")
    tensor.set_(storage, begin // tensor.element_size(), size, stride)
    return tensor.requires_grad_() if requires_grad else tensor


def _storage_of(tensor: Any) -> Any:
    return tensor.untyped_storage()


def _strides_of_copy(size: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    made, step = [], 1
    for n, old in zip(reversed(size), reversed(stride), strict=True):
        made.append(step if old else 0)
        step *= n if old else 1
    return tuple(reversed(made))


def _rebuild_empty(dtype: Any, size: tuple[int, ...], stride: tuple[int, ...], requires_grad: bool) -> Any:
    import torch

    tensor = torch.empty_strided(size, stride, dtype=dtype, device="cpu")
    return tensor.requires_grad_() if requires_grad else tensor
