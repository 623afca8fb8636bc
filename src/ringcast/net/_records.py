"""What ranks say to each other through a store: JSON, of which anybody may have put other things there.

Whatever is found, a rank gets its meaning or a GroupError that shows it.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from ringcast.errors import GroupError

Error = TypeVar("Error", bound=GroupError)

_MOST_SHOWN = 120
_LONGEST_WORD = 300
_MOST_NUMBER = 1 << 62


def about(error: Error, *ranks: int) -> Error:
    """The error, which tells its ranks."""
    error.ranks = tuple(ranks)
    return error


def parsed(data: bytes, what: str) -> Any:
    """What a JSON text says. Raises GroupError."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise foreign(what, data) from error


def foreign(what: str, found: Any) -> GroupError:
    """The error for what no rank of this release says."""
    shown = repr(found)
    if len(shown) > _MOST_SHOWN:
        shown = shown[:_MOST_SHOWN] + "..."
    return GroupError(f"{what} is not what a rank with this release of ringcast says: {shown}")


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST_NUMBER


def is_word(value: Any) -> bool:
    """Text that can be part of a message."""
    return type(value) is str and len(value) <= _LONGEST_WORD and value.isprintable()


def is_failure(value: Any) -> bool:
    """Is it an error as one rank tells it to another: kind, text, ranks?"""
    if type(value) is not list or len(value) != 3:
        return False
    kind, text, ranks = value
    return is_word(kind) and type(text) is str and type(ranks) is list and all(map(is_count, ranks))
