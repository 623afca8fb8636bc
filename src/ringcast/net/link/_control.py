"""A stream's control connection: acknowledgements and words, read at all times; and whether the other side lives.

Each side says something every second. Four seconds without a word are a cut; but if this process was itself held up
meanwhile (stopped, suspended, starved), what has come in the meantime is read first, and then it counts anew.

Who does not listen is waited for by his own stream's threads only: one of them says the beats, and what others want
said.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from ringcast import _core
from ringcast.errors import LinkError
from ringcast.net.link._channel import Channel
from ringcast.net.link._words import ACK, PING, WORD, understood, words

BEAT_S = 1.0
SILENCE_S = 4.0
_HELD_UP_S = 0.5
LAST_WORDS_S = 0.5
"""So long is heard, if nothing can be said any more, what the other side has said before it hung up."""

log = logging.getLogger("ringcast.link")


class Control:
    """One control connection, with a thread that receives and one that speaks. `on_beat` is called by the latter, all
    other functions by the former.

    Acknowledgements are the tap's; without one they mean nothing.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        tap: _core.Tap | None = None,
        on_word: Callable[[dict[str, Any]], None],
        on_beat: Callable[[], dict[str, Any] | None],
        on_cut: Callable[[Control, bool, str], None],
    ) -> None:
        self.channel = channel
        channel.limit_sending(SILENCE_S)  # who does not listen is cut
        self._tap = tap
        self._on_word, self._on_beat, self._on_cut = on_word, on_beat, on_cut
        self._changed = threading.Condition()
        self._to_say: list[dict[str, Any]] = []
        self._has_news = True
        self._over = False
        self._unspoken = ""  # why nothing more can be said
        self._threads = [
            threading.Thread(target=self._run, name="ringcast-control", daemon=True),
            threading.Thread(target=self._speak, name="ringcast-speaker", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def say(self, word: dict[str, Any]) -> None:
        """Now, for which a thread of this stream may wait. Raises LinkError."""
        self.channel.send(WORD, words(word))

    def say_soon(self, word: dict[str, Any]) -> None:
        """After a beat, which is made after this call; without waiting."""
        with self._changed:
            self._to_say.append(word)
            self._changed.notify()

    def beat_soon(self) -> None:
        """There is news, which the next beat tells of: without waiting, and however often, it is said once."""
        with self._changed:
            self._has_news = True
            self._changed.notify()

    def close(self) -> None:
        self.channel.close()
        with self._changed:
            self._over = True
            self._changed.notify()

    def join(self, timeout: float) -> None:
        """Until all that the other side has said was heard, and it hangs up."""
        self._threads[0].join(timeout)

    def _run(self) -> None:
        silent = False
        try:
            self._listen()
            silent = True
            why = f"nothing was heard for {SILENCE_S:g} s"
        except LinkError as error:
            why = self._unspoken or str(error)
        except Exception as error:  # of one of the functions: this stream cannot go on, others can
            log.exception("what was heard from %s is a fault here", self.channel.peer)
            why = f"{type(error).__name__}: {error}"
        self.close()
        self._on_cut(self, silent, why)

    def _speak(self) -> None:
        try:
            while (to_say := self._next_to_say()) is not None:
                state = self._on_beat()
                self.channel.send(PING, b"") if state is None else self.say(state)
                for word in to_say:
                    self.say(word)
        except LinkError as error:
            self._unspoken = str(error)
            self.join(LAST_WORDS_S)
        except Exception as error:
            log.exception("what is to be said to %s is a fault here", self.channel.peer)
            self._unspoken = f"{type(error).__name__}: {error}"
        self.channel.close()  # which the other thread finds

    def _next_to_say(self) -> list[dict[str, Any]] | None:
        """After the next beat, for which it is time now. None: nothing more is said."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_news or self._to_say or self._over, BEAT_S)
            to_say, self._to_say, self._has_news = self._to_say, [], False
            return None if self._over else to_say

    def _listen(self) -> None:
        """Returns when the other side has been silent for too long."""
        heard = time.monotonic()
        while True:
            began = time.monotonic()
            pause = max(0.0, heard + SILENCE_S - began)
            if self._wait(pause):
                self._hear()
                heard = time.monotonic()
                continue
            heard = max(heard, self.channel.heard)
            held_up = time.monotonic() - began - pause
            if held_up > _HELD_UP_S:
                log.info("this process was held up for %.1f s, while it listened to %s", held_up, self.channel.peer)
                heard += held_up
            elif time.monotonic() - heard >= SILENCE_S:
                return

    def _wait(self, pause: float) -> bool:
        """Until there is something else than acknowledgements."""
        if self._tap is None:
            return self.channel.wait(pause)
        return _core.hear_acknowledgements(self.channel, self._tap, pause)

    def _hear(self) -> None:
        kind, _ = self.channel.next()
        payload = self.channel.read()
        if kind == WORD:
            self._on_word(understood(payload))
        elif kind != PING and not (kind == ACK and self._tap is None):
            raise LinkError(f"{self.channel.peer} said {kind} over control, which means nothing")
