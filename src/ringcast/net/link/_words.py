"""What two links say to each other over a stream's two connections, once each has shown that it has the queue's key.

    data        HELLO, WELCOME or REFUSED; then BATCH, or BEGIN and BODY..., for each message; END
    control     HELLO; then ACK, PING and WORD, both ways

A WORD is JSON. Those that say how things stand (`state`) are said again whenever that changes, and after each cut, so
that one that is lost does not matter.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from ringcast.errors import LinkError
from ringcast.net.link._channel import Channel

HELLO, WELCOME, REFUSED, BATCH, BEGIN, BODY, END, ACK, PING, WORD = range(1, 11)

LARGE_BYTES = 96 << 10
"""A message of so many bytes or more has records of its own, which are received where it will lie."""

BEGINNING = struct.Struct("<QBB")
"""Of a large message: its length, its encoding, and whether it is framed."""
POSITION = struct.Struct("<Q")

CLOSED, WRITER_DIED, LINK_DIED = 1, 2, 3
"""Why a ring ends: what its word `closed` says."""


def words(value: Any) -> bytes:
    return json.dumps(value).encode()


def understood(payload: memoryview) -> dict[str, Any]:
    """Raises LinkError."""
    try:
        value = json.loads(bytes(payload))
    except ValueError as error:
        raise LinkError(f"the link at the other side said what is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise LinkError(f"the link at the other side said {value!r:.100}, which is nothing that it has to say")
    return value


def receive(channel: Channel, wanted: int, timeout: float) -> dict[str, Any]:
    """The next record, which must be of this kind. Raises LinkError, with what a REFUSED says."""
    if not channel.wait(timeout):
        raise LinkError(f"{channel.peer} has said nothing for {timeout} s")
    kind, _ = channel.next()
    said = understood(channel.read())
    if kind == REFUSED:
        raise refusal(said)
    if kind != wanted:
        raise LinkError(f"{channel.peer} said {kind}, where {wanted} is to come")
    return said


class LostError(LinkError):
    """The stream is given up at the other side: there is nothing to go on with."""


def refusal(said: dict[str, Any]) -> Exception:
    from ringcast import errors

    if said.get("lost"):
        return LostError(str(said.get("message")))
    kind = getattr(errors, str(said.get("error")), LinkError)
    is_ours = isinstance(kind, type) and issubclass(kind, errors.RingcastError)
    error: Exception = (kind if is_ours else LinkError)(str(said.get("message")))
    return error


def refused(error: Exception) -> bytes:
    return words({"error": type(error).__name__, "message": str(error), "lost": isinstance(error, LostError)})
