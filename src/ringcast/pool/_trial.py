"""A layout is tried when it is registered: what is gathered is what the tensors hold, and scattering it puts it back.

Tried on the engine's own blocks, the first one and the last, which are as before afterwards. What the copies should
move is read by plain indexing, which knows nothing of rows and strides.
"""

from __future__ import annotations

import ctypes
from typing import Any

from ringcast import _core
from ringcast._extras import needed
from ringcast.errors import LayoutError
from ringcast.pool._accelerators import is_device
from ringcast.pool._copies import Rows, rows_of
from ringcast.pool._forms import TokenForm
from ringcast.pool._layouts import KVLayout


def try_layout(layout: KVLayout) -> None:
    """Raises LayoutError where a copy and the tensors disagree. A device's, and what is read-only, is not tried."""
    alone = len(layout.tensors) == 1 and not isinstance(layout.tensors[0], tuple | list)
    kv = layout.tensors[0] if alone else layout.tensors
    rows = rows_of(kv, layout)
    if any(is_device(plane.view.device) or not plane.view.writable for plane in rows.planes):
        return
    plan = _core.CopyPlan([plane[:6] for plane in rows.planes], rows.n_blocks, rows.block_tokens, rows.block_tokens)
    for block in {0, rows.n_blocks - 1}:
        _try_block(layout, kv, rows, plan, block)


def _try_block(layout: KVLayout, kv: Any, rows: Rows, plan: _core.CopyPlan, block: int) -> None:
    def plainly() -> bytes:
        return _pages(rows, block) if layout.form is None else _tokens(kv, layout.form, block)

    def fail(what: str) -> LayoutError:
        return LayoutError(f"{what} block {block} is not what plain indexing finds there; the layout is {layout}")

    before = plainly()
    room = ctypes.create_string_buffer(plan.chunk_bytes)
    at = ctypes.addressof(room)
    _core.copy_block(plan, block, at, gathers=True)
    if room.raw != before:
        raise fail("what was gathered from")
    other = bytes(255 - byte for byte in before)
    try:
        ctypes.memmove(at, other, len(other))
        _core.copy_block(plan, block, at, gathers=False)
        if plainly() != other:
            raise fail("what was scattered to")
    finally:
        ctypes.memmove(at, before, len(before))
        _core.copy_block(plan, block, at, gathers=False)
    if plainly() != before:
        raise fail("what was put back to")


def _pages(rows: Rows, block: int) -> bytes:
    return b"".join(
        ctypes.string_at(plane.view.address + block * plane.block_stride, plane.row_bytes) for plane in rows.planes
    )


def _tokens(kv: Any, form: TokenForm, block: int) -> bytes:
    """[parts, layers, tokens, heads * size] of that block."""
    numpy = needed("numpy", "trying a layout")
    layers = [kv] if hasattr(kv, "shape") else list(kv)
    taken = []  # of each layer, or of the one tensor: [2, N, H, C] or [L, 2, N, H, C]
    for layer in layers:
        parts = layer if isinstance(layer, tuple | list) else [layer]
        taken.append([_of_block(numpy, tensor, form.dims, block) for tensor in parts])
    whole = numpy.array(taken)  # [tensors, of a pair, L, 2, N, H, C, bytes]
    whole = numpy.concatenate(numpy.moveaxis(whole, 1, 2), axis=0)  # [layers, of a pair, 2, N, H, C, bytes]
    whole = whole.reshape(form.layers, -1, *whole.shape[3:])  # [layers, parts, N, H, C, bytes]
    if whole.shape[1] != form.parts:  # keys and values behind one another
        halves = whole.reshape(*whole.shape[:4], 2, form.size, whole.shape[-1])
        whole = numpy.moveaxis(halves, 4, 1).reshape(form.layers, 2, *whole.shape[2:4], form.size, whole.shape[-1])
    return bytes(numpy.ascontiguousarray(numpy.moveaxis(whole, 1, 0)).tobytes())


def _of_block(numpy: Any, tensor: Any, dims: str, block: int) -> Any:
    """[L, 2, N, H, C, bytes] of one block."""
    at = tuple(block if letter == "B" else slice(None) for letter in dims)
    part = tensor[at]
    if not isinstance(part, numpy.ndarray):  # torch, whose types NumPy does not all know
        torch = needed("torch", "trying a layout")
        part = part.detach().contiguous().view(torch.uint8).numpy()
        size = tensor.element_size()
    else:
        part = numpy.ascontiguousarray(part).view(numpy.uint8)
        size = tensor.itemsize
    part = part.reshape(*part.shape[:-1], part.shape[-1] // size, size)
    letters = [*dims.replace("B", ""), "bytes"]
    order = [letters.index(letter) for letter in (*"L2NHC", "bytes") if letter in letters]
    part = part.transpose(order)
    for axis, letter in enumerate("L2NHC"):
        if letter not in letters:
            part = numpy.expand_dims(part, axis)
    return part
