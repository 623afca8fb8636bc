"""What the bytes of a stored chunk are: pages of an engine's tensors, opaque, back to back.

Engines pack keys and values in ways that change with versions and processors, so a page is copied as it is and only
whole pages are. A chunk of a model in N shards is N parts of one size, one of each rank; a part is `pages_per_chunk`
pages of the first tensor, then as many of the second, and so on.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ringcast._arguments import INT32_MAX, INT64_MAX, checked, refuse
from ringcast.errors import ArgumentError

_DOMAIN = b"ringcast pages 1"
_MOST_BYTES = 1 << 40
_MOST_ISA_BYTES = 64


@dataclass(frozen=True)
class KVLayout:
    """How a chunk is made of pages; made by `pages`, by who has the tensors, or by `sizes`, by who has not.

    The two are equal, and equal in fingerprint, where the bytes are laid out alike.

    >>> layout = KVLayout.sizes(page_bytes=[4096, 4096], pages_per_chunk=2, shards=2)
    >>> layout.part_bytes, layout.chunk_bytes
    (16384, 32768)
    >>> layout.bounds(part=1)
    ((16384, 8192), (24576, 8192))
    """

    page_bytes: tuple[int, ...]
    """Of each tensor's pages."""
    pages_per_chunk: int
    shards: int
    cpu_isa: str | None
    """The instruction set that the pages are packed for, on a CPU whose kernels do so."""
    tensors: tuple[Any, ...] = field(repr=False, compare=False)
    """The tensors themselves; none in a layout of sizes."""
    n_pages: int | None = field(compare=False)
    """Pages in each tensor; None in a layout of sizes."""

    @classmethod
    def pages(
        cls,
        tensors: Sequence[tuple[Any, int]],
        pages_per_chunk: int = 1,
        shards: int = 1,
        cpu_isa: str | None = None,
    ) -> KVLayout:
        """From an engine's tensors, of torch or NumPy, each with the bytes of one of its pages.

        Their memory must be without gaps, in whatever order the dimensions lie, and all must have the same number of
        pages: block `i` of the engine is page `i` of each.

        >>> import numpy
        >>> keys, values = numpy.zeros((10, 64), "u1"), numpy.zeros((10, 64), "u1")
        >>> KVLayout.pages([(keys, 64), (values, 64)]) == KVLayout.sizes([64, 64])
        True
        """
        if not isinstance(tensors, Iterable):
            raise refuse("tensors", "a list of (tensor, page_bytes)", tensors)
        pairs = [_pair(i, pair) for i, pair in enumerate(tensors)]
        counts = [_page_count(i, tensor, size) for i, (tensor, size) in enumerate(pairs)]
        if len(set(counts)) > 1:
            raise ArgumentError(f"all tensors must have the same number of pages, not {counts}")
        kept = tuple(tensor for tensor, _ in pairs)
        return cls._made(
            [size for _, size in pairs], pages_per_chunk, shards, cpu_isa, kept, counts[0] if counts else 0
        )

    @classmethod
    def sizes(
        cls, page_bytes: Sequence[int], pages_per_chunk: int = 1, shards: int = 1, cpu_isa: str | None = None
    ) -> KVLayout:
        """From the bytes of a page of each tensor: what a scheduler knows.

        >>> KVLayout.sizes([4096], pages_per_chunk=16).chunk_bytes
        65536
        """
        if isinstance(page_bytes, str | bytes) or not isinstance(page_bytes, Iterable):
            raise refuse("page_bytes", "a list of sizes, one for each tensor", page_bytes)
        return cls._made(list(page_bytes), pages_per_chunk, shards, cpu_isa, (), None)

    @classmethod
    def _made(
        cls,
        page_bytes: list[Any],
        pages_per_chunk: Any,
        shards: Any,
        cpu_isa: Any,
        tensors: tuple[Any, ...],
        n_pages: int | None,
    ) -> KVLayout:
        sizes = tuple(checked(f"page_bytes[{i}]", size, 1, INT64_MAX) for i, size in enumerate(page_bytes))
        if not sizes:
            raise ArgumentError("a layout needs a tensor at least")
        if cpu_isa is not None and not isinstance(cpu_isa, str):
            raise refuse("cpu_isa", "a str, or None", cpu_isa)
        if cpu_isa is not None and not 1 <= len(cpu_isa.encode()) <= _MOST_ISA_BYTES:
            raise ArgumentError(f"cpu_isa must have from 1 to {_MOST_ISA_BYTES} bytes, not {len(cpu_isa.encode())}")
        made = cls(
            sizes,
            checked("pages_per_chunk", pages_per_chunk, 1, INT32_MAX),
            checked("shards", shards, 1, INT32_MAX),
            cpu_isa,
            tensors,
            n_pages,
        )
        if made.chunk_bytes > _MOST_BYTES:
            raise ArgumentError(f"a chunk would have {made.chunk_bytes} bytes; at most {_MOST_BYTES} are possible")
        return made

    @property
    def part_bytes(self) -> int:
        """What one rank stores of a chunk."""
        return self.pages_per_chunk * sum(self.page_bytes)

    @property
    def chunk_bytes(self) -> int:
        """What all ranks store of a chunk."""
        return self.shards * self.part_bytes

    def bounds(self, part: int = 0) -> tuple[tuple[int, int], ...]:
        """Where in a chunk each tensor's pages of that rank's part lie: (offset, bytes), back to back.

        >>> KVLayout.sizes([4096, 128]).bounds()
        ((0, 4096), (4096, 128))
        """
        at = checked("part", part, 0, self.shards - 1) * self.part_bytes
        found = []
        for size in self.page_bytes:
            found.append((at, size * self.pages_per_chunk))
            at += size * self.pages_per_chunk
        return tuple(found)

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits, different wherever the bytes are: what a `Namespace` wants as its `layout`."""
        numbers = (self.pages_per_chunk, self.shards, len(self.page_bytes), *self.page_bytes)
        isa = b"" if self.cpu_isa is None else self.cpu_isa.encode()
        return hashlib.sha256(_DOMAIN + b"".join(n.to_bytes(8, "little") for n in numbers) + isa).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy elsewhere has no tensors."""
        return KVLayout.sizes, (self.page_bytes, self.pages_per_chunk, self.shards, self.cpu_isa)


def _pair(index: int, pair: Any) -> tuple[Any, int]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise refuse(f"tensors[{index}]", "(tensor, page_bytes)", pair)
    return pair[0], checked(f"page_bytes of tensors[{index}]", pair[1], 1, INT64_MAX)


def _page_count(index: int, tensor: Any, page_bytes: int) -> int:
    """How many pages a tensor has."""
    what = f"tensors[{index}]"
    total, dense = _extent(what, tensor)
    if not dense:
        raise ArgumentError(f"{what} has gaps in its memory, so that it is no row of pages; give the whole tensor")
    if total == 0 or total % page_bytes != 0:
        raise ArgumentError(f"{what} has {total} bytes, which are no whole pages of {page_bytes}")
    return total // page_bytes


def _extent(what: str, tensor: Any) -> tuple[int, bool]:
    """A tensor's bytes, and whether its elements fill them without gaps."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(tensor, torch.Tensor):
        if tensor.layout != torch.strided:
            raise refuse(what, "a strided tensor", tensor.layout)
        return tensor.numel() * tensor.element_size(), _is_dense(tensor.shape, tensor.stride(), 1)
    if numpy is not None and isinstance(tensor, numpy.ndarray):
        return tensor.nbytes, _is_dense(tensor.shape, tensor.strides, tensor.itemsize)
    raise refuse(what, "a tensor of torch or an array of NumPy", tensor)


def _is_dense(shape: Sequence[int], strides: Sequence[int], unit: int) -> bool:
    """Whether elements lie without gaps and overlaps, in whatever order the dimensions are."""
    if 0 in shape:
        return True
    for stride, extent in sorted(
        (stride, extent) for stride, extent in zip(strides, shape, strict=True) if extent != 1
    ):
        if stride != unit:
            return False
        unit *= extent
    return True
