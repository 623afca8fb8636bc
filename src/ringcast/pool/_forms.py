"""Typed layouts: which dimension of an engine's tensor is what, and what is stored of it.

Dimensions are named by letters, in the order of a tensor's shape:

    L  layers      B  blocks     N  tokens of a block     H  heads
    2  keys and values           C  a head's content, which lies without gaps

as in `2BNHC`, `B2HNC`, `BNC` (latent attention), `BL2NHC` (all layers in one tensor). With heads and without the `2` a
head's content is its key and then its value, `BHNC`, unless keys and values are tensors of their own, in pairs. In
which order dimensions lie in memory is told by strides and not by the letters: a view of `BHNC` may lie as LBNHC.

What is stored is the same for all: [2, layers, tokens, heads * size], or [layers, tokens, width] where there are no
heads. So engines that differ in their tensors only, and in the tokens of a block, read each other's chunks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ringcast._arguments import INT32_MAX, checked, refuse
from ringcast.errors import ArgumentError, ArgumentTypeError
from ringcast.pool._namespace import dtype_name

_LETTERS = "L2BNHC"
_IN_PAIRS = ("BNHC", "BHNC", "BNC")
_OF_A_LAYER = ("BNC", "BHNC", "BNHC", "2BNHC", "2BHNC", "B2NHC", "B2HNC")
_PACKED = ("LBHNC", "LBNHC", "LHBNC", "BLHNC", "BLNHC", "BHLNC")
_OF_ALL_LAYERS = (*_PACKED, "LBNC", "BLNC", "BL2NHC", "BL2HNC", "L2BNHC", "L2BHNC", "LB2NHC", "LB2HNC")


class View(NamedTuple):
    """A tensor's memory."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In bytes."""
    itemsize: int
    dtype: str
    writable: bool
    device: str
    tensor: Any


class Plane(NamedTuple):
    """One share of each chunk, as the core wants it (src/core/pool/copies.hpp), and the tensor that it lies in."""

    address: int
    block_stride: int
    token_stride: int
    head_stride: int
    heads: int
    row_bytes: int
    view: View


@dataclass(frozen=True)
class TokenForm:
    """What a token's bytes are. Tokens of equal forms are of equal bytes."""

    dtype: str
    layers: int
    heads: int
    """1 where the tensors have no dimension of heads."""
    size: int
    """Elements of a head's key or value; or of all that a token has in a layer."""
    parts: int
    """2: keys and values; 1: they are not told apart."""
    block_tokens: int = field(compare=False)
    dims: str = field(compare=False)

    def __str__(self) -> str:
        what = "keys and values" if self.parts == 2 else "one part"
        return (
            f"{what} of {self.layers} layers, {self.heads} heads of {self.size} {self.dtype}, "
            f"{self.block_tokens} tokens a block, as {self.dims}"
        )


def view_of(what: str, tensor: Any) -> View:
    """The memory of a tensor of torch or an array of NumPy."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(tensor, torch.Tensor):
        if tensor.layout != torch.strided or tensor.is_nested:
            raise refuse(what, "a strided tensor", "nested" if tensor.is_nested else tensor.layout)
        if tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
            raise ArgumentTypeError(
                f"{what} must be a tensor whose values are what lies in its memory, and this one's are scaled, or "
                "conjugated or negated when they are read: give it resolved (resolve_conj, resolve_neg, int_repr)"
            )
        if tensor.numel() != 0 and tensor.data_ptr() == 0:
            raise ArgumentTypeError(
                f"{what} must be a tensor that has memory, not a {type(tensor).__name__} of {tensor.device}"
            )
        size = tensor.element_size()
        strides = tuple(stride * size for stride in tensor.stride())
        return View(
            tensor.data_ptr(), tuple(tensor.shape), strides, size, dtype_name(tensor.dtype), True, str(tensor.device),
            tensor,
        )  # fmt: skip
    if numpy is not None and isinstance(tensor, numpy.ndarray):
        if tensor.dtype.hasobject:
            raise refuse(what, "an array of plain values", tensor.dtype)
        return View(
            tensor.ctypes.data, tensor.shape, tensor.strides, tensor.itemsize, dtype_name(tensor.dtype),
            tensor.flags.writeable, "cpu", tensor,
        )  # fmt: skip
    raise refuse(what, "a tensor of torch or an array of NumPy", tensor)


def overlaps(view: View) -> bool:
    """Whether two elements may have one place."""
    reach = view.itemsize
    for stride, extent in sorted(
        (abs(stride), extent) for stride, extent in zip(view.strides, view.shape, strict=True) if extent != 1
    ):
        if stride < reach:
            return True
        reach += stride * (extent - 1)
    return False


def tensors_of(kv: Any) -> tuple[list[list[View]], bool]:
    """Views of the engine's tensors: a list for each layer, of one or of the two of a pair; was it but one tensor?"""
    if isinstance(kv, str | bytes) or not (isinstance(kv, Sequence) or hasattr(kv, "shape")):
        raise refuse("kv", "a tensor, a sequence of them, or of pairs of keys and values", kv)
    if hasattr(kv, "shape"):
        return [[view_of("kv", kv)]], True
    if not kv:
        raise ArgumentError("kv must have a tensor at least")
    layers = []
    for i, layer in enumerate(kv):
        if isinstance(layer, tuple | list):
            if len(layer) != 2:
                raise refuse(f"kv[{i}]", "a tensor, or keys and values", layer)
            layers.append([view_of(f"kv[{i}][{half}]", tensor) for half, tensor in enumerate(layer)])
        else:
            layers.append([view_of(f"kv[{i}]", layer)])
    return layers, False


def form_of(kv: Any, dims: str | None, block_tokens: int | None) -> tuple[TokenForm, list[Plane], int]:
    """What the tensors hold, where, and in how many blocks. Raises ArgumentError, also where that cannot be told."""
    layers, alone = tensors_of(kv)
    views = [view for layer in layers for view in layer]
    first = views[0]
    paired = len(layers[0]) == 2
    for i, layer in enumerate(layers):
        for view in layer:
            if len(layer) != len(layers[0]) or (view.shape, view.dtype) != (first.shape, first.dtype):
                raise ArgumentError(f"all layers must be alike; layer 0 is {_said(first)}, and layer {i} {_said(view)}")
    if block_tokens is not None:
        block_tokens = checked("block_tokens", block_tokens)
    letters = _told(first, paired, alone, dims, block_tokens)
    extent = dict(zip(letters, first.shape, strict=True))
    packed = "H" in letters and "2" not in letters and not paired
    form = TokenForm(
        dtype=first.dtype,
        layers=extent.get("L", len(layers)),
        heads=extent.get("H", 1),
        size=extent["C"] // 2 if packed else extent["C"],
        parts=2 if packed or paired or "2" in letters else 1,
        block_tokens=checked("the tokens of a block", extent["N"], 1, INT32_MAX),
        dims=letters,
    )
    planes = []
    for part in range(form.parts):
        for number in range(form.layers):
            mine = layers[0 if "L" in letters else number]
            view = mine[part] if paired else mine[0]
            stride = dict(zip(letters, view.strides, strict=True))
            if overlaps(view) or (extent["C"] > 1 and stride["C"] != view.itemsize):
                raise ArgumentError(
                    f"a head's content must lie without gaps, and nothing twice; kv has {_said(view)} with strides of "
                    f"{view.strides} bytes as {letters}"
                )
            at = view.address + (number * stride["L"] if "L" in letters else 0)
            if packed:
                at += part * form.size * view.itemsize
            elif "2" in letters:
                at += part * stride["2"]
            planes.append(
                Plane(at, stride["B"], stride["N"], stride.get("H", 0), form.heads, form.size * view.itemsize, view)
            )
    return form, planes, extent["B"]


def _told(view: View, paired: bool, alone: bool, dims: str | None, block_tokens: int | None) -> str:
    """The letters of the dimensions, as they were told or as far as they can be seen."""

    def fits(letters: str) -> bool:
        extent = dict(zip(letters, view.shape, strict=False))
        packed = "H" in letters and "2" not in letters and not paired
        return (
            len(letters) == len(view.shape)
            and extent.get("2", 2) == 2
            and block_tokens in (None, extent["N"])
            and not (packed and extent["C"] % 2)
            and all(view.shape)
        )

    if dims is not None:
        if not isinstance(dims, str):
            raise refuse("dims", "a str like '2BNHC', or None", dims)
        known = set(dims) <= set(_LETTERS) and len(set(dims)) == len(dims) and set("BNC") <= set(dims)
        if not known or dims[-1] != "C" or (paired and "2" in dims) or ("L" in dims and not alone):
            raise ArgumentError(
                f"dims is {dims!r}; it must name each dimension once, by letters of {_LETTERS}, with B, N and, as the "
                "last one, C; `2` where keys and values are no pairs, and L where all layers are one tensor"
            )
        if not fits(dims):
            raise ArgumentError(f"kv has {_said(view)}, which is not {dims}{_of_tokens(block_tokens)}")
        return dims
    known_forms = _IN_PAIRS if paired else _OF_A_LAYER + (_OF_ALL_LAYERS if alone else ())
    fitting = [letters for letters in known_forms if fits(letters)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise ArgumentError(
            f"kv has {_said(view)}, which is none of the known layouts{_of_tokens(block_tokens)}: "
            f"{', '.join(known_forms)}; copy it as opaque pages (KVLayout.pages)"
        )
    by_tokens = {view.shape[letters.index("N")] for letters in fitting}
    advice = "say block_tokens= or dims=" if block_tokens is None and len(by_tokens) > 1 else "say dims="
    raise ArgumentError(
        f"kv has {_said(view)}{_of_tokens(block_tokens)}, which may be {' or '.join(fitting)}: {advice}, since neither "
        "shape nor strides tell"
    )


def _of_tokens(block_tokens: int | None) -> str:
    return "" if block_tokens is None else f" with {block_tokens} tokens a block"


def _said(view: View) -> str:
    return f"{list(view.shape)} {view.dtype}"
