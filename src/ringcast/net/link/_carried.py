"""What a stream's connections have carried, and what is said of it in its ring's memory, for whoever looks."""

from __future__ import annotations

import threading

from ringcast import _core
from ringcast.net.link._channel import Channel


class Carried:
    """Of one stream: bytes over the wire, of connections that have ended, too, and for how long there is none."""

    def __init__(self, encrypt: bool) -> None:
        self._encrypt = encrypt
        self._channels: list[Channel] = []
        self._before = [0, 0]  # by those that are not looked at any more
        self._lock = threading.Lock()

    def watch(self, channel: Channel) -> None:
        """Count this connection's bytes, too."""
        with self._lock:
            ended = [one for one in self._channels if one.closed]
            for one in ended:
                self._before = [self._before[0] + one.sent_bytes, self._before[1] + one.received_bytes]
            self._channels = [*(one for one in self._channels if one not in ended), channel]

    @property
    def bytes(self) -> tuple[int, int]:
        """Sent and received, ever."""
        with self._lock:
            sent, received = self._before
            for one in self._channels:
                sent, received = sent + one.sent_bytes, received + one.received_bytes
            return sent, received

    def note(
        self,
        segment: _core.Segment,
        seat: int | None,
        *,
        reconnects: int,
        cut_at: float | None,
        published: int = 0,
    ) -> None:
        """Say it in the memory of the ring that is read from this seat, or that is the stream's relay."""
        sent, received = self.bytes
        since = 0 if cut_at is None else max(1, int(max(cut_at, 0.0) * 1e9))
        segment.note_wire(seat, sent, received, max(0, reconnects), since, self._encrypt, published)
