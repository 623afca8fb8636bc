"""Sizes as people write them."""

from __future__ import annotations

import re
from typing import Any

from ringcast._arguments import INT64_MAX, checked
from ringcast.errors import ArgumentError

_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_SIZE = re.compile(r"\s*([0-9]+)(?:\.([0-9]+))?\s*([kmgt]?)(?:i?b)?\s*\Z", re.IGNORECASE)
_MOST_CHARACTERS = 64


def byte_size(what: str, value: Any) -> int:
    """Bytes from an int, or from text like "64MiB", "1.5 GiB" or "4096"; units are powers of 1,024."""
    if not isinstance(value, str):
        return checked(what, value, most=INT64_MAX)
    match = _SIZE.match(value) if len(value) <= _MOST_CHARACTERS else None
    if match is None:
        raise ArgumentError(f'{what} must be a number of bytes, or text like "64MiB" or "2GiB", not {value!r}')
    whole, part, unit = match[1], match[2] or "", match[3].lower()
    size: int = (int(whole + part) << _UNITS[unit]) // 10 ** len(part)
    if not 1 <= size <= INT64_MAX:
        raise ArgumentError(f"{what} must be from 1 to {INT64_MAX} bytes, not {value!r}")
    return size


def human_bytes(count: float) -> str:
    """`count` bytes in binary units, three digits."""
    unit = "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1000 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.3g} {unit}"
