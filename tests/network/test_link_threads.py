"""The link process's threads: none keeps another one waiting, and what one of them cannot do is done later."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from ringcast import _core
from ringcast._names import segment_name
from ringcast._version import __version__
from ringcast.codec import codec
from ringcast.errors import LinkError
from ringcast.net._deadline import Deadline
from ringcast.net.link import _control
from ringcast.net.link._channel import Channel
from ringcast.net.link._control import Control
from ringcast.net.link._dial import dial
from ringcast.net.link._exported import Exported
from ringcast.net.link._incoming import Incoming
from ringcast.net.link._patience import Patience
from ringcast.net.link._readers import Readers
from ringcast.net.link._relay import Relay
from ringcast.net.link._service import Service
from ringcast.net.link._words import BATCH, WORD, receive, words
from ringcast.waiting import WaitSettings
from tests.interrupts import Meanwhile
from tests.network.channels import connected
from tests.support import DEADLINE_S, Background

MAX_CHUNK_BYTES, MAX_CHUNKS = 4096, 4
KEY = bytes(32)
WELCOME: dict[str, Any] = {
    "homes": 1, "max_chunk_bytes": MAX_CHUNK_BYTES, "max_chunks": MAX_CHUNKS, "link_timeout": 5.0, "first": 0,
    "policy": [0, 0, 0, 0], "host": "there", "name": "", "data_budget": 1 << 20, "pid": os.getpid(), "open": 1,
}  # fmt: skip
PLACED = {"rank": 0, "kept": True, "given_up": False, "wished": 0, "version": 1}


@contextmanager
def exported(homes: int) -> Iterator[Exported]:
    """A queue of this process that so many readers of other machines may read."""
    segment = _core.Segment.create(
        name=segment_name(None), user_name="", release=__version__, n_reader=homes, ranks=[],
        max_chunk_bytes=MAX_CHUNK_BYTES, max_chunks=MAX_CHUNKS, max_bytes=0, max_leases=0, data_budget=1 << 20,
    )  # fmt: skip
    writer: _core.End[Any] = _core.End(
        segment, writer=True, rank=None, strategy=WaitSettings.of(None).strategy, policy=(0, 0, 0, 0),
        codec=codec("raw"), reporter=Readers(), report_interval_ns=60_000_000_000,
    )  # fmt: skip
    request = {
        "encrypt": False, "link_timeout": 60.0, "segment": segment.name, "epoch": segment.epoch, "policy": [0, 0, 0, 0]
    }  # fmt: skip
    listener: Any = None
    one = Exported(request, KEY, listener)
    yield one
    streams = one.streams
    one.close()
    for stream in streams:
        stream._thread.join(DEADLINE_S)
    writer._close(0)


@pytest.fixture
def unheard(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Channel, Background]]:
    """A connection over which nothing more can be sent, and a thread that waits until something can: for longer than
    any test."""
    monkeypatch.setattr(_control, "SILENCE_S", 100 * DEADLINE_S)
    with connected() as (channel, _):
        yield channel, Background(send_until_it_ends, channel)


def send_until_it_ends(channel: Channel) -> None:
    with suppress(LinkError):
        while True:
            channel.send(WORD, words({"op": "nothing", "with": "x" * 200_000}))


def until_it_is_full(channel: Channel) -> None:
    sent = -1
    while sent != channel.sent_bytes:
        sent = channel.sent_bytes
        time.sleep(0.2)


def test_a_reader_that_comes_is_not_kept_waiting_until_links_that_do_not_listen_are_told(
    unheard: tuple[Channel, Background],
) -> None:
    channel, sending = unheard
    with connected() as (one, _), connected() as (another, _), exported(2) as queue:
        queue.welcome(one, False, {"stream": "first", "host": "first", "rank": 0, "pid": os.getpid()})
        queue.welcome(channel, True, {"stream": "first"})
        until_it_is_full(channel)
        second = {"stream": "second", "host": "second", "rank": 1, "pid": os.getpid()}
        Background(queue.welcome, another, False, second).result()
        assert sending.running


def leaves(incoming: Incoming) -> bool:
    return incoming._leaving


def test_who_looks_after_all_streams_waits_for_none(unheard: tuple[Channel, Background]) -> None:
    channel, sending = unheard
    wanted: dict[str, Any] = {
        "epoch": 1, "address": ["127.0.0.1", 1], "encrypt": True, "local_ranks": [],
        "shape": [1, MAX_CHUNK_BYTES, MAX_CHUNKS],
    }  # fmt: skip
    incoming = Incoming(wanted, KEY)
    incoming._relay = relay = Relay("a test's peer", 0, wanted["shape"], WELCOME)
    try:
        with connected() as (data, _):
            incoming._connected(data, channel)
            until_it_is_full(channel)
            looking = Background(incoming.look)
            looking.result()
            with incoming._lock:  # as who joins has it, for as long as that takes
                Background(incoming.forsake).result()
            assert not leaves(incoming)
            incoming.forsake()
            assert leaves(incoming)
            assert sending.running
    finally:
        incoming._hang_up()
        relay.end(0, "")
        relay.let_go(False)


def test_between_a_word_and_what_was_said_before_there_is_a_beat_that_knows_all_that_the_word_does() -> None:
    beats = itertools.count()

    def beat() -> dict[str, Any]:
        number = next(beats)
        if number == 0:  # as from another thread, which has seen what this beat does not tell
            control.say_soon({"op": "leave"})
        return {"beat": number}

    with connected() as (here, there):
        control = Control(here, on_word=lambda _: None, on_beat=beat, on_cut=lambda *_: None)
        control.start()
        said = [receive(there, WORD, DEADLINE_S) for _ in range(3)]
        assert said == [{"beat": 0}, {"beat": 1}, {"op": "leave"}]
        control.close()


def test_a_stream_waits_for_no_reader_once_its_connection_is_over() -> None:
    """What it waited with is not published: it comes again, over the next connection."""
    relay = Relay("a test's peer", 0, [1, MAX_CHUNK_BYTES, MAX_CHUNKS], WELCOME)
    try:
        with connected() as (here, there), connected() as (control, _):
            there.send(BATCH, b"".join(struct.pack("<IBBH", 1, 0, 0, 0) + b"x" for _ in range(MAX_CHUNKS + 1)))

            def meanwhile() -> None:
                assert relay.waits
                raise LinkError("it is cut")

            with pytest.raises(LinkError, match="cut"):
                relay.publish(relay.flow(here, control), meanwhile)
            assert not relay.waits
            assert relay.head == MAX_CHUNKS
    finally:
        relay.end(0, "")
        relay.let_go(False)


def test_a_listener_that_is_not_needed_any_more_ends_while_somebody_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    key_of = Service._key_of

    def key_of_once_asked(self: Service, epoch: int) -> Any:
        asked.set()
        return key_of(self, epoch)

    monkeypatch.setattr(Service, "_key_of", key_of_once_asked)
    service = Service(lambda place: False)
    listener, address = service._listening({"environment": {}, "connect_ip": "127.0.0.1", "towards": None})
    diallers = []

    def look() -> None:
        """With the service's lock."""
        diallers.append(Background(dial, address, 1, KEY, False, Deadline(DEADLINE_S), control=False))
        assert asked.wait(DEADLINE_S)

    over: Any = SimpleNamespace(
        listener=listener, is_over=True, look=look, close=lambda: None, segment=SimpleNamespace(label="a queue"),
        key=KEY, encrypt=False,
    )  # fmt: skip
    service._exported[1] = over, 0
    Background(service.look).result()
    assert not service._listeners
    with pytest.raises(LinkError):
        diallers[0].result()


def test_what_one_writer_s_environment_says_of_where_to_listen_is_not_said_of_another_s_queue() -> None:
    service = Service(lambda place: False)
    wanted: dict[str, Any] = {"connect_ip": "127.0.0.1", "towards": None}
    listeners = []
    try:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        for environment in ({"RINGCAST_PORT_RANGE": str(port)}, {}):
            listener, address = service._listening({**wanted, "environment": environment})
            listeners.append(listener)
            assert (address[1] == port) == bool(environment)
    finally:
        for listener in listeners:
            listener.close()


def test_a_stream_is_not_given_up_when_somebody_comes_while_others_are_looked_after() -> None:
    service = Service(lambda place: True)
    forsaken: list[int] = []

    def comes() -> None:
        service._readers[0] = 1

    one: Any = SimpleNamespace(epoch=1, over=False, look=comes, forsake=lambda: forsaken.append(1))
    service._incoming[1] = one
    service.look()
    assert not forsaken
    del service._readers[0]
    one.look = lambda: None
    service.look()
    assert forsaken


def test_who_is_dead_or_unwanted_when_a_stream_ends_is_in_nobody_s_way() -> None:
    """The link process's own thread finds out, and serves all other streams."""
    state = {"version": 1, "open": 0, "evict": [[0, 1]], "closed": True, "over": True, "ready": False, "published": 0}
    relay = Relay("a test's peer", 0, [1, MAX_CHUNK_BYTES, MAX_CHUNKS], WELCOME)
    relay.seat(0, os.getpid(), 0, PLACED)
    relay.heed({**state, "evict": [[0, 0]]})
    relay.end(0, "")
    for what in ("died", "placed"):
        states: list[list[Any]] = [[0, what, os.getpid(), 0, None, None]]
        relay.drop_the_dead(states)
        relay.drop_the_absent(states)
    relay.heed({**state, "version": 2})
    relay.heed({**state, "version": 3, "evict": []})
    relay.let_go(False)


def test_where_there_is_no_thread_for_it_readiness_is_confirmed_at_the_next_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = {"version": 1, "open": 1, "evict": [], "closed": False, "over": False, "ready": True, "published": 0}
    relay = Relay("a test's peer", 0, [1, MAX_CHUNK_BYTES, MAX_CHUNKS], WELCOME)
    confirmed = threading.Event()
    monkeypatch.setattr(relay, "confirm_ready", confirmed.set)

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    try:
        with monkeypatch.context() as without:
            without.setattr(threading.Thread, "start", start)
            with pytest.raises(RuntimeError, match="thread"):
                relay.heed(state)
        assert not confirmed.is_set()
        relay.heed(state)
        assert confirmed.wait(DEADLINE_S)
    finally:
        relay.end(0, "")
        relay.let_go(False)


def test_wishes_are_heeded_at_any_instruction_of_a_look_at_them() -> None:
    for n in itertools.count():
        patience = Patience(60.0, None)

        def look(patience: Patience = patience) -> None:
            for now in (0.0, 1.0):
                patience.ends(
                    now, connected=True, under_way=True, progress=0, waits_for_readers=True, wishes={0: 1, 1: 1, 2: 1}
                )

        if not Meanwhile([Patience.ends], n, partial(patience.heed, 1, 1)).run(look):
            break
    assert n > 50
