"""Sparse tensors of every layout arrive equal, checked, and are freed with the last reference to them."""

from __future__ import annotations

import gc
import pickle
import weakref
from typing import Any

import pytest

from ringcast import MessageQueue
from ringcast.codec.sparse import rebuild_sparse
from ringcast.errors import DecodeError

torch: Any = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:Sparse")

LAYOUTS = ["coo", "csr", "csc", "bsr", "bsc"]


def sparse(layout: str) -> Any:
    dense = torch.eye(4).repeat(2, 2)
    blocks = (2, 2) if layout in ("bsr", "bsc") else None
    return dense.to_sparse(layout=getattr(torch, f"sparse_{layout}"), blocksize=blocks)


class Damaged:
    def __reduce__(self) -> Any:
        parts = torch.tensor([[99]]), torch.ones(1)
        return rebuild_sparse, (torch.sparse_coo, parts, (3,), True, False)


class ByTorch:
    """Pickled by PyTorch's own reduction, as other senders do it."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __reduce__(self) -> Any:
        data = torch.tensor([[self.index]]), torch.ones(1), torch.Size([3]), True
        return torch._utils._rebuild_sparse_tensor, (torch.sparse_coo, data)


def through(value: Any) -> Any:
    with MessageQueue(1) as queue, MessageQueue.create_from_handle(queue.export_handle(), 0) as reader:
        queue.enqueue(value, timeout=10)
        return reader.dequeue(10)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_arrives_equal_and_is_freed(layout: str, wrapped: bool) -> None:
    value = sparse(layout).requires_grad_()
    before = len(torch._utils._sparse_tensors_to_validate)
    got = through({"x": [value]})["x"][0] if wrapped else through(value)
    assert got.layout is value.layout
    assert got.requires_grad
    assert torch.equal(got.detach().to_dense(), value.detach().to_dense())
    assert len(torch._utils._sparse_tensors_to_validate) == before
    gone = weakref.ref(got)
    del got
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("coalesced", [False, True])
def test_whether_it_is_coalesced_and_dense_dimensions_are_kept(coalesced: bool) -> None:
    value = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), torch.ones(2, 5), (3, 5))
    value = value.coalesce() if coalesced else value
    got = through(value)
    assert got.is_coalesced() is coalesced
    assert torch.equal(got._values(), value._values())


def test_an_impossible_sparse_tensor_is_refused() -> None:
    with pytest.raises(DecodeError, match=r"rebuild_sparse|size|index"):
        through(Damaged())


def test_what_torch_itself_rebuilds_is_checked_and_not_kept() -> None:
    earlier = pickle.loads(pickle.dumps(torch.eye(3).to_sparse()))
    kept = torch._utils._sparse_tensors_to_validate
    before = len(kept)
    assert before >= 1
    assert through(ByTorch(2)).to_dense().tolist() == [0, 0, 1]
    with pytest.raises(DecodeError):
        through(ByTorch(99))
    assert len(kept) == before
    assert kept[-1] is earlier
