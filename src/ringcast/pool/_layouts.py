"""What the bytes of a stored chunk are: pages of an engine's tensors, opaque, back to back; or tokens, of known form.

Engines pack keys and values in ways that change with versions and processors, so a page is copied as it is and only
whole pages are. A chunk of a model in N shards is N parts of one size, one of each rank; a part is `pages_per_chunk`
pages of the first tensor, then as many of the second, and so on. Of known form, a page is a token's share of a layer's
keys or values (_forms.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ringcast._arguments import INT32_MAX, INT64_MAX, checked, refuse, text
from ringcast.errors import ArgumentError
from ringcast.pool._forms import Plane, TokenForm, View, form_of, overlaps, view_of

_DOMAIN = b"ringcast pages 1"
_TOKENS_DOMAIN = b"ringcast tokens 1"
_MOST_BYTES = 1 << 40
_MOST_ISA_BYTES = 64
_MOST_SAID = 4


@dataclass(frozen=True)
class KVLayout:
    """How a chunk is made of pages; made by `pages`, by who has the tensors, or by `sizes`, by who has not.

    The two are equal, and equal in fingerprint, where the bytes are laid out alike. `tokens` makes one of tensors whose
    form is known, which may be copied in part.

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
    """Pages in each tensor, or blocks of known form; None in a layout of sizes."""
    form: TokenForm | None
    """What a token is; None: pages are opaque."""
    _rows: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Where its tensors' rows lie, once a copy has looked (_copies.py)."""

    @classmethod
    def pages(
        cls,
        tensors: Sequence[tuple[Any, int]],
        pages_per_chunk: int = 1,
        shards: int = 1,
        cpu_isa: str | None = None,
    ) -> KVLayout:
        """From an engine's tensors, of torch or NumPy, each with the bytes of one of its pages.

        A page's memory must be without gaps, in whatever order the dimensions lie; between pages there may be some. All
        must have the same number of pages: block `i` of the engine is page `i` of each.

        >>> import numpy
        >>> keys, values = numpy.zeros((10, 64), "u1"), numpy.zeros((10, 64), "u1")
        >>> KVLayout.pages([(keys, 64), (values, 64)]) == KVLayout.sizes([64, 64])
        True
        """
        if not isinstance(tensors, Iterable):
            raise refuse("tensors", "a list of (tensor, page_bytes)", tensors)
        pairs = [_pair(i, pair) for i, pair in enumerate(tensors)]
        kept = tuple(tensor for tensor, _ in pairs)
        sizes = [size for _, size in pairs]
        _, n_pages = page_planes([view_of(f"tensors[{i}]", tensor) for i, tensor in enumerate(kept)], sizes)
        return cls._made(sizes, pages_per_chunk, shards, cpu_isa, kept, n_pages)

    @classmethod
    def tokens(
        cls,
        kv: Any,
        chunk_tokens: int,
        dims: str | None = None,
        block_tokens: int | None = None,
        shards: int = 1,
    ) -> KVLayout:
        """From an engine's tensors of known form; a chunk is then [2, layers, tokens, heads * size], whatever they are.

        So engines whose tensors differ read each other's chunks, blocks may be filled in part, and `scatter_paged` can
        leave out tokens that are there already. Who knows no processor's packing of them copies pages.

        Args:
            kv: one tensor, one for each layer, or (keys, values) for each layer.
            dims: what the dimensions are, such as "2BNHC" (docs/design.md); None: as far as the shape tells.
            block_tokens: tokens of a block, which a shape may not tell from heads.

        Raises ArgumentError, also where the shape fits several forms; it names them, and what is to be said.

        >>> import numpy
        >>> kv = [numpy.zeros((2, 10, 16, 4, 8), "f2") for layer in range(3)]
        >>> layout = KVLayout.tokens(kv, chunk_tokens=32, block_tokens=16)
        >>> layout.form.dims, layout.chunk_bytes == 2 * 3 * 32 * 4 * 8 * 2
        ('2BNHC', True)
        """
        form, planes, n_blocks = form_of(kv, dims, block_tokens)
        kept = (kv,) if hasattr(kv, "shape") else tuple(kv)
        sizes = [plane.heads * plane.row_bytes for plane in planes]
        return cls._made(sizes, chunk_tokens, shards, None, kept, n_blocks, form)

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
        form: TokenForm | None = None,
    ) -> KVLayout:
        sizes = tuple(checked(f"page_bytes[{i}]", size, 1, INT64_MAX) for i, size in enumerate(page_bytes))
        if not sizes:
            raise ArgumentError("a layout needs a tensor at least")
        if cpu_isa is not None and not 1 <= len(text("cpu_isa", cpu_isa, "a str, or None").encode()) <= _MOST_ISA_BYTES:
            raise ArgumentError(f"cpu_isa must have from 1 to {_MOST_ISA_BYTES} bytes, not {len(cpu_isa.encode())}")
        made = cls(
            sizes,
            checked("pages_per_chunk" if form is None else "chunk_tokens", pages_per_chunk, 1, INT32_MAX),
            checked("shards", shards, 1, INT32_MAX),
            cpu_isa,
            tensors,
            n_pages,
            form,
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
        numbers: tuple[int, ...] = (self.pages_per_chunk, self.shards, len(self.page_bytes), *self.page_bytes)
        if self.form is not None:
            numbers += (self.form.parts, self.form.layers, self.form.heads, self.form.size)
            said = b"".join(n.to_bytes(8, "little") for n in numbers) + self.form.dtype.encode()
            return hashlib.sha256(_TOKENS_DOMAIN + said).hexdigest()
        isa = b"" if self.cpu_isa is None else self.cpu_isa.encode()
        return hashlib.sha256(_DOMAIN + b"".join(n.to_bytes(8, "little") for n in numbers) + isa).hexdigest()

    def __str__(self) -> str:
        if self.form is not None:
            return f"{self.pages_per_chunk} tokens a chunk of {self.form}"
        sizes = "+".join(map(str, self.page_bytes[:_MOST_SAID])) + ("+..." if len(self.page_bytes) > _MOST_SAID else "")
        return f"{self.pages_per_chunk} opaque pages a chunk of {len(self.page_bytes)} tensors, of {sizes} bytes"

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy elsewhere has no tensors."""
        fields = (self.page_bytes, self.pages_per_chunk, self.shards, self.cpu_isa)
        return (KVLayout.sizes, fields) if self.form is None else (KVLayout, (*fields, (), None, self.form))


def _pair(index: int, pair: Any) -> tuple[Any, int]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise refuse(f"tensors[{index}]", "(tensor, page_bytes)", pair)
    return pair[0], checked(f"page_bytes of tensors[{index}]", pair[1], 1, INT64_MAX)


def page_planes(views: Sequence[View], page_bytes: Sequence[int]) -> tuple[list[Plane], int]:
    """Where the pages of opaque tensors lie, and how many each has."""
    planes, counts = [], []
    for i, (view, size) in enumerate(zip(views, page_bytes, strict=True)):
        count, stride = _pages(f"tensors[{i}]", view, size)
        planes.append(Plane(view.address, stride, size, 0, 1, size, view))
        counts.append(count)
    if len(set(counts)) > 1:
        raise ArgumentError(f"all tensors must have the same number of pages, not {counts}")
    return planes, counts[0] if counts else 0


def _pages(what: str, view: View, page_bytes: int) -> tuple[int, int]:
    """How many pages a tensor has, and how many bytes are from one to the next."""
    total = view.itemsize
    for extent in view.shape:
        total *= extent
    if _is_dense(view.shape, view.strides, view.itemsize):
        if total == 0 or total % page_bytes != 0:
            raise ArgumentError(f"{what} has {total} bytes, which are no whole pages of {page_bytes}")
        return total // page_bytes, page_bytes
    # All but one of the dimensions make a page, and that one has gaps behind each.
    by_stride = sorted((stride, extent) for stride, extent in zip(view.strides, view.shape, strict=True) if extent != 1)
    if by_stride:
        (stride, count), inner = by_stride[-1], by_stride[:-1]
        dense = _is_dense([extent for _, extent in inner], [of for of, _ in inner], view.itemsize)
        if dense and total == count * page_bytes and not overlaps(view):
            return count, stride
    raise ArgumentError(
        f"{what} has gaps in its memory, so that it is no row of pages of {page_bytes} bytes; give the whole tensor"
    )


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
