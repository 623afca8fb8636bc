"""Messages in place: what `acquire_write`, `loan`, `loan_array` and `acquire_read` are asked for, checked.

The context managers themselves are native: a signal's exception cannot come between taking the turn and having an
object that gives it back.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ringcast import _arguments
from ringcast._core import End, LoanedArray, ReadChunk, WriteChunk
from ringcast._extras import needed
from ringcast.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike

__all__ = ["LoanedArray", "ReadChunk", "WriteChunk", "loaned_array"]


def loaned_array(end: End, shape: int | Sequence[int], dtype: DTypeLike, timeout: float | None) -> LoanedArray:
    """The context manager of `loan_array`. Raises ArgumentError."""
    from ringcast.codec.arrays import dtype_text

    np: Any = needed("numpy", "loan_array")

    extents = _arguments.extents("shape", shape)
    try:
        of = np.dtype(dtype)
    except TypeError as error:
        raise _arguments.refuse("dtype", "what NumPy takes for one", dtype, f" ({error})") from error
    if of.subdtype is not None:  # an array of arrays is an array of more dimensions
        of, inner = of.subdtype
        extents += inner
    text = dtype_text(of)
    if text is None:
        raise ArgumentError(f"an array of dtype {of!r} cannot be made in shared memory")
    nbytes = _arguments.checked("the size in bytes", math.prod(extents) * of.itemsize, 0, _arguments.INT64_MAX >> 1)
    return LoanedArray(end, extents, of, text, nbytes, timeout)
