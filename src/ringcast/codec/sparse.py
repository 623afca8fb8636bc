"""What a sparse PyTorch tensor is on the wire: its indices and values, which are tensors, its size and flags.

PyTorch's own rebuilding of sparse tensors appends each to a list that only `torch.load` clears: what was received would
never be freed. So they are rebuilt here, and checked; and where a pickle was made without this (subclasses, other
senders), the list gives back what the message added. PyTorch is imported only when one of these functions needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def reduce_sparse(torch: Any, tensor: Any) -> tuple[Any, ...] | None:
    """How to pickle a sparse tensor in the memory of this process. None: it is something else."""
    layout = tensor.layout
    if layout is torch.strided or tensor.device.type != "cpu" or tensor._backward_hooks:
        return None
    plain = tensor.detach()
    try:
        if layout is torch.sparse_coo:
            parts: tuple[Any, ...] = (plain._indices(), plain._values())
        elif layout in (torch.sparse_csr, torch.sparse_bsr):
            parts = (plain.crow_indices(), plain.col_indices(), plain.values())
        elif layout in (torch.sparse_csc, torch.sparse_bsc):
            parts = (plain.ccol_indices(), plain.row_indices(), plain.values())
        else:
            return None
    except RuntimeError:  # a wrapper of a function transform
        return None
    coalesced = tensor.is_coalesced() if layout is torch.sparse_coo else None
    arguments = (layout, parts, tuple(tensor.shape), coalesced, tensor.requires_grad)
    attributes = dict(tensor.__dict__)
    if not attributes:
        return rebuild_sparse, arguments
    return rebuild_sparse, arguments, attributes, None, None, _set_attributes


def rebuild_sparse(
    layout: Any, parts: tuple[Any, ...], size: tuple[int, ...], coalesced: bool | None, requires_grad: bool
) -> Any:
    torch: Any = import_module("torch")
    if layout is torch.sparse_coo:
        tensor: Any = torch.sparse_coo_tensor(*parts, size, check_invariants=True, is_coalesced=coalesced)
    else:
        tensor = torch.sparse_compressed_tensor(*parts, size, layout=layout, check_invariants=True)
    return tensor.requires_grad_() if requires_grad else tensor


def _set_attributes(tensor: Any, attributes: dict[str, Any]) -> None:
    tensor.__dict__.update(attributes)


def settle(kept: list[Any], before: int) -> None:
    """Takes out of PyTorch's list what it gained since it had `before` entries, and checks it.

    What another thread's `torch.load` added meanwhile is checked like ours, so that thread need not.
    """
    while len(kept) > before:
        try:
            tensor = kept.pop()
        except IndexError:  # cleared meanwhile
            return
        _check(tensor)


def _check(tensor: Any) -> None:
    torch: Any = import_module("torch")
    layout = tensor.layout
    plain = tensor.detach()
    if layout is torch.sparse_coo:
        torch._validate_sparse_coo_tensor_args(plain._indices(), plain._values(), plain.shape, plain.is_coalesced())
        return
    by_row = layout in (torch.sparse_csr, torch.sparse_bsr)
    outer = plain.crow_indices() if by_row else plain.ccol_indices()
    inner = plain.col_indices() if by_row else plain.row_indices()
    torch._validate_sparse_compressed_tensor_args(outer, inner, plain.values(), plain.shape, layout)
