"""Messages in place: the context managers of `acquire_write`, `loan`, `loan_array` and `acquire_read`."""

from __future__ import annotations

import math
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ringcast import arguments
from ringcast.errors import ArgumentError

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence
    from types import TracebackType

    import numpy as np
    from numpy.typing import DTypeLike

    from ringcast.endpoint import QueueEnd


class WriteChunk:
    """The context manager of `acquire_write` and `loan`."""

    def __init__(self, end: QueueEnd, nbytes: int | None, timeout: float | None) -> None:
        self._end = end
        self._nbytes = nbytes
        self._timeout = timeout

    def __enter__(self) -> memoryview:
        self._view = self._end._open_write(self._nbytes, self._timeout)
        self._references = sys.getrefcount(self._view)
        return self._view

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # torch.frombuffer and its like keep a reference to the memoryview, but no export of it. The user's own name for
        # it may live on. What is not released here is seen by _close_write, and keeps the memory.
        if sys.getrefcount(self._view) <= self._references + 1:
            with suppress(BufferError):
                self._view.release()
        self._end._close_write(kind is None, False)


class LoanedArray:
    """The context manager of `loan_array`."""

    def __init__(self, end: QueueEnd, shape: int | Sequence[int], dtype: DTypeLike, timeout: float | None) -> None:
        import numpy as np

        from ringcast.codec.arrays import dtype_text

        self._end = end
        self._timeout = timeout
        self._shape = arguments.extents("shape", shape)
        try:
            self._dtype = np.dtype(dtype)
        except TypeError as error:
            raise arguments.refuse("dtype", "what NumPy takes for one", dtype, f" ({error})") from error
        text = dtype_text(self._dtype)
        if text is None:
            raise ArgumentError(f"an array of dtype {self._dtype!r} cannot be made in shared memory")
        self._dtype_text = text

    def __enter__(self) -> np.ndarray[Any, Any]:
        import numpy as np

        nbytes = arguments.checked(
            "the size in bytes", math.prod(self._shape) * self._dtype.itemsize, 0, arguments.INT64_MAX >> 1
        )
        view = self._end._open_array(self._dtype_text, self._shape, nbytes, self._timeout)
        # The base of slices and of most other views is this one, not the array that the user gets; what else is made of
        # the array refers to the array itself. So reference counts tell whether anything is left that could write.
        try:
            self._whole: np.ndarray[Any, Any] | None = np.ndarray(self._shape, self._dtype, view)
        except BaseException:  # a shape that NumPy refuses, or a signal
            view.release()
            self._end._close_write(False, False)
            raise
        self._array: np.ndarray[Any, Any] | None = self._whole[...]
        self._references = (sys.getrefcount(self._whole), sys.getrefcount(self._array))
        return self._array

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._array is not None
        of_whole, of_array = self._references
        # The user's own name for the array may live on; it becomes read-only.
        alone = sys.getrefcount(self._whole) <= of_whole and sys.getrefcount(self._array) <= of_array + 1
        self._array.setflags(write=False)
        self._whole = self._array = None
        self._end._close_write(kind is None, alone)


class ReadChunk:
    """The context manager of `acquire_read`."""

    def __init__(self, end: QueueEnd, timeout: float | None, cancel: threading.Event | None, indefinite: bool) -> None:
        self._end = end
        self._arguments = (timeout, cancel, indefinite)

    def __enter__(self) -> memoryview:
        return self._end._open_read(*self._arguments)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end._close_read()
