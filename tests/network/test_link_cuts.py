"""Wires that are slow, cut, deaf in one direction, or reset; readers and links that stop for a while: nothing is lost.

The longer cases run in `make test-link`; with RINGCAST_LINK_LONG=1 their pauses are as long as they may ever be.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.network.linked import LONG, MIB, SLACK_S, Failure, Reader, Writer
from tests.network.machines import Machine, visited
from tests.network.proxy import DOWN, UP, Proxy
from tests.support import eventually

pytestmark = pytest.mark.usefixtures("machine_server")

SILENCE_S = 4.0
"""After which a link takes its peer for cut off."""


class Traffic:
    """A writer on one machine that sends without a pause, and readers on others that check all of it."""

    def __init__(self, writer: Writer, readers: list[Reader], size: int | None = None) -> None:
        self.writer, self.readers = writer, readers
        self._size = size
        self._sent = 0

    def go(self, count: int) -> None:
        """Both sides begin on so many messages."""
        self.writer.tell("send", self._sent, count, self._size)
        for reader in self.readers:
            reader.tell("take", self._sent, count, self._size)
        self._sent += count
        self._count = count

    def arrives(self) -> None:
        """All of them have come."""
        for reader in self.readers:
            assert reader.outcome() == self._count
        assert self.writer.outcome() == self._count

    def ends(self) -> None:
        self.writer.does("close")
        for reader in self.readers:
            assert reader.fails("dequeue", 10).kind == "QueueClosedError"


@contextmanager
def _traffic(ranks: int = 2, **options: Any) -> Iterator[tuple[Machine, Machine, Traffic]]:
    """From machine a to ranks on machine b, and one on a."""
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=ranks + 1, n_local_reader=1, **options)
        traffic = Traffic(writer, [*writer.readers(a, 0), *writer.readers(b, *range(1, ranks + 1))])
        traffic.go(50)
        traffic.arrives()
        yield a, b, traffic
        traffic.ends()


@contextmanager
def _proxied(rate: float | None = None, ranks: int = 1, **options: Any) -> Iterator[tuple[Proxy, Traffic]]:
    """From machine a to ranks on machine b, through a proxy on c."""
    with visited(3) as (a, b, c):
        writer = Writer(a, n_reader=ranks, **options)
        proxy = Proxy(c, writer.address, rate)
        traffic = Traffic(writer, writer.readers(b, *range(ranks), proxy=proxy), 256 << 10)
        traffic.go(2)
        traffic.arrives()
        yield proxy, traffic
        traffic.ends()


@pytest.mark.parametrize("encrypt", [True, False])
def test_a_writer_that_is_faster_than_the_wire_waits_and_loses_nothing(encrypt: bool) -> None:
    with _proxied(8 * MIB, max_chunks=4, encrypt=encrypt) as (proxy, traffic):
        before = proxy.passed()[DOWN]
        traffic.go(64)
        traffic.arrives()
        assert proxy.passed()[DOWN] - before < 64 * (256 << 10) * 1.1, "each message went once"


def _pause(seconds: float) -> None:
    """The thing that is tested, not something waited for."""
    time.sleep(seconds)


def test_a_reader_that_pauses_is_waited_for() -> None:
    """3 s; 30, if RINGCAST_LINK_LONG=1."""
    with _traffic(max_chunks=4) as (_, _, traffic):
        stopped = traffic.readers[-1]
        stopped.worker.stop()
        traffic.go(200)
        _pause(30 if LONG else 3)
        stopped.worker.resume()
        traffic.arrives()


def test_a_pause_of_all_readers_of_a_machine_is_no_cut() -> None:
    with _traffic(max_chunks=4, link_timeout=1.0) as (_, _, traffic):
        for reader in traffic.readers[1:]:
            reader.worker.stop()
        traffic.go(200)
        _pause(30 if LONG else 1.5)
        for reader in traffic.readers[1:]:
            reader.worker.resume()
        traffic.arrives()


CUTS = ["both", "towards the readers", "towards the writer"]


def _cut(a: Machine, b: Machine, which: str) -> None:
    if which == "both":
        b.unplug()
    elif which == "towards the readers":
        b.deafen(a)
    else:
        a.deafen(b)


def _mend(a: Machine, b: Machine, which: str) -> None:
    if which == "both":
        b.plug()
    elif which == "towards the readers":
        b.hear(a)
    else:
        a.hear(b)


@pytest.mark.parametrize("which", CUTS)
def test_a_wire_that_is_cut_for_a_moment_loses_nothing(which: str) -> None:
    with _traffic() as (a, b, traffic):
        traffic.go(300)
        _cut(a, b, which)
        _pause(0.7)
        _mend(a, b, which)
        traffic.arrives()


@pytest.mark.long_link
@pytest.mark.parametrize("encrypt", [True, False])
@pytest.mark.parametrize("which", CUTS)
def test_a_wire_that_is_cut_until_the_link_has_noticed_loses_nothing(which: str, encrypt: bool) -> None:
    with _traffic(encrypt=encrypt, link_timeout=60.0) as (a, b, traffic):
        traffic.go(300)
        _cut(a, b, which)
        _pause(SILENCE_S + (6 if LONG else 1))
        _mend(a, b, which)
        traffic.arrives()


@pytest.mark.long_link
@pytest.mark.parametrize("which", CUTS)
def test_an_idle_wire_that_is_cut_is_mended_unnoticed(which: str) -> None:
    with _traffic(link_timeout=60.0) as (a, b, traffic):
        _cut(a, b, which)
        _pause(SILENCE_S + 2)
        _mend(a, b, which)
        traffic.go(100)
        traffic.arrives()


@pytest.mark.long_link
@pytest.mark.parametrize("which", CUTS)
def test_a_wire_that_stays_cut_is_an_error_on_both_sides(which: str) -> None:
    """After the time-out of the link, not before; the reader has read all that came."""
    timeout = 2.0
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=2, n_local_reader=1, max_chunks=4, link_timeout=timeout)
        local, remote = *writer.readers(a, 0), *writer.readers(b, 1)
        writer.does("send", 0, 3)
        local.tell("take_to_end", 0)
        assert remote.does("take", 0, 3) == 3
        remote.tell("take_to_end", 3)  # what is sent still arrives, if only the way back is cut
        began = time.monotonic()
        _cut(a, b, which)
        writer.tell("send_until_it_fails", 3)
        _, at_writer = writer.outcome()
        assert (at_writer.kind, at_writer.rank) == ("ReaderDiedError", 1)
        _, at_reader = remote.outcome()
        _check_link_died(at_reader, a, writer)
        for failure in (at_writer, at_reader):
            assert timeout < failure.at - began < timeout + SILENCE_S + 1 + SLACK_S
        writer.does("evict", 1)
        writer.does("close")
        _, at_local = local.outcome()
        assert at_local.kind == "QueueClosedError"


def _check_link_died(failure: Failure, a: Machine, writer: Writer) -> None:
    assert failure.kind == "LinkDiedError"
    assert "WriterDiedError" in failure.kinds
    assert a.host in failure.text
    assert re.search(rf"\b{writer.pid}\b", failure.text), failure.text


@pytest.mark.parametrize("encrypt", [True, False])
def test_resets_in_mid_message_are_dialled_over_and_nothing_is_doubled(encrypt: bool) -> None:
    with _proxied(ranks=2, encrypt=encrypt) as (proxy, traffic):
        for nbytes, direction in ((300_001, DOWN), (100_000, DOWN), (1 << 20, DOWN), (40, UP), (123_457, DOWN)):
            resets = proxy.resets()
            proxy.reset_after(nbytes, direction)  # before, or all could have passed by then
            traffic.go(40)
            traffic.arrives()
            if direction == DOWN:
                assert proxy.resets() > resets, "a reset has hit it"


def test_a_reset_of_idle_connections_is_dialled_over() -> None:
    with _proxied() as (proxy, traffic):
        for _ in range(3):
            assert proxy.resets() == proxy.resets()
            proxy.reset()
            traffic.go(5)
            traffic.arrives()


def test_resets_again_and_again_while_messages_pass() -> None:
    with _proxied(16 * MIB) as (proxy, traffic):
        proxy.reset_after(600 << 10, DOWN, times=6)
        traffic.go(48)
        traffic.arrives()
        assert proxy.resets() >= 6


@pytest.mark.parametrize("size", [64, MIB])
def test_a_reset_while_a_reader_pauses_and_its_ring_is_full_is_dialled_over(size: int) -> None:
    with visited(3) as (a, b, c):
        writer = Writer(a, n_reader=1, max_chunks=4)
        proxy = Proxy(c, writer.address)
        (reader,) = writer.readers(b, 0, proxy=proxy)
        writer.does("send", 0, 8, size)
        eventually(lambda: proxy.passed()[DOWN] >= 8 * 64, "that more has come than has room there")
        for again in (1, 2):
            proxy.reset()
            eventually(lambda: writer.does("stats")["links"][0]["reconnects"] == again, "the next connection")  # noqa: B023
        assert reader.does("take", 0, 8, size) == 8
        writer.does("close")
        assert reader.fails("dequeue", 10).kind == "QueueClosedError"


def test_without_a_link_timeout_a_reset_is_final_at_once() -> None:
    with visited(3) as (a, b, c):
        writer = Writer(a, n_reader=1, link_timeout=0)
        proxy = Proxy(c, writer.address)
        (reader,) = writer.readers(b, 0, proxy=proxy)
        writer.does("send", 0, 4)
        assert reader.does("take", 0, 4) == 4
        reader.tell("died")
        proxy.reset()
        _check_link_died(reader.outcome(), a, writer)
        _, failure = writer.does("send_until_it_fails", 4)
        assert (failure.kind, failure.rank) == ("ReaderDiedError", 0)
        writer.gives_up()


def test_a_stalled_data_connection_keeps_no_death_from_being_told() -> None:
    """Nothing of the data comes through: control goes by a way of its own."""
    with visited(3) as (a, b, c):
        writer = Writer(a, n_reader=1, max_chunks=4)
        proxy = Proxy(c, writer.address, rate=64 << 10)
        (reader,) = writer.readers(b, 0, proxy=proxy)
        writer.does("send", 0, 4, MIB)
        reader.worker.kill()
        died = time.monotonic()
        _, failure = writer.does("send_until_it_fails", 4, MIB)
        assert (failure.kind, failure.rank) == ("ReaderDiedError", 0)
        assert failure.at - died < 1 + SLACK_S
        writer.gives_up()


@pytest.mark.parametrize("which", ["the writer's link", "the readers' link"])
def test_a_link_that_is_stopped_and_continued_goes_on(which: str) -> None:
    with _traffic() as (a, b, traffic):
        machine = a if which == "the writer's link" else b
        (link,) = traffic.writer.links(machine)
        traffic.go(300)
        machine.signal(link, signal.SIGSTOP)
        _pause(1.0)
        machine.signal(link, signal.SIGCONT)
        traffic.arrives()


@pytest.mark.long_link
@pytest.mark.parametrize("which", ["the writer's link", "the readers' link"])
def test_a_link_that_is_stopped_for_longer_than_a_silence_goes_on(which: str) -> None:
    with _traffic(link_timeout=60.0) as (a, b, traffic):
        machine = a if which == "the writer's link" else b
        (link,) = traffic.writer.links(machine)
        traffic.go(300)
        machine.signal(link, signal.SIGSTOP)
        _pause(10 if LONG else SILENCE_S + 2)
        machine.signal(link, signal.SIGCONT)
        traffic.arrives()


@pytest.mark.long_link
def test_many_cuts_of_all_kinds_lose_nothing() -> None:
    """A thousand messages of mixed sizes, while everything happens to the wire that may."""
    with visited(3) as (a, b, c):
        writer = Writer(a, n_reader=4, n_local_reader=1, link_timeout=60.0)
        proxy = Proxy(c, writer.address, rate=64 * MIB)
        readers = [*writer.readers(a, 0), *writer.readers(b, 1, 2, proxy=proxy), *writer.readers(c, 3)]
        traffic = Traffic(writer, readers)
        traffic.go(3000 if LONG else 1000)
        for turn in range(40 if LONG else 8):
            if turn % 4 == 0:
                proxy.reset()
            elif turn % 4 == 1:
                c.unplug()
                _pause(0.5)
                c.plug()
            elif turn % 4 == 2:
                (link,) = writer.links(b)
                b.signal(link, signal.SIGSTOP)
                _pause(0.3)
                b.signal(link, signal.SIGCONT)
            else:
                proxy.stop(DOWN)
                _pause(0.3)
                proxy.go()
            _pause(0.2)
        traffic.arrives()
        traffic.ends()


@pytest.mark.long_link
def test_the_memory_of_links_does_not_grow_with_what_is_sent() -> None:
    with _proxied(24 * MIB, max_chunks=8) as (_, traffic):
        traffic.go(64)
        traffic.arrives()
        writer, reader = traffic.writer, traffic.readers[0]
        ends = [(machine, pid) for machine in (writer.machine, reader.machine) for pid in writer.links(machine)]
        before = [_private_kib(machine, pid) for machine, pid in ends]
        traffic.go(400)
        traffic.arrives()
        for (machine, pid), then in zip(ends, before, strict=True):
            assert _private_kib(machine, pid) - then < 8 << 10


def _private_kib(machine: Machine, pid: int) -> int:
    found = re.search(r"RssAnon:\s+(\d+)", machine.shell(f"cat /proc/{pid}/status"))
    assert found is not None
    return int(found[1])


def test_cuts_and_reconnects_are_seen_on_both_sides() -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=1)
        proxy = Proxy(b, writer.address)
        (reader,) = writer.readers(b, 0, proxy=proxy)

        def sides() -> list[dict[str, Any]]:
            return [writer.does("stats")["links"][0], reader.does("stats")["writer"]["relayed_by"]]

        proxy.reset()
        eventually(lambda: all(side["reconnects"] == 1 for side in sides()), "that it has connected again")
        a.unplug()
        eventually(lambda: all(side["out_of_reach_s"] is not None for side in sides()), "the cut")
        a.plug()
        eventually(lambda: all(side["out_of_reach_s"] is None for side in sides()), "that it is back")
        assert all(side["reconnects"] > 1 for side in sides())
        writer.tell("send", 0, 30)
        reader.tell("take", 0, 30)
        assert [end.outcome() for end in (writer, reader)] == [30, 30]
        writer.does("close")
