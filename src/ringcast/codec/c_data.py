"""Objects of ctypes: what their classes are on the wire, and which of them are nothing in another process.

The class of an array, `c_int * 4`, is made when it is asked for, and no module has it under its name; so pickle cannot
send such an array, and what cloudpickle makes of its class cannot be rebuilt. Here it is its items' class and their
number; one of the other byte order, that of its native class. All other classes travel by name. ctypes is never
imported here: who has not imported it has no such objects.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

from ringcast.errors import EncodeError

_ORDERS = ("__ctype_be__", "__ctype_le__")
_ADDRESSES = "zZPOX"
"""The codes of simple types that are one: char and wchar_t pointers, void pointers, Python objects, BSTR."""


def reduced_class(kind: Any) -> Any:
    """How to pickle a class of ctypes; NotImplemented: by its name; None: it is something else.

    Raises EncodeError for one that cannot be found by its name.
    """
    ctypes: Any = sys.modules.get("ctypes")
    if not isinstance(kind, type) or not hasattr(ctypes, "Array") or not issubclass(kind, _data(ctypes)):
        return None
    return _reduced_class(ctypes, kind)


def _reduced_class(ctypes: Any, kind: Any) -> Any:
    if issubclass(kind, ctypes.Array) and hasattr(kind, "_type_") and kind._type_ * kind._length_ is kind:
        return array_class, (kind._type_, kind._length_)
    native = getattr(ctypes, kind.__name__.removesuffix("_be").removesuffix("_le"), None)
    for order in _ORDERS:
        if native is not kind and getattr(native, order, None) is kind:
            return getattr, (native, order)
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    if found is not kind:
        raise EncodeError(
            f"the ctypes class {kind.__module__}.{kind.__qualname__} cannot be sent, because nobody finds it by that "
            "name: define it at the top of a module; nothing was sent"
        )
    return NotImplemented


def array_class(item: Any, length: int) -> Any:
    return item * length


def is_addresses(obj: Any) -> bool:
    """Are there addresses among the bytes of this object of ctypes, if it is one?"""
    ctypes: Any = sys.modules.get("ctypes")
    if not hasattr(ctypes, "Array") or not isinstance(obj, _data(ctypes)):
        return False
    kind: Any = type(obj)
    return _has_addresses(kind)


def _data(ctypes: Any) -> Any:
    """What all of its objects are of."""
    return ctypes.Structure.__base__


@lru_cache(maxsize=256)
def _has_addresses(kind: Any) -> bool:
    ctypes = sys.modules["ctypes"]
    if issubclass(kind, ctypes.Array):
        return _has_addresses(kind._type_)
    if issubclass(kind, (ctypes.Structure, ctypes.Union)):
        fields = [field for base in kind.__mro__ for field in base.__dict__.get("_fields_", ())]
        return any(_has_addresses(field[1]) for field in fields)
    code = getattr(kind, "_type_", None)
    return not isinstance(code, str) or code in _ADDRESSES
