"""`gather_paged` and `scatter_paged`: an engine's blocks into chunks of a store, and chunks of a retrieve into blocks.

The copies are native (src/core/pool/copies.hpp); what is decided here is where the tensors' rows lie, and in which
thread. For tensors of a device see _accelerators.py.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from operator import is_
from typing import Any, NamedTuple

from ringcast import _core
from ringcast._arguments import checked, refuse
from ringcast._mishaps import Promise, hand_over, shown, tell
from ringcast.errors import ArgumentError, LayoutError
from ringcast.pool._accelerators import DeviceCopy, is_device
from ringcast.pool._forms import Plane, TokenForm, form_of, tensors_of
from ringcast.pool._layouts import KVLayout, page_planes

_log = logging.getLogger("ringcast.pool")

_MOST_THREADS = 1024
_DEFAULT_THREADS = 4
_OWN_BYTES = 4 << 20
"""So much the caller copies himself, in less time than it takes to wake a thread twice on a busy machine."""
_JOBS = 4
"""Copies that may go on at once. Each may have several threads."""

Slots = _core.StoreLease | _core.RetrieveLease | Iterable[_core.Slot]


def gather_paged(
    kv: Any, block_ids: Iterable[int], slots: Slots, layout: KVLayout, *, threads: int | None = None
) -> Future[list[int]]:
    """Copies blocks of the engine's tensors into the chunks of a store. A future; `asyncio.wrap_future` awaits it.

    One copy, with the chunks' checksums made on the way: up to 4 MiB by the caller, more by native threads. The lease
    is committed only once it has ended, for which `commit_store` waits; and not at all if it was cancelled or failed.
    Until then the blocks must not change.

    Args:
        kv: the tensors, of torch or NumPy, in the order of the layout: one, one a layer, or pairs of keys and values.
        block_ids: of the chunks' tokens, in their order; of opaque pages `layout.pages_per_chunk` for each slot. Of
            known form the last chunk may have fewer; what there is not is zeros.
        slots: of a store, or its lease, for all of them.
        layout: of the tensors, with whose chunk size the client was connected.
        threads: that copy; None: as many as there are CPUs, at most 4.

    Raises ArgumentError; LayoutError if the tensors are none of this layout; LeaseExpiredError. The result is an empty
    list.

    >>> import numpy
    >>> kv = numpy.arange(8 * 64, dtype="u1").reshape(8, 64)
    >>> layout = KVLayout.pages([(kv, 64)], pages_per_chunk=2)
    >>> keys = keys_from_hashes([b"a", b"b"], Namespace("m", dtype="uint8", layout=layout.fingerprint))
    >>> with PoolServer("docs-gather", "1MiB"), PoolClient.connect("docs-gather", layout=layout) as client:
    ...     with client.store(keys) as store:
    ...         copied = gather_paged(kv, [7, 0, 3, 4], store, layout)
    ...     with client.retrieve(keys) as found:
    ...         bytes(found.slots[0].array) == kv[[7, 0]].tobytes()
    True
    """
    return _start(kv, block_ids, slots, layout, 0, threads, gathers=True)


def scatter_paged(
    slots: Slots,
    kv: Any,
    block_ids: Iterable[int],
    layout: KVLayout,
    skip_tokens: int = 0,
    *,
    threads: int | None = None,
) -> Future[list[int]]:
    """Copies chunks of a retrieve into blocks of the engine's tensors. A future of the slots' indices that failed.

    A chunk that is not what was stored fails: its blocks may have been written and must not be used. The server is
    told. The chunks are pinned until the copy has ended, whenever the lease is committed. The other arguments are those
    of `gather_paged`.

    Args:
        slots: of a retrieve; or its lease, so that its bytes are read once, by this copy.
        skip_tokens: leading tokens, of the chunks together, whose blocks are left as they are. Not of opaque pages.

    Raises ArgumentError; LayoutError if the tensors are none of this layout; LeaseExpiredError.

    >>> import numpy
    >>> kv = numpy.zeros((8, 64), "u1")
    >>> layout = KVLayout.pages([(kv, 64)])
    >>> keys = keys_from_hashes([b"a"], Namespace("m", dtype="uint8", layout=layout.fingerprint))
    >>> with PoolServer("docs-scatter", "1MiB"), PoolClient.connect("docs-scatter", layout=layout) as client:
    ...     with client.store(keys) as store:
    ...         store.slots[0].array[:] = 9
    ...     with client.retrieve(keys) as found:
    ...         scatter_paged(found, kv, [5], layout).result(), int(kv[5, 63])
    ([], 9)
    """
    return _start(kv, block_ids, slots, layout, skip_tokens, threads, gathers=False)


class Rows(NamedTuple):
    """Where an engine's tensors have what a layout says."""

    plan: _core.CopyPlan
    planes: list[Plane]
    n_blocks: int
    block_tokens: int


def rows_of(kv: Any, layout: KVLayout) -> Rows:
    """Raises ArgumentError; LayoutError if `kv` is none of the layout. Of the layout's own tensors it is found once."""
    given = (kv,) if hasattr(kv, "shape") or not isinstance(kv, Sequence) else kv
    own = layout.tensors
    if len(given) != len(own) or not all(map(is_, given, own)) or any(isinstance(tensor, list) for tensor in own):
        return _found_rows(kv, layout)
    places = list(map(_place, own))
    known = layout._rows.get("own")
    if known is None or known[0] != places:
        known = places, _found_rows(kv, layout)
        layout._rows["own"] = known
    rows: Rows = known[1]
    return rows


def _place(tensor: Any) -> tuple[Any, ...]:
    """What an operation in place may change. Memory of an array that is in use does not move; torch's may."""
    if hasattr(tensor, "data_ptr"):
        return tensor.data_ptr(), tensor.shape, tensor.stride()
    if isinstance(tensor, tuple):
        return tuple(map(_place, tensor))
    return tensor.shape, tensor.strides


def _found_rows(kv: Any, layout: KVLayout) -> Rows:
    if layout.form is None:
        layers, _ = tensors_of(kv)
        views = [view for layer in layers for view in layer]
        if len(views) != len(layout.page_bytes):
            raise LayoutError(f"kv has {len(views)} tensors, and the layout says {layout}")
        try:
            planes, n_blocks = page_planes(views, layout.page_bytes)
        except ArgumentError as error:
            raise LayoutError(f"kv is not of the layout, {layout}: {error}") from error
        block_tokens = 1
    else:
        form, planes, n_blocks = _form(kv, layout.form, layout)
        block_tokens = form.block_tokens
    devices = {plane.view.device for plane in planes}
    if len(devices) > 1:
        raise ArgumentError(f"kv must be on one device, not on {', '.join(sorted(devices))}")
    plan = _core.CopyPlan([plane[:6] for plane in planes], n_blocks, block_tokens, layout.pages_per_chunk)
    return Rows(plan, planes, n_blocks, block_tokens)


def _form(kv: Any, wanted: TokenForm, layout: KVLayout) -> tuple[TokenForm, list[Plane], int]:
    try:
        found = form_of(kv, wanted.dims, wanted.block_tokens)
    except ArgumentError as error:
        raise LayoutError(f"kv is not of the layout, {layout}: {error}") from error
    if found[0] != wanted:
        raise LayoutError(f"kv has {found[0]}; the layout says {wanted}")
    return found


def block_list(block_ids: Any) -> Any:
    """Something that gives ints one by one; what these are is checked by who takes them."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(block_ids, torch.Tensor):
        block_ids = block_ids.detach().cpu().numpy()
    if numpy is not None and isinstance(block_ids, numpy.ndarray):
        if block_ids.dtype.kind not in "iu":
            raise refuse("block_ids", "integers", block_ids.dtype)
        return block_ids.reshape(-1).tolist()
    if isinstance(block_ids, str | bytes) or not isinstance(block_ids, Iterable):
        raise refuse("block_ids", "the numbers of blocks", block_ids)
    return list(block_ids)


def _start(
    kv: Any, block_ids: Any, slots: Any, layout: Any, skip_tokens: Any, threads: Any, *, gathers: bool
) -> Future[list[int]]:
    if not isinstance(layout, KVLayout):
        raise refuse("layout", "a KVLayout", layout)
    count = default_threads() if threads is None else checked("threads", threads, 1, _MOST_THREADS)
    skip = checked("skip_tokens", skip_tokens, 0)
    if skip and layout.form is None:
        raise ArgumentError(
            f"skip_tokens is {skip}; of opaque pages only whole blocks can be left out: retrieve fewer keys"
        )
    rows = rows_of(kv, layout)
    if not gathers:
        _refuse_read_only(rows)
    ids = block_list(block_ids)
    if isinstance(slots, _core.StoreLease | _core.RetrieveLease):
        slots = _core.unseen_slots(slots)
    elif not isinstance(slots, Iterable):
        raise refuse("slots", "a lease, or slots of one", slots)
    else:
        slots = list(slots)
    copy = _core.PoolCopy(rows.plan, ids, slots, gathers, layout.form is not None, skip)
    future: Future[list[int]] = Promise()
    here = False
    run: Callable[[int], list[int]] = copy.run
    try:
        on_device = bool(slots) and is_device(rows.planes[0].view.device)
        if on_device:
            device = DeviceCopy(
                copy, rows.planes, rows.n_blocks, rows.block_tokens, layout.pages_per_chunk, ids, slots, skip
            )
            run = device.gather if gathers else device.scatter
        make = partial(_do, future, copy, run, count, kv)  # until it ends the tensors are kept
        here = not on_device and len(slots) * rows.plan.chunk_bytes <= _OWN_BYTES
        if here:
            make()
        else:
            hand_over(_executor(), make, make)
    except BaseException:
        if here or future.cancel():  # if not, a thread makes it, whoever is interrupted here
            copy.give_up()
        raise
    return future


def _do(future: Future[list[int]], copy: _core.PoolCopy, run: Callable[[int], list[int]], count: int, kv: Any) -> None:
    if not future.set_running_or_notify_cancel():
        copy.give_up()
        return
    try:
        failed = run(count)
    except BaseException as error:
        copy.give_up()
        future.set_exception(error)
        return
    if copy.damaged:  # told before the future is done: what is called then is the user's
        _report(copy)
    future.set_result(failed)


def _report(copy: _core.PoolCopy) -> None:
    """Tells the server which chunks are damaged. It is waited for by a thread of its own, and by no other copy."""

    def report() -> None:
        try:
            copy.report()
        except BaseException as error:
            _untold(error)

    try:
        threading.Thread(target=report, name="ringcast-report", daemon=True).start()
    except RuntimeError as error:  # no thread can be had
        _untold(error)


def _untold(error: BaseException) -> None:
    tell(
        _log, "damaged chunks could not be told to their pool's server, and are left to the next copy: %s", shown(error)
    )


def _refuse_read_only(rows: Rows) -> None:
    for plane in rows.planes:
        if not plane.view.writable:
            raise ArgumentError("kv has an array that is read-only, so that nothing can be scattered to it")


def default_threads() -> int:
    """As many as there are CPUs for this process, but no more than it takes to have all of the memory's bandwidth."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(_DEFAULT_THREADS, allowed)


_pool: ThreadPoolExecutor | None = None
_making = threading.Lock()


def _executor() -> ThreadPoolExecutor:
    global _pool
    with _making:
        if _pool is None:
            _pool = ThreadPoolExecutor(_JOBS, thread_name_prefix="ringcast-copy")
        return _pool


def _forget_threads() -> None:
    """In a forked child there are none."""
    global _pool, _making
    _pool, _making = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_threads)
