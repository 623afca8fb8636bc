"""Attaching believes nothing: every way in which a segment can be wrong is a typed error that says what differs."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ringcast
from ringcast import Handle, MessageQueue, ShmRingBuffer, _core, _names, _segment
from ringcast.errors import (
    RankError,
    RankTakenError,
    SegmentExistsError,
    SegmentMismatchError,
    SegmentNotFoundError,
    SegmentPermissionError,
)
from ringcast.instruments import list_queues
from tests.support import SHM, mapped, unique_name

Forge = Callable[..., Path]


@pytest.fixture
def queue() -> Iterator[MessageQueue]:
    with MessageQueue(2, max_chunk_bytes=4096, max_chunks=4, max_bytes=1 << 18, name=unique_name()) as made:
        yield made


@pytest.fixture
def forge(queue: MessageQueue) -> Iterator[Forge]:
    """Copies the living queue's segment under a new name, with some bytes changed."""
    made: list[Path] = []

    def copy(patches: dict[int, bytes] | None = None, *, size: int | None = None, mode: int = 0o600) -> Path:
        content = bytearray((SHM / queue.segment).read_bytes())
        for offset, patch in (patches or {}).items():
            content[offset : offset + len(patch)] = patch
        path = SHM / f"ringcast_{unique_name('f')}"
        path.write_bytes(content[:size])
        path.chmod(mode)
        made.append(path)
        return path

    yield copy
    for path in made:
        path.unlink(missing_ok=True)


def attach(path: Path) -> None:
    handle = Handle(path.name, 0, (0, 1), (2, 4096, 4, path.name))
    MessageQueue.create_from_handle(handle, 0)


def test_an_exact_copy_is_accepted_so_that_the_refusals_below_mean_something(forge: Forge) -> None:
    assert _segment.attach(forge().name).max_chunk_bytes == 4096


def test_wrong_magic_is_refused(forge: Forge) -> None:
    with pytest.raises(SegmentMismatchError, match="magic"):
        attach(forge({0: b"RNGCAST2"}))


def test_another_layout_version_is_refused_and_both_releases_are_named(forge: Forge) -> None:
    with pytest.raises(SegmentMismatchError, match=r"version 77, of ringcast 9\.8\.7;") as caught:
        attach(forge({8: struct.pack("=I", 77), 152: b"9.8.7\0"}))
    assert f"this process runs ringcast {ringcast.__version__}" in str(caught.value)


def test_a_release_that_is_no_text_is_refused_like_any_other(forge: Forge) -> None:
    path = forge({8: struct.pack("=I", 77), 152: b"\xff\xfe\x80\0"})
    with pytest.raises(SegmentMismatchError, match="version 77"):
        attach(path)
    assert [one for one in list_queues().unreadable if one["segment"] == path.name]


def test_a_user_name_that_is_no_text_disturbs_neither_listing_nor_attaching(forge: Forge) -> None:
    path = forge({176: b"\xff\xfe\x80\0"})
    found = list_queues()
    assert path.name in [one["segment"] for one in (*found.queues, *found.unreadable)]
    with pytest.raises((SegmentMismatchError, SegmentNotFoundError)):
        attach(path)


def test_the_other_byte_order_is_refused(forge: Forge) -> None:
    with pytest.raises(SegmentMismatchError, match="byte order"):
        attach(forge({12: struct.pack(">I" if os.sys.byteorder == "little" else "<I", 0x0102_0304)}))  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [0, 1, 279, 4095, 4735, 8192])
def test_a_truncated_segment_is_refused(forge: Forge, size: int) -> None:
    with pytest.raises(SegmentMismatchError, match="bytes"):
        attach(forge(size=size))


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (16, struct.pack("=Q", 1 << 20)),  # total_bytes
        (32, struct.pack("=I", 0)),  # n_reader
        (32, struct.pack("=I", 5000)),
        (36, struct.pack("=I", 3)),  # n_local above n_reader
        (40, struct.pack("=I", 1 << 31)),  # n_seats
        (44, struct.pack("=I", 0)),  # max_chunks
        (44, struct.pack("=I", 1 << 31)),
        (48, struct.pack("=Q", 0)),  # max_chunk_bytes
        (48, struct.pack("=Q", 1 << 62)),
        (56, struct.pack("=Q", 1 << 63)),  # data_bytes
        (56, struct.pack("=Q", 4097)),
        (64, struct.pack("=Q", 1 << 62)),  # data_budget
        (64, struct.pack("=Q", 1)),
        (72, struct.pack("=I", 1 << 31)),  # inline_bytes
        (76, struct.pack("=I", 8)),  # slot_bytes
        (80, struct.pack("=Q", 0)),  # seats_offset
        (88, struct.pack("=Q", 1 << 60)),  # ranks_offset
        (96, struct.pack("=Q", 1 << 60)),  # slots_offset
        (104, struct.pack("=Q", 1 << 60)),  # marks_offset
        (112, struct.pack("=Q", 1 << 60)),  # data_offset
        (120, struct.pack("=I", 0)),  # max_leases
        (120, struct.pack("=I", 1 << 31)),
        (124, struct.pack("=I", 8)),  # mark_column_bytes
        (132, struct.pack("=I", 2)),  # named
    ],
)
def test_sizes_and_offsets_that_do_not_belong_together_are_refused(forge: Forge, offset: int, value: bytes) -> None:
    with pytest.raises(SegmentMismatchError, match="cannot be used"):
        attach(forge({offset: value}))


def test_a_segment_that_its_creator_has_not_finished_is_refused(forge: Forge) -> None:
    with pytest.raises(SegmentMismatchError, match="not finished"):
        attach(forge({4096 + 264: struct.pack("=I", 0)}))


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o606, 0o666, 0o601])
def test_a_segment_that_others_may_touch_is_refused(forge: Forge, mode: int) -> None:
    with pytest.raises(SegmentPermissionError, match=f"mode 0{mode:o}"):
        attach(forge(mode=mode))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_segment_of_another_user_is_refused(forge: Forge) -> None:
    path = forge()
    os.chown(path, 12345, 12345)
    with pytest.raises(SegmentPermissionError, match="uid 12345"):
        attach(path)


def test_a_symbolic_link_is_not_followed(forge: Forge) -> None:
    target = forge()
    link = SHM / f"ringcast_{unique_name('l')}"
    link.symlink_to(target)
    try:
        with pytest.raises(SegmentPermissionError):
            attach(link)
    finally:
        link.unlink()


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_what_is_not_a_file_is_refused(kind: str) -> None:
    path = SHM / f"ringcast_{unique_name('d')}"
    path.mkdir(0o700) if kind == "directory" else os.mkfifo(path, 0o600)
    try:
        with pytest.raises(ringcast.errors.SegmentError):
            attach(path)
    finally:
        path.rmdir() if kind == "directory" else path.unlink()


def test_the_name_of_a_foreign_file_is_refused_for_a_new_queue_and_the_file_stays() -> None:
    name = unique_name()
    path = SHM / _names.segment_name(name)
    path.write_bytes(b"someone's")
    path.chmod(0o644)
    try:
        if os.geteuid() == 0:
            os.chown(path, 12345, 12345)
            with pytest.raises(SegmentExistsError, match="is taken"):
                MessageQueue(1, name=name)
            assert path.read_bytes() == b"someone's"
    finally:
        path.unlink(missing_ok=True)


def test_a_name_is_refused_while_its_queue_lives(queue: MessageQueue) -> None:
    with pytest.raises(SegmentExistsError, match=rf"living queue of this process \(pid {os.getpid()}\) .*close"):
        MessageQueue(1, name=queue.name)
    queue.enqueue(b"undisturbed")


def test_a_missing_segment_is_a_missing_file() -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        attach(SHM / "ringcast_there_is_none")


def test_a_rank_is_taken_once(queue: MessageQueue) -> None:
    assert queue.name is not None
    with MessageQueue.attach(queue.name, rank=1):
        here = rf"rank 1 in this process {os.getpid()}"
        with pytest.raises(RankTakenError, match=f"rank 1 is taken .*{here}.*close that reader, wait longer") as caught:
            MessageQueue.attach(queue.name, rank=1, timeout=0)
        assert (caught.value.rank, caught.value.pid) == (1, os.getpid())
        with MessageQueue.attach(queue.name) as other:
            assert other.rank == 0
            with pytest.raises(RankTakenError, match=rf"all ranks .*taken: 0, 1.*{here}"):
                MessageQueue.attach(queue.name, timeout=0)
    with MessageQueue.attach(queue.name, rank=1) as again:
        assert again.rank == 1


@pytest.mark.parametrize("rank", [2, 7, 2**31 - 1])
def test_a_rank_that_is_not_the_queue_s_is_refused(queue: MessageQueue, rank: int) -> None:
    assert queue.name is not None
    with pytest.raises(RankError, match=f"rank {rank} is not one of .* local ranks: 0, 1"):
        MessageQueue.attach(queue.name, rank=rank)


def test_chosen_ranks_are_kept() -> None:
    with MessageQueue(2, local_reader_ranks=[7, 3]) as queue:
        handle = queue.export_handle()
        assert handle.local_reader_ranks == (7, 3)
        with MessageQueue.create_from_handle(handle, 3) as reader, MessageQueue.create_from_handle(handle, 7):
            assert reader.rank == 3
            assert {r["rank"]: r["state"] for r in queue.stats()["readers"]} == {7: "active", 3: "active"}


def test_a_ring_of_other_sizes_is_not_attached() -> None:
    with ShmRingBuffer(1, 100, 4) as ring:
        n_reader, _, max_chunks, name = ring.handle()
        with pytest.raises(SegmentMismatchError, match=r"\(1, 100, 4\), not \(1, 200, 4\)"):
            ShmRingBuffer(n_reader, 200, max_chunks, name)


def test_looking_at_segments_takes_no_seat(queue: MessageQueue) -> None:
    (info,) = [info for info in list_queues().queues if info["segment"] == queue.segment]
    assert (info["name"], info["closed"]) == (queue.name, False)
    here = {"pid": os.getpid(), "alive": True, "process": "running"}
    assert info["writer"] == {**here, "host": None, "waits": queue.stats()["waits"], "relayed_by": None}
    assert info["readers"] == []
    assert queue.name is not None
    with MessageQueue.attach(queue.name, rank=0), MessageQueue.attach(queue.name, rank=1):
        (info,) = [info for info in list_queues().queues if info["segment"] == queue.segment]
        assert [(r["rank"], r["state"], r["alive"]) for r in info["readers"]] == [
            (0, "active", True),
            (1, "active", True),
        ]


def test_an_overwritten_descriptor_is_an_error_and_not_a_crash(queue: MessageQueue) -> None:
    assert queue.name is not None
    with MessageQueue.attach(queue.name) as reader:
        queue.enqueue(b"fine")
        (slots,) = struct.unpack_from("=Q", (SHM / queue.segment).read_bytes(), 96)
        with mapped(queue.segment) as memory:
            struct.pack_into("=QQIB", memory, slots + 8, 1 << 50, 1 << 40, 0, 9)
        with pytest.raises(ringcast.errors.CorruptError, match="impossible descriptor"):
            reader.dequeue(5)


def test_the_native_segment_refuses_sizes_that_python_did_not_check() -> None:
    with pytest.raises(ringcast.errors.ArgumentError, match="max_chunks must be from 1"):
        _core.Segment.create("ringcast_x", "", "0", 1, [0], 10, 0, 0, 0)
