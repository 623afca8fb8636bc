"""How segments are named: `ringcast_`, the user's name or a random one, a dot and the user id in base 36.

So queues of two users never collide. Names that would be longer than the 29 characters that every POSIX system takes
keep their beginning and end in a digest; the full name is in the segment and compared.
"""

from __future__ import annotations

import re

from ringcast import _core
from ringcast._arguments import refuse
from ringcast.errors import ArgumentError

PREFIX = "ringcast_"
LINK_PREFIX = PREFIX + "-"
"""What the names of links' desks begin with, and no queue's, since users' names begin with a letter or digit."""
POOL_PREFIX = PREFIX + "+"
"""What the names of pools begin with, so that a queue and a pool of one name do not collide."""
_DIGEST_CHARS = 7
_VALID_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def base36(number: int) -> str:
    """The shortest text of it."""
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits or "0"


def suffix() -> str:
    """What the names of this user's segments end in."""
    return "." + base36(_core.user_id())


def segment_name(user_name: str | None) -> str:
    """The real name for a queue's name, or a fresh random one for None."""
    if user_name is not None:
        return _fitted(PREFIX, "a queue's name", user_name)
    ending = suffix()
    room = _core.MAX_SEGMENT_NAME_BYTES - len(PREFIX) - len(ending)
    return PREFIX + "~" + base36(_core.random_u64()).rjust(13, "0")[: room - 1] + ending


def pool_segment_name(user_name: str) -> str:
    """The real name for a pool's name."""
    return _fitted(POOL_PREFIX, "a pool's name", user_name)


def _fitted(prefix: str, what: str, user_name: str) -> str:
    ending = suffix()
    room = _core.MAX_SEGMENT_NAME_BYTES - len(prefix) - len(ending)
    expected = f"1 to {_core.MAX_USER_NAME_BYTES} of the characters A-Z a-z 0-9 . _ - and start with a letter or digit"
    if not isinstance(user_name, str):
        raise refuse(what, expected, user_name)
    if not _VALID_NAME.match(user_name) or len(user_name) > _core.MAX_USER_NAME_BYTES:
        raise ArgumentError(f"{what} must be {expected}, not {user_name!r}")
    if len(user_name) > room:
        import hashlib

        number = int.from_bytes(hashlib.sha256(user_name.encode()).digest()[:8], "big")
        digest = base36(number).rjust(_DIGEST_CHARS, "0")[-_DIGEST_CHARS:]
        user_name = user_name[: room - _DIGEST_CHARS - 1] + "~" + digest
    return prefix + user_name + ending


def other_owners(name: str) -> list[int]:
    """The users, other than this one, that have a segment for the same user's name as segment `name`."""
    stem = name.rpartition(".")[0] + "."
    others = (found.removeprefix(stem) for found in _core.list_names(stem) if found != name)
    return sorted(int(suffix, 36) for suffix in others if suffix.isalnum())


def label(name: str) -> str:
    """What messages call the queue of this segment, if they know no other name."""
    return _core.queue_label("", name)
