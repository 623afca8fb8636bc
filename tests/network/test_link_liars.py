"""Who has the key and does not behave as a link: what he says is refused or of no effect, and what he keeps others
waiting for ends. Real link processes, one machine; this process is the one that lies.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ringcast import MessageQueue
from ringcast.errors import LinkDiedError, LinkError, QueueClosedError, QueueTimeoutError, RingcastError
from ringcast.net._deadline import Deadline
from ringcast.net.link import _words
from ringcast.net.link._channel import Channel
from ringcast.net.link._dial import dial
from ringcast.net.link._greetings import GREETED_WITHIN_S, MOST_GREETED
from ringcast.net.link._listener import Listener
from ringcast.net.link._words import BATCH, BEGIN, BODY, END, HELLO, PING, WELCOME, WORD, words
from tests.network.linked import address_of
from tests.support import eventually, runs

MIB = 1 << 20
BEGINNING = struct.Struct("<QBB")
"""Of a large message: its length, its encoding, and whether it is framed."""
POSITION = struct.Struct("<Q")
HOST = "liar"
PATIENCE_S = 4.0
"""Of a link whose `link_timeout` is no longer."""
SLACK_S = 20.0
"""For a machine that does other things besides."""
NESTED = b"[" * 100_000 + b"]" * 100_000

LINKS_STAY = True


@contextmanager
def writer(n_reader: int, **options: Any) -> Iterator[MessageQueue]:
    options = {"connect_ip": "127.0.0.1", "link_timeout": 3, "on_reader_death": "evict", **options}
    queue: MessageQueue = MessageQueue(n_reader, 0, **options)
    try:
        yield queue
    finally:
        with suppress(RingcastError):
            queue.close(linger=0)


@contextmanager
def read_queue() -> Iterator[tuple[MessageQueue, MessageQueue]]:
    """The writer's end, and that of an honest reader of rank 0; one more is to come."""
    with writer(2, max_chunks=256) as queue:
        with closing(MessageQueue.create_from_handle(queue.export_handle(), 0)) as reader:
            yield queue, reader


class Liar:
    """A link that was given the key, with a place for rank `rank` if it asks in order."""

    def __init__(self, queue: MessageQueue, rank: int = 1) -> None:
        handle = queue.export_handle()
        assert handle.key is not None
        self.key, self.epoch, self.address = bytes.fromhex(handle.key), handle.epoch, address_of(handle)
        self.encrypt = handle.encrypt
        self.stream = os.urandom(8).hex()
        self.rank = rank
        self.first: dict[str, Any] = {
            "stream": self.stream, "host": HOST, "rank": rank, "pid": 7, "published": None,
        }  # fmt: skip
        self.base = 0

    def dialled(self, control: bool = False) -> Channel:
        return dial(self.address, self.epoch, self.key, self.encrypt, Deadline(SLACK_S), control=control)

    def says(self, hello: bytes, control: bool = False, kind: int = HELLO) -> dict[str, Any]:
        """What a connection that begins so is told: its welcome. Raises what it is refused with."""
        with closing(self.dialled(control)) as channel:
            channel.send(kind, hello)
            return _words.receive(channel, WELCOME, SLACK_S)

    def joins(self) -> None:
        """As a link would; its place is then this stream's."""
        self.data = self.dialled()
        self.data.send(HELLO, words(self.first))
        self.welcome = _words.receive(self.data, WELCOME, SLACK_S)
        self.base = self.welcome["first"]
        self.first["published"] = self.base
        self.controls()

    def comes_back(self) -> None:
        self.hangs_up()
        self.data = self.dialled()
        self.data.send(HELLO, words({"stream": self.stream, "published": self.base}))
        _words.receive(self.data, WELCOME, SLACK_S)
        self.controls()

    def controls(self) -> None:
        self.control = self.dialled(control=True)
        self.control.send(HELLO, words({"stream": self.stream}))

    def is_cut(self) -> bool:
        """Reads what there is of control."""
        try:
            while self.control.wait(0):
                self.control.next()
                self.control.read()
        except LinkError:
            return True
        return False

    def beats(self, word: dict[str, Any] | None = None) -> Callable[[], None]:
        """Says that it lives, and this, four times a second, until the function that is returned is called."""
        over = threading.Event()

        def beat() -> None:
            with suppress(LinkError):
                while not over.wait(0.25) and not self.is_cut():
                    self.control.send(PING if word is None else WORD, b"" if word is None else words(word))

        thread = threading.Thread(target=beat)
        thread.start()

        def stop() -> None:
            over.set()
            thread.join()
            self.hangs_up()

        return stop

    def hangs_up(self) -> None:
        self.data.close()
        self.control.close()


def link_of(queue: MessageQueue) -> int:
    return int(eventually(lambda: queue.stats()["links"], "a stream")[0]["pid"])


def facts_of(pid: int) -> tuple[int, int]:
    """Threads of a process, and bytes of its memory."""
    text = Path(f"/proc/{pid}/status").read_text()
    facts = dict(line.split(":", 1) for line in text.splitlines())
    return int(facts["Threads"]), int(facts["VmRSS"].split()[0]) << 10


def test_a_hello_that_cannot_be_is_refused_and_takes_no_place() -> None:
    with writer(2, max_chunks=256) as queue:
        liar = Liar(queue)
        good = liar.first
        sent = 0
        with closing(MessageQueue.create_from_handle(queue.export_handle(), 0)) as reader:
            wrong = [
                b"", b"\xff", b"no JSON", b"7", b"null", b'["stream"]', b"{}", NESTED, bytes(96 << 10),
                *(words({**good, name: value}) for name, value in [
                    ("stream", None), ("stream", ["a"]), ("stream", "a" * 65), ("host", 7), ("host", "h" * 256),
                    ("host", "\ud800"),
                    ("rank", "1"), ("rank", 1.5), ("rank", True), ("rank", 1 << 31), ("rank", -(1 << 40)),
                    ("rank", 10**400), ("pid", -1), ("pid", 1 << 32), ("pid", [7]), ("pid", None), ("published", 0),
                    ("published", "all"),
                ]),
                json.dumps(good).replace('"pid": 7', '"pid": Infinity').encode(),
                json.dumps(good).replace('"pid": 7', '"pid": NaN').encode(),
            ]  # fmt: skip
            for hello in wrong:
                with pytest.raises(LinkError):
                    liar.says(hello)
                with pytest.raises(LinkError):
                    liar.says(hello, control=True)
                queue.enqueue(sent, timeout=SLACK_S)
                assert reader.dequeue(timeout=SLACK_S) == sent
                sent += 1
            for kind in (BATCH, WORD, 200):
                with pytest.raises(LinkError):
                    liar.says(words(good), kind=kind)
            with closing(MessageQueue.create_from_handle(queue.export_handle(), 1)) as other:
                assert [other.dequeue(timeout=SLACK_S) for _ in range(sent)] == list(range(sent))


def test_a_word_that_cannot_be_is_a_cut_and_nobody_elses() -> None:
    with writer(2, max_chunks=256) as queue:
        with closing(MessageQueue.create_from_handle(queue.export_handle(), 0)) as reader:
            liar = Liar(queue)
            liar.joins()
            row = [1, "attached", 7, 0, None, 0]
            state = {"op": "state", "readers": [row], "waits": False}
            wrong: list[tuple[int, bytes]] = [
                (_words.ACK, b""), (_words.ACK, bytes(7)), (_words.ACK, b"\xff" * 8),
                (_words.ACK, POSITION.pack(liar.base + 200)), (BATCH, bytes(8)), (END, b"\1\0"), (255, b""),
                *((WORD, text) for text in (b"", b"\xff", b"7", b"[]", NESTED)),
                *((WORD, words(word)) for word in [
                    {**state, "waits": 1}, {**state, "readers": None}, {**state, "readers": [7]},
                    {**state, "readers": [row[:5]]}, {"op": "place"}, {"op": "failed", "why": ["no"]},
                    {"op": "place", "id": 1, "rank": "1", "pid": 7}, {"op": "place", "id": [], "rank": 1, "pid": 7},
                    {"op": "place", "id": 1, "rank": 1 << 31, "pid": 7}, {"op": "place", "id": 1, "rank": 1, "pid": -1},
                    *({**state, "readers": [[*row[:at], value, *row[at + 1 :]]]} for at, value in [
                        (0, "1"), (0, -1), (0, [1]), (0, 1 << 32), (1, "open"), (1, "lost"), (1, 7), (1, ["left"]),
                        (2, -1), (2, 1 << 32), (3, -1), (3, 10**30), (4, "bored"), (4, {}), (5, -1), (5, 1.5),
                    ]),
                ]),
            ]  # fmt: skip
            for sent, (kind, payload) in enumerate(wrong):
                with suppress(LinkError):
                    liar.control.send(kind, payload)
                eventually(liar.is_cut, f"the end of a connection that said {kind}, {payload[:60]!r}", SLACK_S)
                liar.comes_back()
                queue.enqueue(sent, timeout=SLACK_S)
                assert reader.dequeue(timeout=SLACK_S) == sent
            link = queue.stats()["links"]
            assert sorted(one["ranks"] for one in link) == [[0], [1]]
            assert {row["rank"]: row["state"] for row in queue.stats()["readers"]} == {0: "active", 1: "expected"}
            liar.hangs_up()
            for sent in range(600):  # more than the ring holds
                queue.enqueue(sent, timeout=SLACK_S)
                assert reader.dequeue(timeout=SLACK_S) == sent


def test_a_position_that_is_ahead_of_the_queue_makes_no_count_impossible() -> None:
    with writer(1) as queue:
        liar = Liar(queue, 0)
        liar.joins()
        liar.control.send(WORD, words({"op": "state", "readers": [[0, "left", 7, 0, None, 1 << 62]], "waits": False}))
        liar.control.send(WORD, words({"op": "leave"}))
        eventually(lambda: not queue.stats()["readers"], "the reader has left")
        for number in range(3):
            queue.enqueue(number, timeout=SLACK_S)
        assert queue.stats()["missed"] == {0: 3}
        liar.hangs_up()


def test_what_a_liar_says_takes_no_memory() -> None:
    with (
        writer(2, max_chunks=256) as queue,
        closing(MessageQueue.create_from_handle(queue.export_handle(), 0)) as reader,
    ):
        liar = Liar(queue)
        liar.joins()
        _, before = facts_of(link_of(queue))
        for turn in range(40):
            rows = [[rank, "attached", 7, 0, None, 0] for rank in range(turn * 5000 + 2, turn * 5000 + 5002)]
            liar.control.send(WORD, words({"op": "state", "readers": rows, "waits": False}))
            assert not liar.is_cut()
        queue.enqueue("after", timeout=SLACK_S)
        assert reader.dequeue(timeout=SLACK_S) == "after"
        liar.control.send(WORD, b"")
        eventually(liar.is_cut, "that all has been heard", SLACK_S)
        _, after = facts_of(link_of(queue))
        assert after - before < 16 * MIB
        liar.hangs_up()


def test_peers_that_say_nothing_take_some_threads_and_keep_nobody_out() -> None:
    with (
        writer(2, max_chunks=256) as queue,
        closing(MessageQueue.create_from_handle(queue.export_handle(), 0)) as reader,
    ):
        liar = Liar(queue)
        link = link_of(queue)
        before, _ = facts_of(link)
        silent = [liar.dialled(control=number % 2 == 0) for number in range(4 * MOST_GREETED)]
        # Sooner than they would be let go for saying nothing.
        eventually(lambda: facts_of(link)[0] - before <= MOST_GREETED + 8, "the end of most", GREETED_WITHIN_S / 2)
        with closing(MessageQueue.create_from_handle(queue.export_handle(), 1)) as other:
            queue.enqueue("to both", timeout=SLACK_S)
            assert [end.dequeue(timeout=SLACK_S) for end in (reader, other)] == ["to both"] * 2
        for one in silent:
            one.close()


def fill(queue: MessageQueue) -> int:
    """Send until nothing goes any more: how many it took."""
    count = 0
    with suppress(QueueTimeoutError):
        while True:
            queue.enqueue(bytes(MIB), timeout=1.0)
            count += 1
    return count


STUCK = {"op": "state", "readers": [[0, "attached", 7, 3, None, 0]], "waits": True}


def test_a_link_that_takes_nothing_and_does_not_say_why_is_given_up() -> None:
    with writer(1, max_chunks=4) as queue:
        liar = Liar(queue, 0)
        liar.joins()
        stop = liar.beats()
        assert fill(queue) >= 4
        for _ in range(8):
            queue.enqueue(b"for nobody", timeout=PATIENCE_S + SLACK_S)
        eventually(lambda: [link["state"] for link in queue.stats()["links"]] == ["evicted"], "it is given up")
        with pytest.raises(LinkError, match=r"no such stream|is lost"):
            liar.comes_back()
        stop()


def test_a_link_that_waits_for_a_reader_is_waited_for_until_it_is_to_go_on_without_it() -> None:
    with writer(1, max_chunks=4, on_reader_death="raise") as queue:
        liar = Liar(queue, 0)
        liar.joins()
        stop = liar.beats(STUCK)
        fill(queue)
        with pytest.raises(QueueTimeoutError):
            queue.enqueue(b"still waited for", timeout=PATIENCE_S + 2)
        assert queue.evict(0)
        for _ in range(8):
            queue.enqueue(b"for nobody", timeout=PATIENCE_S + SLACK_S)
        eventually(lambda: [row["state"] for row in queue.stats()["readers"]] == ["evicted"], "that it is told")
        stop()


def test_a_policy_that_evicts_is_the_links_to_carry_out_or_it_is_given_up() -> None:
    with writer(1, max_chunks=4, on_full="evict", full_deadline=0.5) as queue:
        liar = Liar(queue, 0)
        liar.joins()
        stop = liar.beats(STUCK)
        for _ in range(12):
            queue.enqueue(bytes(MIB), timeout=PATIENCE_S + SLACK_S)
        stop()


@pytest.mark.parametrize("how", ["close", "shutdown"])
def test_a_link_that_takes_nothing_holds_up_neither_close_nor_the_link_process(how: str) -> None:
    with writer(1, max_chunks=4) as queue:
        liar = Liar(queue, 0)
        liar.joins()
        stop = liar.beats()
        fill(queue)
        link = link_of(queue)
        told: list[BaseException] = []

        def wait() -> None:
            try:
                while True:
                    queue.enqueue(bytes(MIB))
            except QueueClosedError as error:
                told.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.1)
        if how == "shutdown":
            queue.shutdown()
            waiting.join(SLACK_S)
            assert told
        with suppress(RingcastError):
            queue.close(linger=0)
        waiting.join(SLACK_S)
        assert told
        eventually(lambda: not runs(link), "the end of the link process", PATIENCE_S + SLACK_S)
        stop()


def test_a_link_that_listens_to_nothing_keeps_no_other_one_waiting() -> None:
    with writer(2, max_chunks=256) as queue:
        liar = Liar(queue, 0)
        liar.joins()
        with suppress(LinkError):
            liar.control.limit_sending(1.0)
            for number in range(200_000):
                liar.control.send(WORD, words({"op": "place", "id": number, "rank": 0, "pid": 7}))
        with closing(MessageQueue.create_from_handle(queue.export_handle(), 1)) as other:
            queue.enqueue("on time", timeout=SLACK_S)
            assert other.dequeue(timeout=SLACK_S) == "on time"
        liar.hangs_up()


class LyingWriter:
    """A link at the writer's side, which welcomes with what a real one does, changed; `says` is then sent as data."""

    def __init__(self, queue: MessageQueue, changed: dict[str, Any], says: list[tuple[int, bytes]]) -> None:
        liar = Liar(queue, 0)
        liar.joins()
        self.welcome = {**liar.welcome, **changed}
        liar.hangs_up()
        self._says = says
        self._channels: list[Channel] = []
        sock = socket.create_server(("127.0.0.1", 0))
        self._listener = Listener(sock, lambda _: (liar.key, liar.encrypt), self._meet)
        self.handle = queue.export_handle()._replace(remote_address=f"tcp://127.0.0.1:{self._listener.address[1]}")

    def _meet(self, _: int, control: bool, channel: Channel) -> None:
        self._channels.append(channel)
        threading.Thread(target=self._talk, args=(control, channel), daemon=True).start()

    def _talk(self, control: bool, channel: Channel) -> None:
        with suppress(LinkError):
            hello = _words.receive(channel, HELLO, SLACK_S)
            if control:
                while True:
                    channel.send(PING, b"")
                    time.sleep(0.5)
            if hello["published"] is not None:
                channel.send(_words.REFUSED, words({"error": "LinkError", "message": "gone", "lost": True}))
            channel.send(WELCOME, words(self.welcome))
            for kind, payload in self._says:
                channel.send(kind, payload)
            channel.wait(SLACK_S)
            channel.close()

    def close(self) -> None:
        self._listener.close()  # first, so that no more come
        for channel in self._channels:
            channel.close()


WELCOMES: list[dict[str, Any]] = [
    *({name: value} for name in ("homes", "open", "first", "max_chunks", "max_chunk_bytes", "data_budget", "pid")
      for value in (None, -1, "7", 1.5, 10**30)),
    {"homes": 5}, {"max_chunks": 1 << 30}, {"data_budget": 1 << 62}, {"policy": None}, {"policy": [0]},
    {"policy": ["x", 0, 0, 0]}, {"link_timeout": "long"}, {"link_timeout": -1}, {"name": 7}, {"name": "n" * 1000},
    {"host": None}, {"placed": None}, {"placed": {}}, {"placed": {"rank": [], "kept": 1}},
    {"placed": {"rank": 1 << 40, "kept": True, "given_up": False, "wished": 0, "version": 0}},
]  # fmt: skip


def test_a_welcome_that_cannot_be_is_told_to_the_reader_and_nothing_is_left() -> None:
    with read_queue() as (queue, reader):
        for sent, changed in enumerate(WELCOMES):
            with writer(1) as other, closing(LyingWriter(other, changed, [])) as lying, pytest.raises(RingcastError):
                MessageQueue.create_from_handle(lying.handle, 0, timeout=0).close()
            queue.enqueue(sent, timeout=SLACK_S)
            assert reader.dequeue(timeout=SLACK_S) == sent


SAYS: list[list[tuple[int, bytes]]] = [
    [(BATCH, b"\1")], [(BATCH, b"\xff" * 64)], [(BATCH, bytes(7) + b"\1")], [(BODY, b"x")], [(BEGIN, b"x")],
    [(BEGIN, BEGINNING.pack(1 << 62, 0, 0))], [(BEGIN, BEGINNING.pack(10, 0, 0)), (BODY, b"more than ten")],
    [(BEGIN, BEGINNING.pack(10, 0, 0)), (BATCH, bytes(8))], [(BEGIN, BEGINNING.pack(1, 99, 0)), (BODY, b"x")],
    [(BEGIN, BEGINNING.pack(1, 0, 7)), (BODY, b"x")], [(END, b"")], [(END, b"\0\0")], [(END, b"\7\0")],
    [(HELLO, b"{}")], [(255, b"")], [(BEGIN, BEGINNING.pack(10, 0, 0)), (BODY, b"")],
]  # fmt: skip


def test_data_that_cannot_be_ends_the_stream_and_is_no_message() -> None:
    with read_queue() as (queue, reader):
        for sent, says in enumerate(SAYS):
            with writer(1) as other, closing(LyingWriter(other, {}, says)) as lying:
                end = MessageQueue.create_from_handle(lying.handle, 0)
                with closing(end), pytest.raises(LinkDiedError):
                    end.dequeue(timeout=SLACK_S)
            queue.enqueue(sent, timeout=SLACK_S)
            assert reader.dequeue(timeout=SLACK_S) == sent
