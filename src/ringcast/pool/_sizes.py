"""Sizes as people write them."""

from __future__ import annotations

import re
from typing import Any

from ringcast._arguments import INT64_MAX, checked, refuse
from ringcast.errors import ArgumentError

_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?\s*\Z", re.IGNORECASE)


def byte_size(what: str, value: Any) -> int:
    """Bytes from an int, or from text like "64MiB", "1.5 GiB" or "4096"; units are powers of 1,024."""
    if not isinstance(value, str):
        return checked(what, value, most=INT64_MAX)
    match = _SIZE.match(value)
    if match is None:
        raise ArgumentError(f'{what} must be a number of bytes, or text like "64MiB" or "2GiB", not {value!r}')
    size = int(float(match[1]) * (1 << _UNITS[match[2].lower()]))
    if not 1 <= size <= INT64_MAX:
        raise refuse(what, "at least one byte", value)
    return size
