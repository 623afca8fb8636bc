"""Messages to readers on other machines: each comes once, whole, in order, however it is sent and taken."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ringcast import MessageQueue
from ringcast.errors import DecodeError, QueueTimeoutError, WaitCancelledError
from tests.network.linked import LONG, MIB, WAYS_TO_TAKE, End, Reader, Writer, as_json
from tests.network.machines import machines, visited
from tests.support import DEADLINE_S, Background, Link, eventually, parked

pytestmark = pytest.mark.usefixtures("machine_server")


def _all_take(readers: list[Reader], count: int, size: int | None = None, first: int = 0) -> None:
    for reader in readers:
        reader.tell("take", first, count, size)
    for reader in readers:
        assert reader.outcome() == count


def _end(writer: Writer, readers: list[Reader]) -> None:
    """The writer closes: all are told so, after all that was sent."""
    writer.does("close")
    for reader in readers:
        assert reader.fails("dequeue", DEADLINE_S).kind == "QueueClosedError"


@pytest.mark.parametrize("encrypt", [True, False])
@pytest.mark.parametrize("ipv6", [False, True])
def test_readers_here_and_there_get_every_message_once_in_order(ipv6: bool, encrypt: bool) -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=4, n_local_reader=2, ipv6=ipv6, encrypt=encrypt)
        readers = [*writer.readers(a, 0, 1), *writer.readers(b, 2, 3)]
        assert [reader.rank for reader in readers] == [0, 1, 2, 3]
        writer.tell("send", 0, 200)
        _all_take(readers, 200)
        assert writer.outcome() == 200
        _end(writer, readers)


def test_three_machines_with_two_readers_each() -> None:
    with visited(3) as (a, b, c):
        writer = Writer(a, n_reader=6, n_local_reader=2)
        readers = [*writer.readers(a, 0, 1), *writer.readers(b, 2, 4), *writer.readers(c, 3, 5)]
        writer.tell("send", 0, 200)
        _all_take(readers, 200)
        assert writer.outcome() == 200
        _end(writer, readers)


@pytest.mark.parametrize("encrypt", [True, False])
def test_a_message_to_four_readers_on_a_machine_crosses_the_wire_once(encrypt: bool) -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=4, encrypt=encrypt)
        readers = writer.readers(b, 0, 1, 2, 3)
        before = a.wire_bytes()[0], b.wire_bytes()[1]
        writer.tell("send", 0, 8, MIB)
        _all_take(readers, 8, MIB)
        assert writer.outcome() == 8
        for now, then in zip((a.wire_bytes()[0], b.wire_bytes()[1]), before, strict=True):
            assert 8 * MIB < now - then < 8.8 * MIB
        _end(writer, readers)


def test_bytes_that_are_encrypted_are_not_seen_on_the_wire_and_others_are() -> None:
    for encrypt in (True, False):
        with visited(2) as (a, b):
            writer = Writer(a, n_reader=1, encrypt=encrypt)
            wire = a.start(_listen_in, b"not for everybody" * 10)
            assert wire.receive() == "listening"
            (reader,) = writer.readers(b, 0)
            writer.does("enqueue", b"not for everybody" * 100)
            assert reader.does("dequeue", DEADLINE_S) == b"not for everybody" * 100
            assert wire.ask("seen?") == (not encrypt)


def _listen_in(link: Link, what: bytes) -> None:
    """Looks at every frame of the cable."""
    import select
    import socket

    seen = False
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * MIB)
        wire.bind(("eth0", 0))
        link.send("listening")
        while True:
            ready, _, _ = select.select([wire.fileno(), link.fileno()], [], [])
            if wire.fileno() in ready:
                seen |= what in wire.recv(1 << 17)
            elif link.recv() == "seen?":
                link.send(seen)
                return


@pytest.mark.parametrize("way", WAYS_TO_TAKE)
def test_all_ways_to_take_are_those_of_a_local_reader(way: str) -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=2, n_local_reader=1)
        readers = [*writer.readers(a, 0), *writer.readers(b, 1)]
        writer.tell("send", 0, 40)
        for reader in readers:
            reader.tell(way, 0, 40)
        assert [reader.outcome() for reader in readers] == [40, 40]
        assert writer.outcome() == 40
        _end(writer, readers)


def _objects() -> list[Any]:
    import numpy as np

    return [
        b"", b"bytes", "text", None, {"a": [1, 2.5, (3,)]}, list(range(50_000)),
        np.arange(10), np.arange(MIB, dtype="f4").reshape(1024, -1)[:, ::2],
        {"weights": np.ones((512, 512)), "step": 3},
    ]  # fmt: skip


def _send_objects(link: Link, options: dict[str, Any]) -> None:
    with MessageQueue[Any](**options) as queue:
        link.send(queue.export_handle())
        for obj in _objects():
            queue.enqueue(obj, timeout=DEADLINE_S)
        link.recv()


def _compare_objects(link: Link, handle: Any, options: dict[str, Any]) -> None:
    import numpy as np

    with MessageQueue[Any].create_from_handle(handle, 0, **options) as queue:
        received = [queue.dequeue(timeout=DEADLINE_S) for _ in _objects()]
        for found, expected in zip(received, _objects(), strict=True):
            if isinstance(expected, np.ndarray):
                assert found.dtype == expected.dtype
                np.testing.assert_array_equal(found, expected)
            elif isinstance(expected, dict) and "weights" in expected:
                np.testing.assert_array_equal(found["weights"], expected["weights"])
            else:
                assert found == expected
        large = received[7]
        writable = {"copy": True, "zero_copy": True}.keys() & {name for name, on in options.items() if on}
        assert large.flags.writeable == bool(writable)
        link.send(large.flags.owndata)


@pytest.mark.parametrize("options", [{}, {"copy": True}, {"copy": False}, {"zero_copy": True}])
def test_objects_and_arrays_arrive_as_on_the_writers_machine(options: dict[str, Any]) -> None:
    with visited(2) as (a, b):
        for place, local in ((a, 1), (b, 0)):
            written = a.start(
                _send_objects,
                {"n_reader": 1, "n_local_reader": local, "connect_ip": a.ip, "max_chunk_bytes": 8 * MIB},
            )
            read = place.start(_compare_objects, written.receive(), options)
            owns = read.receive()
            written.send("end")
            if local:
                owns_here = owns
        assert owns == owns_here, "where a local reader gets views, a remote one does"


def test_codecs_are_the_writers_and_a_reader_may_refuse_pickles() -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=1, codec="msgpack")
        (reader,) = writer.readers(b, 0)
        writer.does("enqueue", {"a": [1, "two"]})
        assert reader.does("dequeue", DEADLINE_S) == {"a": [1, "two"]}
        writer = Writer(a, n_reader=1)
        (reader,) = writer.readers(b, 0, allow_pickle=False)
        writer.does("enqueue", {1, 2})
        failure = reader.fails("dequeue", DEADLINE_S)
        assert DecodeError.__name__ in failure.kinds
        writer.does("enqueue", b"goes on")
        assert reader.does("dequeue", DEADLINE_S) == b"goes on"


def test_a_handle_travels_as_json_and_any_rank_may_be_asked_for() -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=3, n_local_reader=1)
        readers = [Reader(b, as_json(writer.handle), -1) for _ in range(2)]
        assert sorted(reader.rank for reader in readers if reader.rank is not None) == [1, 2]
        readers.append(Reader(a, as_json(writer.handle), 0))
        writer.does("send", 0, 5)
        _all_take(readers, 5)
        _end(writer, readers)


def test_what_was_sent_before_anybody_came_is_kept_for_all_who_are_promised_it() -> None:
    with visited(3) as (a, b, c):
        writer = Writer(a, n_reader=3, max_chunks=8)
        writer.does("send", 0, 4)
        first = writer.readers(b, 0)
        _all_take(first, 4)
        writer.does("send", 4, 3)
        second = writer.readers(b, 1)
        third = writer.readers(c, 2)
        _all_take(second + third, 7)
        _all_take(first, 3, first=4)
        _end(writer, [*first, *second, *third])


def test_who_comes_again_leaves_what_is_kept_to_those_who_have_not_come() -> None:
    with visited(3) as (a, b, c):
        writer = Writer(a, n_reader=2, max_chunks=8)
        first = writer.reader(b, 0)
        writer.does("send", 0, 3)
        assert first.does("take", 0, 3) == 3
        first.does("exit", "close")
        eventually(lambda: not writer.does("stats")["links"], "the end of the stream")
        again = writer.reader(b, 0)
        writer.does("send", 3, 2)
        assert again.does("take", 3, 2) == 2
        late = writer.reader(c, 1)
        assert late.does("take", 0, 5) == 5
        _end(writer, [again, late])


def test_all_wait_until_all_are_ready_and_are_told_who_is_not() -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=3, n_local_reader=1)
        readers = [*writer.readers(a, 0), *writer.readers(b, 1)]
        for end in (writer, *readers):
            failure = end.fails("wait_until_ready", 0.2)
            assert failure.kind == "NotReadyError"
        assert "1 reader of other machines has not come" in writer.fails("wait_until_ready", 0).text
        ends: list[End] = [writer, *readers]
        for end in ends:
            end.tell("wait_until_ready", DEADLINE_S)
        ends += writer.readers(b, 2)
        ends[-1].tell("wait_until_ready", DEADLINE_S)
        assert [end.outcome() for end in ends] == [None] * 4
        writer.does("close")


def _wait_in_vain(link: Link, handle: Any) -> None:
    import threading

    with MessageQueue[Any].create_from_handle(handle, 0) as queue:
        assert queue.try_dequeue("nothing") == "nothing"
        with pytest.raises(QueueTimeoutError):
            queue.dequeue(timeout=0.05)
        over = threading.Event()
        waiting = Background(queue.dequeue, cancel=over)
        eventually(lambda: parked(queue), "it waits")
        over.set()
        with pytest.raises(WaitCancelledError):
            waiting.result()
        waiting = Background(queue.dequeue)
        eventually(lambda: parked(queue, 2), "it waits")
        link.send("waits")
        link.send(waiting.result())


def test_waits_end_by_time_by_cancelling_and_by_a_message() -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=1)
        reader = b.start(_wait_in_vain, writer.handle)
        assert reader.receive() == "waits"
        writer.does("enqueue", "at last")
        assert reader.receive() == "at last"


def test_a_reader_that_leaves_frees_its_rank_on_any_machine() -> None:
    with visited(3) as (a, b, c):
        writer = Writer(a, n_reader=2, max_chunks=4)
        stays, leaves = writer.readers(b, 0, 1)
        writer.does("send", 0, 3)
        _all_take([stays, leaves], 3)
        leaves.does("close")
        for place in (b, c):
            again = Reader(place, writer.handle, 1, timeout=DEADLINE_S)
            writer.does("wait_until_ready", DEADLINE_S)
            writer.does("enqueue", place.host)
            assert again.does("dequeue", DEADLINE_S) == place.host
            assert stays.does("dequeue", DEADLINE_S) == place.host
            again.does("close")
        _end(writer, [stays])


def test_the_writers_statistics_show_readers_with_their_hosts() -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=2, n_local_reader=1)
        local, remote = *writer.readers(a, 0), *writer.readers(b, 1)
        writer.does("send", 0, 2)
        _all_take([remote], 2)

        def shown() -> Any:
            found = {reader["rank"]: reader for reader in writer.does("stats")["readers"]}
            return found if 1 in found and found[1]["behind"] == 0 and found[0]["behind"] == 2 else None

        readers = eventually(shown, "what the remote reader has read is known here")
        assert (readers[1]["host"], readers[1]["pid"], readers[1]["state"]) == (b.host, remote.pid, "active")
        assert (readers[0]["pid"], readers[0]["state"]) == (local.pid, "active")


@pytest.mark.parametrize("encrypt", [True, False])
def test_a_hundred_thousand_small_messages(encrypt: bool) -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=2, max_chunks=1024, encrypt=encrypt)
        readers = writer.readers(b, 0, 1)
        for reader in readers:
            reader.tell("take_many", 0, 100_000, 64)
        assert writer.does("send", 0, 100_000, 64) == 100_000
        assert [reader.outcome() for reader in readers] == [100_000] * 2
        _end(writer, readers)


@pytest.mark.parametrize("encrypt", [True, False])
def test_messages_of_all_sizes_up_to_64_mib(encrypt: bool) -> None:
    """To 256 MiB, if RINGCAST_LINK_LONG=1."""
    largest = 256 * MIB if LONG else 64 * MIB
    sizes = [16, largest, 1, 0, 65_535, 65_536, 65_537, 262_144, 262_145, 5 * MIB + 1, largest - 1, 100, MIB]
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=2, encrypt=encrypt, max_bytes=3 * largest)
        readers = writer.readers(b, 0, 1)
        for number, size in enumerate(sizes):
            writer.tell("send", number, 1, size)
            _all_take(readers, 1, size, first=number)
            assert writer.outcome() == 1
        _end(writer, readers)


def test_a_machine_with_less_shared_memory_passes_on_all_that_fits() -> None:
    with machines(2, shm={1: "32m"}) as (a, b):
        writer = Writer(a, n_reader=2, max_chunks=4)
        readers = writer.readers(b, 0, 1)
        writer.tell("send", 0, 64, MIB)
        _all_take(readers, 64, MIB)
        assert writer.outcome() == 64
        _end(writer, readers)


def test_what_does_not_fit_into_a_machines_shared_memory_is_told_to_both_sides() -> None:
    with machines(2, shm={1: "32m"}) as (a, b):
        writer = Writer(a, n_reader=1, max_bytes=256 * MIB)
        (reader,) = writer.readers(b, 0)
        reader.tell("take_to_end", 0)
        writer.does("send", 0, 3)
        writer.tell("send_until_it_fails", 3, 48 * MIB)
        count, at_reader = reader.outcome()
        assert count == 3, "all that came before"
        assert "CapacityError" in at_reader.kinds or "PeerError" in at_reader.kinds
        assert b.host in at_reader.text or "/dev/shm" in at_reader.text or "shared memory" in at_reader.text
        _, at_writer = writer.outcome()
        assert (at_writer.kind, at_writer.rank) == ("ReaderDiedError", 0)
        writer.gives_up()


def test_an_idle_link_costs_next_to_nothing() -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=1)
        (reader,) = writer.readers(b, 0)
        writer.does("send", 0, 1)
        _all_take([reader], 1)
        links = [(machine, pid) for machine in (a, b) for pid in writer.links(machine)]
        assert len(links) == 2
        began = time.monotonic()
        before = [_cpu_seconds(machine, pid) for machine, pid in links]
        reader.fails("dequeue", 2.0)
        used = [_cpu_seconds(machine, pid) - then for (machine, pid), then in zip(links, before, strict=True)]
        assert max(used) < 0.15 * (time.monotonic() - began), "who stays awake takes all of it, or half beside others"
        _end(writer, [reader])


def _cpu_seconds(machine: Any, pid: int) -> float:
    fields = machine.shell(f"cat /proc/{pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
