"""What a NumPy array is on the wire: the text of its dtype, its shape, its order, and its elements.

A dtype's text makes an equal dtype, alignment included, and cannot execute anything; what has metadata has no text.
NumPy is imported only when one of these functions needs it.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

from ringcast._extras import needed

if TYPE_CHECKING:
    import numpy

MAX_DTYPE_TEXT = 16_384
"""Longer texts are not made and not parsed: a bound on what damaged input can cost."""

_VOID = 20  # NPY_VOID
_FIRST_USER_TYPE = 256  # NPY_USERDEF

_SIMPLE = re.compile(r"[<>|=][biufcmMSUV]\d+(\[\d*[a-zA-Z]+\])?")


def dtype_text(dtype: numpy.dtype[Any]) -> str | None:
    """The text from which `dtype_of` makes the same dtype, or None: for objects, extension types, metadata."""
    # An extension type may claim to equal the built-in of its size; its number does not lie.
    if dtype.num >= _FIRST_USER_TYPE:
        return None
    for form in (_short_form, _long_form):
        try:
            made = form(dtype)
            text = made if isinstance(made, str) else repr(made)
            if len(text) <= MAX_DTYPE_TEXT and _same(dtype_of(text), dtype):
                return text
        except (ValueError, TypeError, AttributeError):
            continue
    return None


def _same(made: numpy.dtype[Any], dtype: numpy.dtype[Any]) -> bool:
    """Equal also in what dtypes do not compare: alignment, metadata, and the type of the scalars."""
    if dtype.metadata is not None or made != dtype:
        return False
    if dtype.num == _VOID and made.type is not dtype.type:  # numpy.record
        return False
    if made.isalignedstruct != dtype.isalignedstruct:
        return False
    if dtype.subdtype is not None and made.subdtype is not None:
        return _same(made.subdtype[0], dtype.subdtype[0])
    return all(_same(made[name], dtype[name]) for name in dtype.names or ())


def _short_form(dtype: numpy.dtype[Any]) -> Any:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return (_short_form(base), shape)
    return dtype.str if dtype.names is None else dtype.descr


def _long_form(dtype: numpy.dtype[Any]) -> Any:
    """Says where each field lies and whether the structure is aligned, which lists of fields cannot."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return (_long_form(base), shape)
    if dtype.names is None or dtype.fields is None:
        return dtype.str
    fields = [dtype.fields[name] for name in dtype.names]
    form: dict[str, Any] = {
        "names": list(dtype.names),
        "formats": [_long_form(field[0]) for field in fields],
        "offsets": [int(field[1]) for field in fields],
        "itemsize": dtype.itemsize,
        "aligned": dtype.isalignedstruct,
    }
    if any(len(field) > 2 for field in fields):
        form["titles"] = [field[2] if len(field) > 2 else None for field in fields]
    return form


def _made(numpy: Any, form: Any) -> Any:
    if isinstance(form, str) and _SIMPLE.fullmatch(form):
        return numpy.dtype(form)
    if isinstance(form, list):
        return numpy.lib.format.descr_to_dtype(form)
    if isinstance(form, tuple):
        base, shape = form
        return numpy.dtype((_made(numpy, base), shape))
    if isinstance(form, dict):
        return numpy.dtype({**form, "formats": [_made(numpy, each) for each in form["formats"]]})
    raise ValueError("neither a type code nor fields")


def dtype_of(text: str) -> numpy.dtype[Any]:
    """The dtype of a text made by `dtype_text`. Raises ValueError for anything else."""
    np: Any = needed("numpy", "a message that is an array")
    try:
        if len(text) > MAX_DTYPE_TEXT:
            raise ValueError("too long")
        made: numpy.dtype[Any] = _made(np, ast.literal_eval(text) if text[:1] in ("[", "(", "{") else text)
    except (ValueError, TypeError, KeyError, IndexError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text[:100]!r} is not the text of a dtype ({error})") from error
    if made.hasobject:
        raise ValueError(f"{text[:100]!r} holds Python objects, which cannot be sent as bytes")
    return made
