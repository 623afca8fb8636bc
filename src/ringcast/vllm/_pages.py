"""What a page of an engine's tensor is: a block's share of it, if that is one run of memory.

It is asked of shape and strides: a tensor in which blocks are woven into each other may be without gaps, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ringcast.errors import LayoutError


def page_bytes(what: str, shape: Sequence[int], strides: Sequence[int], itemsize: int, n_blocks: int) -> int:
    """The bytes of a block, whose number is the first dimension's: of several rows of it, where kernels have smaller
    blocks than the engine.

    Args:
        strides: in elements.

    Raises LayoutError.

    >>> page_bytes("layer 0", shape=(8, 4, 16, 128), strides=(8192, 2048, 128, 1), itemsize=2, n_blocks=8)
    16384
    """
    rows = shape[0] // n_blocks if shape and n_blocks and shape[0] % n_blocks == 0 else 0
    row = prod(shape[1:])
    reach = 1 + sum((extent - 1) * stride for extent, stride in zip(shape[1:], strides[1:], strict=True))
    one_run = reach == row and strides[0] >= row and (rows == 1 or strides[0] == row)
    if not rows or not row or not one_run:
        raise LayoutError(
            f"the cache of {what} has the shape {list(shape)} with strides of {list(strides)}, in which {n_blocks} "
            "blocks are no runs of memory, one for each; a ringcast pool needs a layout with blocks outside of heads "
            "and tokens, and keys and values side by side"
        )
    return rows * row * itemsize


def form_of(shape: Sequence[int], strides: Sequence[int], n_blocks: int) -> tuple[int, list[int], list[int]]:
    """How a page's elements lie in it, however many there are: rows, extents, strides."""
    return shape[0] // n_blocks, list(shape[1:]), list(strides[1:])
