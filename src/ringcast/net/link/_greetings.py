"""What proven peers say first on a connection, and who is turned away: so many at a time, and for so long.

Who has the key is believed to be a link, but not to behave as one: who shows it and then says nothing holds a thread
and a buffer. When there are too many, who has been silent for longest goes for the next one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from ringcast.errors import LinkError, RingcastError
from ringcast.net.link._channel import Channel
from ringcast.net.link._words import HELLO, REFUSED, receive, refused

MOST_GREETED = 32
GREETED_WITHIN_S = 5.0

log = logging.getLogger("ringcast.link")
Welcome = Callable[[Channel, bool, dict[str, Any]], None]
"""Gets the connection, whether it is for control, and the hello; raises if he is to be turned away."""


class Greetings:
    """Of one queue."""

    def __init__(self, welcome: Welcome) -> None:
        self._welcome = welcome
        self._silent: dict[Channel, None] = {}  # who is waited for, the oldest one first
        self._lock = threading.Lock()

    def begin(self, channel: Channel, control: bool) -> None:
        """Hear what he wants, on a thread of its own. Quick."""
        with self._lock:
            self._silent[channel] = None
            oldest = next(iter(self._silent)) if len(self._silent) > MOST_GREETED else None
            if oldest is not None:
                del self._silent[oldest]
        if oldest is not None:
            log.warning("%s, who has the key, says nothing, and others have come: it is turned away", oldest.peer)
            oldest.close()  # which ends its thread
        threading.Thread(target=self._greet, args=(channel, control), name="ringcast-greeting", daemon=True).start()

    def _greet(self, channel: Channel, control: bool) -> None:
        try:
            try:
                hello = receive(channel, HELLO, GREETED_WITHIN_S)
            finally:
                waited_for = self._is_silent_no_more(channel)
            if waited_for:
                self._welcome(channel, control, hello)
            else:
                channel.close()
        except RingcastError as error:
            self._turn_away(channel, error)
        except Exception as error:
            log.exception("a hello from %s was not understood", channel.peer)
            self._turn_away(channel, LinkError(f"a fault of the link process: {type(error).__name__}: {error}"))

    def _turn_away(self, channel: Channel, error: Exception) -> None:
        log.warning("%s, who has the key, is turned away: %s", channel.peer, error)
        with self._lock:
            has_room = len(self._silent) < MOST_GREETED
            if has_room:
                self._silent[channel] = None
        try:
            channel.limit_sending(GREETED_WITHIN_S)
            channel.send(REFUSED, refused(error))
            if has_room:
                channel.wait(GREETED_WITHIN_S)  # until he has read it and hangs up
        except LinkError:
            pass
        self._is_silent_no_more(channel)
        channel.close()

    def _is_silent_no_more(self, channel: Channel) -> bool:
        """False: he has gone for another one."""
        with self._lock:
            return self._silent.pop(channel, self) is None
