"""Copies between a device's tensors and chunks: by torch, on a stream of their own, through memory that is pinned.

    gather    wait for what the caller's stream has been given, rows -> staging (device -> pinned), synchronise,
              staging -> chunks, with their checksums
    scatter   chunks -> staging, with their checksums, staging -> rows (pinned -> device), synchronise

So nothing is committed, and no future done, before the device has ended. Staging holds as many chunks as fit into
64 MiB, one at least; what is beyond goes through it after them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

from ringcast import _core
from ringcast.errors import ArgumentError

if TYPE_CHECKING:
    from ringcast.pool._forms import Plane

_STAGING_BYTES = 64 << 20


class Stream(Protocol):
    """What is done on a device, in its order."""

    def after_caller(self) -> None:
        """What follows begins when all has ended that the caller's own stream has been given."""

    def run(self, work: Callable[[], None]) -> None:
        """Start `work`, which may end later."""

    def synchronise(self) -> None:
        """Wait until all of it has ended."""


class _DeviceStream:
    """A stream of torch's: of CUDA, ROCm, XPU, or whatever has the same names."""

    def __init__(self, device: Any) -> None:
        import torch

        self._device = device
        self._module = getattr(torch, device.type)
        self._stream = self._module.Stream(device) if hasattr(self._module, "Stream") else None

    def after_caller(self) -> None:
        if self._stream is not None:
            self._stream.wait_stream(self._module.current_stream(self._device))

    def run(self, work: Callable[[], None]) -> None:
        if self._stream is None:
            work()
        else:
            with self._module.stream(self._stream):
                work()

    def synchronise(self) -> None:
        if self._stream is None:
            self._module.synchronize()
        else:
            self._stream.synchronize()


stream_of: Callable[[Any], Stream] = _DeviceStream


def is_device(device: str) -> bool:
    """Is it another memory than the processor's?"""
    return device != "cpu"


class DeviceCopy:
    """One copy between a device's tensors and the chunks that `copy` holds."""

    def __init__(
        self,
        copy: _core.PoolCopy,
        planes: Sequence[Plane],
        n_blocks: int,
        block_tokens: int,
        chunk_tokens: int,
        ids: Sequence[int],
        slots: Sequence[_core.Slot],
        skip_tokens: int,
    ) -> None:
        import torch

        self._copy, self._skip = copy, skip_tokens
        self._block_tokens, self._chunk_tokens = block_tokens, chunk_tokens
        self._indices = [slot.index for slot in slots]
        device = planes[0].view.tensor.device
        self._rows = [_rows(torch, plane, n_blocks, block_tokens) for plane in planes]
        self._ends = list(accumulate(chunk_tokens * plane.heads * plane.row_bytes for plane in planes))
        self._chunk_bytes = self._ends[-1]
        most = max(1, _STAGING_BYTES // self._chunk_bytes)
        self._batches = [range(at, min(at + most, len(slots))) for at in range(0, len(slots), most)]
        staged = min(most, len(slots))
        self._staging = _pinned(torch, staged * self._chunk_bytes, device).view(staged, self._chunk_bytes)
        row = (self._staging.data_ptr(), self._chunk_bytes, self._chunk_bytes, 0, 1, self._chunk_bytes)
        self._plan = _core.CopyPlan([row], max(staged, 1), 1, 1)
        self._ids = torch.tensor(list(ids), dtype=torch.int64, device=device)
        self._stream = stream_of(device)
        self._stream.after_caller()

    def gather(self, threads: int) -> list[int]:
        """Device to chunks."""
        for batch in self._batches:
            self._stream.run(partial(self._out, batch))
            self._stream.synchronise()
            self._copy.run_staged(self._plan, batch.start, batch.stop, threads)
        return []

    def scatter(self, threads: int) -> list[int]:
        """Chunks to device, but for those that failed, which it says."""
        failed: list[int] = []
        for batch in self._batches:
            wrong = self._copy.run_staged(self._plan, batch.start, batch.stop, threads)
            self._stream.run(partial(self._in, batch, [i for i in batch if self._indices[i] not in wrong]))
            self._stream.synchronise()
            failed += wrong
        return failed

    def _places(self, tokens: Any) -> tuple[Any, Any]:
        """Block and place in it, of these tokens."""
        return self._ids[tokens // self._block_tokens], tokens % self._block_tokens

    def _columns(self) -> list[tuple[int, int]]:
        """From where to where in a chunk each plane lies."""
        return list(zip([0, *self._ends], self._ends, strict=False))

    def _out(self, batch: range) -> None:
        """The batch's tokens to the staging; zeros for those that there are not."""
        import torch

        there = len(self._ids) * self._block_tokens
        begin, end = batch.start * self._chunk_tokens, batch.stop * self._chunk_tokens
        blocks, within = self._places(torch.arange(begin, min(end, there), device=self._ids.device))
        staged = torch.zeros(len(batch), self._chunk_bytes, dtype=torch.uint8, device=self._ids.device)
        for rows, (left, right) in zip(self._rows, self._columns(), strict=True):
            taken = rows[blocks, within].reshape(len(blocks), -1).view(torch.uint8)
            share = torch.zeros(end - begin, taken.shape[1], dtype=torch.uint8, device=self._ids.device)
            share[: len(blocks)] = taken
            staged[:, left:right] = share.view(len(batch), right - left)
        self._staging[: len(batch)].copy_(staged, non_blocking=True)

    def _in(self, batch: range, good: Sequence[int]) -> None:
        """From the staging, the tokens of the good chunks to where they belong, but for those to be skipped."""
        import torch

        device = self._ids.device
        there = len(self._ids) * self._block_tokens
        staged = self._staging[: len(batch)].to(device, non_blocking=True)
        begin = batch.start * self._chunk_tokens
        tokens = torch.cat(
            [torch.arange(i * self._chunk_tokens, (i + 1) * self._chunk_tokens, device=device) for i in good]
            or [torch.empty(0, dtype=torch.int64, device=device)]
        )
        tokens = tokens[(tokens >= self._skip) & (tokens < there)]
        blocks, within = self._places(tokens)
        for rows, (left, right) in zip(self._rows, self._columns(), strict=True):
            share = staged[:, left:right].reshape(len(batch) * self._chunk_tokens, -1)
            rows[blocks, within] = share[tokens - begin].view(rows.dtype).view(len(tokens), *rows.shape[2:])


def _rows(torch: Any, plane: Plane, n_blocks: int, block_tokens: int) -> Any:
    """A plane as [blocks, tokens of a block, heads, elements] over its tensor; integers as large as its elements."""
    tensor, size = plane.view.tensor.detach(), plane.view.itemsize
    if tensor.is_complex():
        tensor, size = torch.view_as_real(tensor), size // 2
    steps = (plane.block_stride, plane.token_stride, plane.head_stride)
    if any(step % size for step in (plane.row_bytes, *steps)):
        raise ArgumentError(f"pages of {plane.row_bytes} bytes end within elements of {size}")
    shape = (n_blocks, block_tokens, plane.heads, plane.row_bytes // size)
    offset = tensor.storage_offset() + (plane.address - plane.view.address) // size
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size]
    return tensor.as_strided(shape, (*(step // size for step in steps), 1), offset).view(integers)


def _pinned(torch: Any, nbytes: int, device: Any) -> Any:
    with suppress(RuntimeError):  # not for this device, or no more of it: the copies wait then
        if is_device(device.type):
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
    return torch.empty(nbytes, dtype=torch.uint8)
