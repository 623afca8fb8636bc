"""What a NumPy array is on the wire: the text of its dtype, its shape, its order, and its elements.

A dtype's text makes an equal dtype and cannot execute anything. NumPy is imported only when one of these functions
needs it.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

MAX_DTYPE_TEXT = 16_384
"""Longer texts are not made and not parsed: a bound on what damaged input can cost."""

_FIRST_USER_TYPE = 256  # NPY_USERDEF

_SIMPLE = re.compile(r"[<>|=][biufcmMSUV]\d+(\[\d*[a-zA-Z]+\])?")


def dtype_text(dtype: numpy.dtype[Any]) -> str | None:
    """The text from which `dtype_of` makes an equal dtype, or None: for objects, extension types, odd field layouts."""
    try:
        text = _simple_text(dtype)
        if len(text) > MAX_DTYPE_TEXT:
            return None
        # An extension type may claim to equal the built-in of its size; its number does not lie.
        return text if dtype.num < _FIRST_USER_TYPE and dtype_of(text) == dtype else None
    except (ValueError, TypeError, AttributeError):
        return None


def _simple_text(dtype: numpy.dtype[Any]) -> str:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        inner = base.descr if base.names is not None else base.str
        return repr((inner, shape))
    return dtype.str if dtype.names is None else repr(dtype.descr)


def dtype_of(text: str) -> numpy.dtype[Any]:
    """The dtype of a text made by `dtype_text`. Raises ValueError for anything else."""
    import numpy

    try:
        if _SIMPLE.fullmatch(text):
            made = numpy.dtype(text)
        elif len(text) <= MAX_DTYPE_TEXT and text[:1] in ("[", "("):
            made = numpy.lib.format.descr_to_dtype(ast.literal_eval(text))
        else:
            raise ValueError("neither a type code nor a list of fields")
    except (ValueError, TypeError, KeyError, IndexError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text[:100]!r} is not the text of a dtype ({error})") from error
    if made.hasobject:
        raise ValueError(f"{text[:100]!r} holds Python objects, which cannot be sent as bytes")
    return made
