"""What a PyTorch tensor is on the wire: a view of a span of its storage's memory.

A tensor is pickled as a view of a span: the bytes
between the first and the last one that any view of its storage in the same message touches. One storage is one buffer,
and on arrival one storage again, so views that shared memory at the sender share memory at the receiver.

Received memory is shared with other processes and read-only, which tensors do not know: they lie on a private copy, or
on a copy-on-write mapping for a reader that asked for zero copies. Other kinds of tensor (quantised, sparse, nested,
on devices, subclasses, with attributes) are pickled as PyTorch does it. Plain contiguous tensors that are a message by
themselves never come here: src/bindings/tensors.cpp.

PyTorch is imported only when one of these functions needs it.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any

Buffer = bytes | memoryview


class _Begins:
    """Where each span of a message begins. Pickled once, along with the first span."""

    __slots__ = ("placeholder",)

    def __init__(self) -> None:
        self.placeholder = PickleBuffer(bytearray())

    def __reduce__(self) -> tuple[Any, ...]:
        return _read_begins, (self.placeholder,)


class _Span:
    """The touched part of one storage. Pickled once for each message; the pickler's memo makes its views share it."""

    __slots__ = ("align", "begins", "end", "index", "placeholder", "start", "storage")

    def __init__(self, begins: _Begins, index: int, storage: Any, start: int, end: int, align: int) -> None:
        self.begins = begins
        self.index = index
        self.storage = storage
        self.start = start
        self.end = end
        self.align = align
        self.placeholder = PickleBuffer(bytearray())

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_span, (self.begins, self.index, self.placeholder)

    def begin(self) -> int:
        """Where the sent bytes begin. Views of several item sizes need a common multiple; sizes are powers of two."""
        return self.start - self.start % self.align

    def memory(self, torch: Any) -> memoryview:
        view = torch.empty(0, dtype=torch.uint8, device="cpu")
        view.set_(self.storage, self.begin(), (self.end - self.begin(),), (1,))
        return memoryview(view.numpy())


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
        return {self._torch.Tensor: self._reduce}

    def finish(self, buffers: list[PickleBuffer]) -> list[memoryview]:
        """The bytes of `buffers`, as the pickler gave them out, with those of the spans filled in."""
        placeholders = {id(span.placeholder): span for span in self._spans.values()}
        frames = []
        for buffer in buffers:
            span = placeholders.get(id(buffer))
            if span is not None:
                frames.append(span.memory(self._torch))
            elif buffer is self._begins.placeholder:
                frames.append(memoryview(array("q", [span.begin() for span in self._spans.values()])).cast("B"))
            else:
                frames.append(buffer.raw())
        if self._spans:
            self._spans, self._begins = {}, _Begins()
        return frames

    def _reduce(self, tensor: Any) -> Any:
        torch = self._torch
        if not _is_plain(torch, tensor):
            return tensor.__reduce_ex__(5)
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
            span = _Span(self._begins, len(self._spans), storage, start, end, item)
            self._spans[storage._cdata] = span
        else:
            span.start = min(span.start, start)
            span.end = max(span.end, end)
            span.align = max(span.align, item)
        return _rebuild, (span, dtype, start, size, stride, requires_grad)


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


def torch_is_imported() -> bool:
    """Else there can be no tensors. Another thread may be half-way through importing it."""
    return hasattr(sys.modules.get("torch"), "Tensor")


def _read_begins(buffer: Buffer) -> list[int]:
    return memoryview(buffer).cast("B").cast("q").tolist()


def _open_span(begins: list[int], index: int, buffer: Buffer) -> tuple[Any, int]:
    """The storage of a received span, and its first byte's offset in the sender's storage."""
    import torch

    if not memoryview(buffer).readonly:  # it is this process's alone, and may be changed
        return torch.frombuffer(buffer, dtype=torch.uint8).untyped_storage(), begins[index]
    import numpy

    # NumPy asks for huge pages for large arrays: the copy then takes a fraction of the page faults.
    copy = numpy.frombuffer(buffer, numpy.uint8).copy()
    return torch.from_numpy(copy).untyped_storage(), begins[index]


def _rebuild(
    span: tuple[Any, int], dtype: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], requires_grad: bool
) -> Any:
    import torch

    storage, begin = span
    tensor = torch.empty(0, dtype=dtype, device="cpu")
    tensor.set_(storage, (offset - begin) // tensor.element_size(), size, stride)
    return tensor.requires_grad_() if requires_grad else tensor


def _rebuild_empty(dtype: Any, size: tuple[int, ...], stride: tuple[int, ...], requires_grad: bool) -> Any:
    import torch

    tensor = torch.empty_strided(size, stride, dtype=dtype, device="cpu")
    return tensor.requires_grad_() if requires_grad else tensor
