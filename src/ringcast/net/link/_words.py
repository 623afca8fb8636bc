"""What two links say to each other over a stream's two connections, once each has shown that it has the queue's key.

    data        HELLO, WELCOME or REFUSED; then BATCH, or BEGIN and BODY..., for each message; END
    control     HELLO; then ACK, PING and WORD, both ways

A WORD is JSON. Those that say how things stand (`state`) are said again whenever that changes, and after each cut, so
that one that is lost does not matter.
"""

from __future__ import annotations

import json
from typing import Any

from ringcast.errors import LinkError
from ringcast.net.link._channel import Channel

HELLO, WELCOME, REFUSED, BATCH, BEGIN, BODY, END, ACK, PING, WORD = range(1, 11)
"""As in src/core/link/wire.hpp."""

CLOSED, WRITER_DIED, LINK_DIED = 1, 2, 3
"""Why a ring ends: what its word `closed` says."""


def words(value: Any) -> bytes:
    return json.dumps(value).encode()


def understood(payload: bytes) -> dict[str, Any]:
    """Raises LinkError."""
    try:
        text = payload.decode()
        value = json.loads(text)
        if "\\ud" in text.lower():  # half of a character, if no other half follows: nothing native takes that
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise LinkError(f"the link at the other side said what is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise LinkError(
            f"the link at the other side said a {type(value).__name__}, which is nothing that it has to say"
        )
    return value


INT32_MAX, UINT32_MAX, INT64_MAX = (1 << 31) - 1, (1 << 32) - 1, (1 << 63) - 1


def number_in(said: dict[str, Any], name: str, least: int = 0, most: int = INT64_MAX) -> int:
    """Raises LinkError, as all of these do: what comes over the wire is looked at before anything is done."""
    return number(said.get(name), name, least, most)


def number(value: Any, what: str, least: int = 0, most: int = INT64_MAX) -> int:
    if type(value) is not int or not least <= value <= most:
        raise _impossible(what, value)
    return value


def seconds_in(said: dict[str, Any], name: str) -> float:
    value = said.get(name)
    if type(value) not in (int, float) or not 0 <= value < float("inf"):  # type: ignore[operator]
        raise _impossible(name, value)
    return float(value)  # type: ignore[arg-type]


def text_in(said: dict[str, Any], name: str, most: int = 255) -> str:
    value = said.get(name)
    if type(value) is not str or len(value) > most:
        raise _impossible(name, value)
    return value


def flag_in(said: dict[str, Any], name: str) -> bool:
    value = said.get(name)
    if type(value) is not bool:
        raise _impossible(name, value)
    return value


def rows_in(said: dict[str, Any], name: str, columns: int) -> list[list[Any]]:
    value = said.get(name)
    if type(value) is not list or not all(type(row) is list and len(row) == columns for row in value):
        raise _impossible(name, value)
    return value


def _impossible(what: str, value: Any) -> LinkError:
    shown = f"{value!r:.60}" if type(value) in (str, int, float, bool, type(None)) else f"a {type(value).__name__}"
    return LinkError(f"the link at the other side says {what}={shown}, which this release does not understand")


def receive(channel: Channel, wanted: int, timeout: float) -> dict[str, Any]:
    """The next record, which must be of this kind. Raises LinkError, with what a REFUSED says."""
    if not channel.wait(timeout):
        raise LinkError(f"{channel.peer} has said nothing for {timeout:.3g} s")
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
