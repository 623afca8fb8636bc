"""Arguments of public calls are checked here, or by the same functions in native calls, before anything else is done.

Each check names the argument, what it must be and what it was: ArgumentTypeError for a wrong type, else ArgumentError.
Whatever acts as an int or a float will do, NumPy's scalars included; True and False are flags and never numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ringcast import _core
from ringcast.errors import ArgumentError, ArgumentTypeError

INT32_MAX = (1 << 31) - 1
INT64_MAX = (1 << 63) - 1
_MOST_SHOWN = 80


def refuse(
    what: str, expected: str, value: Any, advice: str = "", *, secret: re.Pattern[str] | None = None
) -> ArgumentTypeError:
    """The error for a value of a wrong type. What is `secret` in it is not shown."""
    try:
        shown = repr(value)
    except Exception:  # a stranger's __repr__
        shown = "one"
    if secret is not None:
        shown = secret.sub("...", shown)
    if len(shown) > _MOST_SHOWN:
        shown = shown[:_MOST_SHOWN] + "..."
    kind = "" if value is None else f" ({type(value).__qualname__})"
    return ArgumentTypeError(f"{what} must be {expected}, not {shown}{kind}{advice}")


def checked(what: str, value: Any, least: int = 1, most: int = INT32_MAX) -> int:
    """`value` as an int from `least` to `most`."""
    return _core.checked_int(what, value, least, most)


def seconds(what: str, value: Any) -> float | None:
    """A time-out in seconds; None if there is no limit."""
    nanoseconds = _core.checked_ns(what, value)
    return None if nanoseconds >= _core.FOREVER_NS else nanoseconds / 1e9


def number(what: str, value: Any) -> float:
    """A real number, for which infinity will do."""
    is_truth = isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")  # NumPy's
    if value is not None and not is_truth and not isinstance(value, str | bytes):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    raise refuse(what, "a number", value)


def flag(what: str, value: Any) -> bool:
    """True or False, NumPy's as well."""
    return _core.checked_flag(what, value)


def text(what: str, value: Any, expected: str = "a str") -> str:
    """A str that can be encoded in UTF-8, as whatever is kept, or given to the core, must be."""
    if not isinstance(value, str):
        raise refuse(what, expected, value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(f"{what} cannot be encoded in UTF-8: {error}") from None
    return value


def choice(what: str, value: Any, choices: Iterable[str]) -> str:
    """One of a few words."""
    words = tuple(choices)
    expected = "one of " + ", ".join(map(repr, words))
    if not isinstance(value, str):
        raise refuse(what, expected, value)
    if value not in words:
        raise ArgumentError(f"{what} is {value!r}; it must be {expected}")
    return value


def ranks(what: str, value: Any) -> list[int]:
    """Different ranks, in their order."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise refuse(what, "a sequence of ranks", value)
    found = [checked(f"a rank of {what}", rank, 0) for rank in value]
    if len(set(found)) != len(found):
        raise ArgumentError(f"{what} must be different ranks, not {found}")
    return found


def extents(what: str, value: Any) -> tuple[int, ...]:
    """An array's shape, from an int or a sequence of ints."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        value = (value,)
    return tuple(checked(f"an extent of {what}", extent, 0, INT64_MAX) for extent in value)
