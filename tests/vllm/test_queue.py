"""The queue that vLLM's processes get: what vLLM asks of it beyond what a MessageQueue does anyway."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringcast.errors import DecodeError, QueueClosedError, QueueTimeoutError, WriterDiedError
from ringcast.vllm import _pieces
from ringcast.vllm._queue import LEAST_DEPTH, MessageQueue
from tests import own_shm
from tests.support import SHM, Background, Child, Link, eventually, run_python, segments
from tests.vllm.layout import lay, run

KEPT = 200


@contextmanager
def pair(**options: Any) -> Iterator[tuple[MessageQueue, MessageQueue]]:
    writer = MessageQueue(1, 1, **options)
    reader = MessageQueue.create_from_handle(pickle.loads(pickle.dumps(writer.export_handle())), 0)
    try:
        yield writer, reader
    finally:
        reader.close()
        writer.close(0)


def test_the_executors_arguments_are_taken_with_nobody_remote() -> None:
    with pair(max_chunk_bytes=64 << 20, connect_ip="192.0.2.1", enable_shm_tensor_arena=True) as (writer, reader):
        writer.enqueue(("execute_model", (1,), {}, None))
        assert reader.dequeue(indefinite=True) == ("execute_model", (1,), {}, None)


@pytest.mark.parametrize("nbytes", [64, 5000, 100_000, 3 << 20])
def test_arrays_arrive_writable_and_may_be_kept(nbytes: int) -> None:
    with pair() as (writer, reader):
        kept = []
        for number in range(KEPT if nbytes <= 100_000 else 40):
            writer.enqueue({"a": np.full(nbytes, number % 256, np.uint8)}, timeout=60.0)
            kept.append(reader.dequeue(timeout=60.0)["a"])
            kept[-1][0] ^= 255
        assert all(int(array[-1]) == number % 256 for number, array in enumerate(kept))


def test_more_replies_than_vllm_makes_room_for_wait_for_nobody() -> None:
    with pair() as (writer, reader):
        for number in range(LEAST_DEPTH):
            writer.enqueue(number, timeout=0)
        with pytest.raises(QueueTimeoutError):
            writer.enqueue("one too many", timeout=0)
        assert [reader.dequeue(timeout=0) for _ in range(LEAST_DEPTH)] == list(range(LEAST_DEPTH))


def test_a_message_of_hundreds_of_megabytes_arrives() -> None:
    with pair() as (writer, reader):
        pixels = np.arange(72 << 20, dtype=np.float32)
        writer.enqueue(("execute_model", ({"pixel_values": pixels},), {}, None), timeout=60.0)
        received = reader.dequeue(timeout=60.0)[1][0]["pixel_values"]
        assert np.array_equal(received, pixels)


def test_a_message_that_shared_memory_has_no_room_for_comes_in_pieces() -> None:
    with own_shm.of_size("24M"), pair() as (writer, reader):
        sent: dict[str, Any] = {"pixel_values": np.arange(20 << 20, dtype=np.uint32), "empty": np.empty(0), "text": "t"}
        threading.Thread(target=lambda: deque(map(writer.enqueue, (sent, "next")))).start()
        received = reader.dequeue(timeout=60.0)
        assert reader.dequeue(timeout=60.0) == "next"
        assert np.array_equal(received["pixel_values"], sent["pixel_values"])
        assert received["pixel_values"].flags.writeable
        assert (received["empty"].shape, received["text"]) == ((0,), "t")


def test_pieces_for_which_shared_memory_has_no_room_either_become_smaller() -> None:
    with own_shm.of_size("24M"), pair() as (writer, reader):
        left = os.statvfs(SHM)
        with (SHM / "others").open("wb") as others:
            os.posix_fallocate(others.fileno(), 0, left.f_bavail * left.f_frsize)
        sent = np.arange(100_000, dtype=np.uint32)
        sending = Background(lambda: deque(map(writer.enqueue, (sent, "next"))))
        received = reader.dequeue(timeout=60.0)
        assert reader.dequeue(timeout=60.0) == "next"
        sending.result()
        assert np.array_equal(received, sent)


def test_a_time_out_between_two_pieces_loses_nothing() -> None:
    with pair() as (writer, reader):
        frames = [pickle.dumps("whole")]
        half = len(frames[0]) // 2
        writer.enqueue(_pieces.Pieces((len(frames[0]),)))
        writer.enqueue(frames[0][:half])
        with pytest.raises(QueueTimeoutError):
            reader.dequeue(timeout=0)
        writer.enqueue(frames[0][half:])
        assert reader.dequeue(timeout=0) == "whole"


class Struck:
    def __reduce__(self) -> Any:
        return _strike, ()


strikes: list[BaseException] = []


def _strike() -> str:
    if strikes:
        raise strikes.pop()
    return "rebuilt"


@pytest.mark.parametrize(
    ("errors", "outcomes"),
    [
        ([SystemExit], [SystemExit, "rebuilt"]),
        ([SystemExit, SystemExit], [DecodeError]),
        ([MemoryError, MemoryError], [MemoryError, DecodeError]),
        ([ValueError], [DecodeError]),
    ],
)
def test_what_came_in_pieces_is_rebuilt_or_refused_once(errors: list[type[BaseException]], outcomes: list[Any]) -> None:
    with pair() as (writer, reader):
        stream = pickle.dumps(Struck())
        writer.enqueue(_pieces.Pieces((len(stream),)))
        writer.enqueue(stream)
        writer.enqueue("next")
        strikes[:] = [error() for error in errors]
        for outcome in outcomes:
            if outcome == "rebuilt":
                assert reader.dequeue(timeout=0) == "rebuilt"
            else:
                with pytest.raises(outcome):
                    reader.dequeue(timeout=0)
        assert reader.dequeue(timeout=0) == "next"


def test_a_time_out_that_is_over_already_is_none_left() -> None:
    with pair() as (writer, reader):
        writer.enqueue("there", timeout=-0.1)
        assert reader.dequeue(timeout=-0.1) == "there"
        with pytest.raises(TimeoutError):
            reader.dequeue(timeout=-0.1)


def test_calls_in_flight_end_as_vllm_s_do_when_it_shuts_down() -> None:
    with pair() as (writer, reader):
        raised: list[BaseException] = []

        def wait() -> None:
            try:
                reader.dequeue(indefinite=True)
            except RuntimeError as error:
                raised.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        eventually(lambda: reader._is_waiting(thread.ident or 0), "the wait")
        reader.shutdown()
        thread.join()
        assert isinstance(raised[0], QueueClosedError)
        writer.shutdown()
        writer.enqueue("a result that nobody wants any more")
        with pytest.raises(QueueClosedError):
            reader.dequeue(timeout=0)


def test_what_was_sent_before_shutdown_is_received() -> None:
    with pair() as (writer, reader):
        writer.enqueue("last words")
        writer.shutdown()
        assert reader.dequeue() == "last words"
        with pytest.raises(RuntimeError):
            reader.dequeue()


def test_vllm_sets_attributes_on_an_end_and_they_stay_there() -> None:
    with pair() as (writer, _):
        vars(writer)["mine"] = 1
        assert writer.export_handle().attributes == ()


def _write_until_killed(link: Link) -> None:
    with MessageQueue(1, 1) as writer:
        link.send(writer.export_handle())
        writer.wait_until_ready()
        writer.enqueue(np.ones(1 << 20))
        link.recv()


def _read_until_killed(link: Link, handle: Any) -> None:
    with MessageQueue.create_from_handle(handle, 0) as reader:
        reader.wait_until_ready()
        link.send(float(reader.dequeue(timeout=60.0).sum()))
        reader.dequeue(indefinite=True)


def test_processes_that_are_all_killed_at_once_leave_nothing(start: Callable[..., Child]) -> None:
    before = segments()
    writer = start(_write_until_killed)
    reader = start(_read_until_killed, writer.receive())
    assert reader.receive() == 1 << 20
    for child in (writer, reader):
        child.signal(signal.SIGSTOP)  # so that neither can tidy up after the other
    for child in (writer, reader):
        child.discard()
    assert segments() == before


def test_the_death_of_a_writer_whose_memory_has_no_name_is_noticed(start: Callable[..., Child]) -> None:
    writer = start(_write_until_killed)
    with MessageQueue.create_from_handle(writer.receive(), 0) as reader:
        reader.wait_until_ready()
        assert reader.dequeue(timeout=60.0).size == 1 << 20
        writer.kill()
        with pytest.raises(WriterDiedError):
            reader.dequeue(indefinite=True)


def _read_remotely(link: Link, handle: Any) -> None:
    with MessageQueue.create_from_handle(handle, -1) as reader:
        reader.wait_until_ready()
        link.send(reader.dequeue(timeout=60.0).flags.writeable)


def test_rank_minus_one_reads_through_the_link(start: Callable[..., Child]) -> None:
    pytest.importorskip("cryptography")
    with MessageQueue(1, 0, connect_ip="127.0.0.1") as writer:
        handle = writer.export_handle()
        assert handle.local_reader_ranks == ()
        assert handle.remote_subscribe_addr is not None
        child = start(_read_remotely, handle)
        writer.wait_until_ready()
        writer.enqueue(np.arange(100_000))
        assert child.receive() is True


IN_A_GROUP = """
import sys
import torch.distributed as dist
from ringcast.vllm import register
assert register()
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=3)
import vllm.distributed.parallel_state as parallel_state
from vllm.v1.executor.multiproc_executor import MessageQueue
group = dist.new_group([0, 1, 2], backend="gloo")
"""
END = """
dist.barrier()
dist.destroy_process_group()
"""
LOCAL = """
queue = MessageQueue.create_from_process_group(group, 1 << 22, 6, writer_rank=1)
print(queue.broadcast_object("from 1" if rank == 1 else None))
own, handles = MessageQueue.create_from_process_group_single_reader(group, 1 << 22, 6, reader_rank=0)
ends = [MessageQueue.create_from_handle(handle, 0) for handle in handles]
own.wait_until_ready()
own.enqueue(rank)
for end in ends:
    end.wait_until_ready()
print([end.dequeue() for end in ends])

outside = None
if rank == 0:  # as an executor does, whose worker of rank 0 passes its handle on
    outside = MessageQueue(3, 3)
given = outside.export_handle() if rank == 0 else None
inner = MessageQueue.create_from_process_group(group, 1 << 22, 6, external_writer_handle=given, blocking=False)
if rank == 0:
    outside.wait_until_ready()
    outside.enqueue("from outside")
inner.wait_until_ready()
print(inner.dequeue(timeout=60))
dist.barrier()


class Stateless:
    def __init__(self): self.rank, self.world_size = rank, 3
    def broadcast_obj(self, obj, src):
        box = [obj]
        dist.broadcast_object_list(box, src=src)
        return box[0]


parallel_state.in_the_same_node_as = lambda pg, source_rank: [True] * pg.world_size
stateless = MessageQueue.create_from_process_group(Stateless(), 1 << 22, 6, 2)
print(stateless.broadcast_object("stateless" if rank == 2 else None))
"""
APART = """
parallel_state.in_the_same_node_as = lambda pg, source_rank: [one == source_rank for one in range(3)]
queue = MessageQueue.create_from_process_group(group, 1 << 22, 6)
print(queue.broadcast_object("from 0" if rank == 0 else None))
own, handles = MessageQueue.create_from_process_group_single_reader(group, 1 << 22, 6)
ends = [MessageQueue.create_from_handle(one, -1 if one.remote_subscribe_addr else 0) for one in handles]
own.wait_until_ready()
own.enqueue(rank)
print([end.dequeue() for end in ends])
dist.barrier()
for end in (*ends, own, queue):
    end.close()
"""


def in_a_group(folder: Path, script: str) -> list[list[str]]:
    """What each of three processes prints, which are a group of torch.distributed."""
    pytest.importorskip("torch")
    lay(folder)
    said: list[list[str]] = [[], [], []]

    def work(rank: int) -> None:
        said[rank] = run(folder, IN_A_GROUP + script + END, str(rank), str(folder), RINGCAST_VLLM="1")[0]

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def test_groups_make_queues_as_vllm_s_coordinator_does(tmp_path: Path) -> None:
    said = in_a_group(tmp_path, LOCAL)
    assert said == [["from 1", "[0, 1, 2]" if rank == 0 else "[]", "from outside", "stateless"] for rank in range(3)]


def test_a_group_over_several_machines_reads_and_answers_through_links(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    assert in_a_group(tmp_path, APART) == [["from 0", "[0, 1, 2]" if rank == 0 else "[]"] for rank in range(3)]


def test_importing_the_plugin_imports_no_third_party_package() -> None:
    result = run_python("import sys, ringcast.vllm; print([m for m in ('numpy', 'torch', 'vllm') if m in sys.modules])")
    assert (result.returncode, result.stdout) == (0, "[]\n")
