"""A stream's control connection: acknowledgements and words, read at all times; and whether the other side lives.

Each side says something every second. Four seconds without a word are a cut; but if this process was itself held up
meanwhile (stopped, suspended, starved), what has come in the meantime is read first, and then it counts anew.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from ringcast.errors import LinkError
from ringcast.net.link._channel import Channel
from ringcast.net.link._words import ACK, PING, POSITION, WORD, understood, words

BEAT_S = 1.0
SILENCE_S = 4.0
_HELD_UP_S = 0.5

log = logging.getLogger("ringcast.link")


class Control:
    """One control connection, with a thread that receives. All functions are called by it."""

    def __init__(
        self,
        channel: Channel,
        *,
        on_ack: Callable[[int], None],
        on_word: Callable[[dict[str, Any]], None],
        on_beat: Callable[[], dict[str, Any] | None],
        on_cut: Callable[[Control, bool, str], None],
    ) -> None:
        self._channel = channel
        channel.limit_sending(SILENCE_S)  # who does not listen keeps nobody waiting, of whichever stream
        self._on_ack, self._on_word, self._on_beat, self._on_cut = on_ack, on_word, on_beat, on_cut
        self._sending = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="ringcast-control", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def say(self, word: dict[str, Any]) -> None:
        """Raises LinkError."""
        self._send(WORD, words(word))

    def acknowledge(self, position: int) -> None:
        """Raises LinkError."""
        self._send(ACK, POSITION.pack(position))

    def close(self) -> None:
        self._channel.close()

    def _send(self, kind: int, payload: bytes) -> None:
        with self._sending:
            self._channel.send(kind, payload)

    def _run(self) -> None:
        silent = False
        try:
            self._listen()
            silent = True
            why = f"nothing was heard for {SILENCE_S:g} s"
        except LinkError as error:
            why = str(error)
        except Exception as error:  # of one of the functions: this stream cannot go on, others can
            log.exception("what was heard from %s is a fault here", self._channel.peer)
            why = f"{type(error).__name__}: {error}"
        self._channel.close()
        self._on_cut(self, silent, why)

    def _listen(self) -> None:
        """Returns when the other side has been silent for too long."""
        heard = beat = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= beat:
                word = self._on_beat()
                self._send(PING, b"") if word is None else self.say(word)
                beat = now + BEAT_S
            began = time.monotonic()
            pause = max(0.0, min(beat - began, heard + SILENCE_S - began))
            if self._channel.wait(pause):
                self._hear()
                heard = time.monotonic()
                continue
            held_up = time.monotonic() - began - pause
            if held_up > _HELD_UP_S:
                log.info("this process was held up for %.1f s, while it listened to %s", held_up, self._channel.peer)
                heard += held_up
            elif time.monotonic() - heard >= SILENCE_S:
                return

    def _hear(self) -> None:
        kind, _ = self._channel.next()
        payload = self._channel.read()
        if kind == ACK and len(payload) == POSITION.size:
            self._on_ack(POSITION.unpack(payload)[0])
        elif kind == WORD:
            self._on_word(understood(payload))
        elif kind != PING:
            raise LinkError(f"{self._channel.peer} said {kind} over control, which means nothing")
