"""The last that two links say to each other of a stream: that all has come, and that this is known."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from typing import Any, cast

import pytest

from ringcast.errors import LinkError
from ringcast.net._deadline import Deadline
from ringcast.net.link import _control, _incoming
from ringcast.net.link._channel import Channel
from ringcast.net.link._control import Control
from ringcast.net.link._dial import DialError, dial
from ringcast.net.link._incoming import Incoming
from ringcast.net.link._service import Service
from ringcast.net.link._words import CLOSED, END, HELLO, PING, WELCOME, WORD, receive, understood, words
from tests.network.channels import KEY, QUEUE, Accepted, Door, connected
from tests.network.test_link_threads import exported
from tests.support import DEADLINE_S, Background, eventually

SHAPE = [1, 4096, 4]
PLACED = {"rank": 0, "kept": True, "given_up": False, "wished": 0, "version": 1}
WELCOMED: dict[str, Any] = {
    "homes": 1, "max_chunk_bytes": SHAPE[1], "max_chunks": SHAPE[2], "link_timeout": DEADLINE_S, "first": 7, "open": 0,
    "policy": [0, 0, 0, 0], "host": "there", "name": "", "data_budget": 1 << 20, "pid": os.getpid(), "placed": PLACED,
}  # fmt: skip


class Writer:
    """What the writer's link is to the readers' one, `incoming`, which is this process's, too: over one pair of
    connections at a time."""

    def __init__(self, door: Door, homes: int = 1) -> None:
        self._door = door
        host, port = door.address
        shape = [homes, *SHAPE[1:]]
        wanted = {"epoch": QUEUE, "address": [host, port], "encrypt": True, "local_ranks": [], "shape": shape}
        self.incoming = Incoming(wanted, KEY)

    def comes(self, welcome: dict[str, Any]) -> dict[str, Any]:
        """The other link connects: what it says first."""
        self.data = self._door.accepted()
        hello = receive(self.data, HELLO, DEADLINE_S)
        self.data.send(WELCOME, words(welcome))
        self.control = self._door.accepted()
        receive(self.control, HELLO, DEADLINE_S)
        return hello

    def confirms(self) -> None:
        self.control.send(WORD, words({"op": "ended"}))
        eventually(lambda: self.incoming._is_confirmed, "that it is heard")
        self.hangs_up()

    def hangs_up(self) -> None:
        self.data.close()
        self.control.close()


def heard(channel: Channel) -> dict[str, Any] | None:
    kind, _ = channel.next()
    said = channel.read()
    assert kind in (PING, WORD) or len(said) == 8
    return understood(said) if kind == WORD else None


def hears_the_end(control: Channel) -> None:
    while (said := heard(control)) != {"op": "ended"}:
        assert said is None or said["op"] == "state"


@pytest.mark.parametrize("cut", ["before it is heard", "before it is known to be heard"])
def test_that_all_has_come_is_said_again_until_it_is_known_to_be_heard(cut: str) -> None:
    with closing(Door()) as door:
        writer = Writer(door)
        incoming = writer.incoming
        joining = Background(incoming.join, 0, os.getpid(), 0, Deadline(DEADLINE_S))
        assert writer.comes(WELCOMED)["published"] is None
        joining.result()
        for _ in range(2):
            writer.data.send(END, bytes([CLOSED, 1]))
            if cut == "before it is known to be heard":
                hears_the_end(writer.control)
            writer.hangs_up()
            assert writer.comes({})["published"] == WELCOMED["first"]
        writer.data.send(END, bytes([CLOSED, 1]))
        hears_the_end(writer.control)
        assert not incoming._has_finished
        writer.confirms()
        eventually(lambda: incoming._has_finished, "the end")
        assert door.peers.empty()
        assert incoming.let_go(False)


def test_who_has_been_placed_before_the_end_takes_its_place_though_the_end_comes_first() -> None:
    """Answers and messages come by two connections."""
    with closing(Door()) as door:
        writer = Writer(door, homes=2)
        incoming = writer.incoming
        joining = Background(incoming.join, 0, os.getpid(), 0, Deadline(DEADLINE_S))
        writer.comes({**WELCOMED, "homes": 2})
        first = joining.result()
        late = Background(incoming.join, 1, os.getpid(), 0, Deadline(DEADLINE_S))
        while (asked := heard(writer.control)) is None or asked["op"] != "place":
            pass
        writer.data.send(END, bytes([CLOSED, 1]))
        hears_the_end(writer.control)
        assert incoming.over
        writer.control.send(WORD, words({**PLACED, "op": "placed", "id": asked["id"], "rank": 1, "version": 2}))
        writer.confirms()
        assert late.result() == {**first, "rank": 1}
        eventually(lambda: incoming._has_finished, "the end")
        assert incoming.let_go(False)


def test_connections_that_bring_nothing_and_do_not_last_are_none_and_not_dialled_without_a_pause() -> None:
    with closing(Door()) as door:
        incoming = Writer(door).incoming
        dialled = []

        def serve() -> None:
            """Welcomes whoever comes, and hangs up."""
            data: list[Channel] = []
            while (peer := door.peers.get()).channel is not None:
                hello = receive(peer.channel, HELLO, DEADLINE_S)
                if peer.control:
                    peer.channel.close()
                    data.pop().close()
                else:
                    data.append(peer.channel)
                    dialled.append(hello["published"])
                    peer.channel.send(WELCOME, words({**WELCOMED, "link_timeout": 1.0} if len(dialled) == 1 else {}))

        serving = Background(serve)
        incoming.join(0, os.getpid(), 0, Deadline(DEADLINE_S))
        eventually(lambda: incoming._has_finished, "that it is given up")
        assert "out of reach for 1 s" in incoming._lost
        assert len(dialled) <= 2 + 1.0 / 0.1
        door.peers.put(Accepted(QUEUE, False, cast("Channel", None)))
        serving.result()
        assert incoming.let_go(False)


def test_what_was_said_before_the_other_side_hung_up_is_heard_though_nothing_can_be_said_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_control, "LAST_WORDS_S", DEADLINE_S)
    heard_words: list[dict[str, Any]] = []
    cut = threading.Event()

    def hear(word: dict[str, Any]) -> None:
        def cannot_speak() -> bool:
            control.beat_soon()
            return bool(control._unspoken)

        heard_words.append(word)
        eventually(cannot_speak, "that nothing can be said any more")

    with connected() as (here, there):
        control = Control(here, on_word=hear, on_beat=lambda: None, on_cut=lambda *_: cut.set())
        said = [{"op": "state"}, {"op": "leave"}]
        for word in said:
            there.send(WORD, words(word))
        there.close()
        control.start()
        assert cut.wait(DEADLINE_S)
        assert heard_words == said


def test_that_no_reader_is_left_is_said_again_until_it_is_known_to_be_heard() -> None:
    with closing(Door()) as door:
        writer = Writer(door)
        incoming = writer.incoming
        joining = Background(incoming.join, 0, os.getpid(), 0, Deadline(DEADLINE_S))
        writer.comes(WELCOMED)
        joining.result()
        incoming._leaving = True  # as `forsake` finds
        for _ in range(2):
            writer.hangs_up()
            assert writer.comes({})["published"] == WELCOMED["first"]
            assert not incoming.over
        writer.confirms()
        eventually(lambda: incoming._has_finished, "the end")
        assert door.peers.empty()
        assert incoming.let_go(False)


def test_who_waits_for_one_whose_dialling_fails_dials_by_himself_and_is_looked_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialling, fails = threading.Event(), threading.Event()
    nowhere = ["127.0.0.1", 1]

    def dial_in_vain(address: Any, *given: Any, **options: Any) -> Channel:
        if list(address) != nowhere:
            return dial(address, *given, **options)
        dialling.set()
        assert fails.wait(DEADLINE_S)
        raise DialError("there is no way")

    monkeypatch.setattr(_incoming, "dial", dial_in_vain)
    service = Service(lambda place: True)
    wanted = {
        "epoch": QUEUE, "encrypt": True, "local_ranks": [], "shape": SHAPE, "key": KEY.hex(), "within": DEADLINE_S,
        "pid": os.getpid(), "rank": 0,
    }  # fmt: skip
    with closing(Door()) as door:
        writer = Writer(door)
        first = Background(service.read, 0, {**wanted, "address": nowhere})
        assert dialling.wait(DEADLINE_S)
        second = Background(service.read, 1, {**wanted, "address": list(door.address)})
        eventually(lambda: 1 in service._readers, "that the second one waits")
        fails.set()
        with pytest.raises(DialError):
            first.result()
        writer.comes(WELCOMED)
        second.result()
        writer.incoming = service._incoming[QUEUE]
        assert not service._streams_over
        writer.data.send(END, bytes([CLOSED, 1]))
        hears_the_end(writer.control)
        writer.confirms()
        eventually(lambda: writer.incoming._has_finished, "the end")
        assert writer.incoming.let_go(False)


def test_a_welcome_is_waited_for_no_longer_than_the_reader_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_incoming, "WELCOMED_WITHIN_S", 100 * DEADLINE_S)
    with closing(Door()) as door:
        joining = Background(Writer(door).incoming.join, 0, os.getpid(), 0, Deadline(0.5))
        with closing(door.accepted()), pytest.raises(LinkError, match=r"has said nothing for 0\.\d+ s"):
            joining.result()


@pytest.mark.parametrize("what", ["ended", "leave"])
def test_who_hears_that_all_has_come_or_nobody_is_left_says_so(what: str) -> None:
    with exported(1) as queue, connected() as (data, _), connected() as (control, there):
        queue.welcome(data, False, {"stream": "a stream", "host": "there", "rank": 0, "pid": os.getpid()})
        queue.welcome(control, True, {"stream": "a stream"})
        there.send(WORD, words({"op": what}))
        hears_the_end(there)
