"""FileTier's file: what is in it after its process was killed, what is refused, and what is damaged."""

from __future__ import annotations

import errno
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ringcast.errors import ArgumentError, ArgumentTypeError, TierError
from ringcast.pool import FileTier
from tests.pool.tiers import BLOCK, CHUNK, chunk, flip, header_of, key, loaded, store, unwritable
from tests.support import ROOT

SIZE = 1 << 20
STRIDE = BLOCK + 4 * BLOCK  # a slot's header, and room for CHUNK in whole blocks
SLOTS = (SIZE - BLOCK) // STRIDE
THREADS = 4  # that a tier has; each may be in a write when it is killed
PIECE = 4 << 20  # of a large chunk, which moves in several
LARGE = 2 * PIECE + CHUNK
LARGE_STRIDE = BLOCK + 2 * PIECE + 4 * BLOCK
DIRECT = pytest.mark.parametrize("direct", [True, False])


def opened(path: Path, **options: Any) -> FileTier:
    return FileTier(path, options.pop("size", SIZE), options.pop("chunk_bytes", CHUNK), **options)


def writer(
    path: Path,
    first: int,
    count: int,
    direct: bool,
    limit: int | None = None,
    size: int = SIZE,
    chunk_bytes: int = CHUNK,
) -> Any:
    arguments: list[Any] = [path, size, chunk_bytes, first, count, direct] + ([] if limit is None else [limit])
    return subprocess.Popen(
        [sys.executable, "-m", "tests.pool.tier_writer", *map(str, arguments)], stdout=subprocess.PIPE, cwd=ROOT
    )


def said(process: Any) -> set[int]:
    """What a writer that has ended said was stored; a line that the kill cut off counts as not said."""
    lines = process.stdout.read().split(b"\n")[:-1]
    process.wait()
    process.stdout.close()
    return {int(line) for line in lines if line != b"done"}


@DIRECT
def test_what_was_stored_is_there_whenever_its_process_is_killed(tmp_path: Path, direct: bool) -> None:
    path, chance, size = tmp_path / "tier", random.Random(direct), BLOCK + 1000 * STRIDE
    stored: set[int] = set()
    for _ in range(6):
        process = writer(path, 0, 1000, direct, size=size)
        wanted = len(stored) + chance.randrange(60)
        heard = {int(process.stdout.readline()) for _ in range(min(wanted, 1000))}
        process.kill()
        stored |= heard | said(process)
        with opened(path, size=size, direct=direct) as tier:
            there = {n for n in range(1000) if loaded(tier, n)}
            assert stored <= there
            assert tier.stats()["corrupt"] <= THREADS
    assert process.returncode == -signal.SIGKILL


@DIRECT
def test_a_full_tier_has_right_bytes_whenever_its_process_is_killed(tmp_path: Path, direct: bool) -> None:
    path, chance = tmp_path / "tier", random.Random(direct)
    for round_ in range(5):
        process = writer(path, round_ * 1000, 1000, direct)
        heard = {int(process.stdout.readline()) for _ in range(chance.randrange(1, 4 * SLOTS))}
        process.kill()
        heard |= said(process)
        assert process.returncode == -signal.SIGKILL
        with opened(path, direct=direct) as tier:
            there = {n for n in range((round_ + 1) * 1000) if loaded(tier, n)}
            assert len(there) >= min(len(heard), SLOTS) - THREADS
            assert tier.stats()["corrupt"] <= THREADS


@DIRECT
@pytest.mark.parametrize("blocks", [0, 1, 2, 4, 5])
def test_a_write_that_was_cut_off_leaves_nothing_wrong(tmp_path: Path, direct: bool, blocks: int) -> None:
    path = tmp_path / "tier"
    process = writer(path, 0, SLOTS, direct, limit=BLOCK + 7 * STRIDE + blocks * BLOCK)
    stored = said(process)
    assert process.returncode == -signal.SIGXFSZ
    assert stored
    with opened(path, direct=direct) as tier:
        assert {n for n in range(SLOTS) if loaded(tier, n)} >= stored
        assert store(tier, *range(SLOTS)) == [True] * SLOTS
        assert all(loaded(tier, n) for n in range(SLOTS))


@DIRECT
@pytest.mark.parametrize("blocks", range(6))
def test_a_chunk_that_is_half_written_over_is_neither(tmp_path: Path, direct: bool, blocks: int) -> None:
    path, size = tmp_path / "tier", BLOCK + STRIDE
    with opened(path, size=size, direct=direct) as tier:
        store(tier, 1)
    process = writer(path, 2, 1, direct, limit=BLOCK + blocks * BLOCK, size=size)
    complete = said(process)
    with opened(path, size=size, direct=direct) as tier:
        found = [loaded(tier, 1), loaded(tier, 2)]
        assert found == ([False, True] if complete else [blocks == 0, False])
        assert store(tier, 3) == [True]
        assert loaded(tier, 3)


@DIRECT
@pytest.mark.parametrize("bytes_written", [0, BLOCK, PIECE, PIECE + BLOCK, PIECE + 3 * BLOCK])
def test_a_large_chunk_that_is_half_written_over_is_neither(tmp_path: Path, direct: bool, bytes_written: int) -> None:
    path, options = tmp_path / "tier", {"size": BLOCK + LARGE_STRIDE, "chunk_bytes": LARGE}
    with opened(path, direct=direct, **options) as tier:
        store(tier, 1, size=LARGE)
    # Its first piece, with the header, goes last.
    process = writer(path, 2, 1, direct, limit=2 * BLOCK + PIECE + bytes_written, **options)
    assert said(process) == set()
    assert process.returncode == -signal.SIGXFSZ
    with opened(path, direct=direct, **options) as tier:
        assert [loaded(tier, n, LARGE) for n in (1, 2)] == [bytes_written == 0, False]
        assert store(tier, 3, size=LARGE) == [True]
        assert loaded(tier, 3, LARGE)


@DIRECT
@pytest.mark.parametrize("at", [0, PIECE - 1, PIECE, 2 * PIECE - 1, 2 * PIECE, LARGE - 1])
def test_a_changed_bit_in_any_piece_of_a_large_chunk_is_a_miss(tmp_path: Path, direct: bool, at: int) -> None:
    path = tmp_path / "tier"
    with opened(path, size=BLOCK + LARGE_STRIDE, chunk_bytes=LARGE, direct=direct) as tier:
        with mmap.mmap(-1, LARGE) as aligned:
            aligned[:] = chunk(1, LARGE)
            assert tier.store([key(1)], [aligned]).result() == [True]
            aligned[:] = bytes(LARGE)
            assert tier.load([key(1)], [aligned]).result() == [True]
            assert aligned[:] == chunk(1, LARGE)
        assert tier.stats()["copied"] == 0
        flip(path, 2 * BLOCK + at)
        assert not loaded(tier, 1, LARGE)
        assert tier.stats()["corrupt"] == 1


@DIRECT
def test_the_oldest_go_when_it_is_full(tmp_path: Path, direct: bool) -> None:
    with opened(tmp_path / "tier", direct=direct, threads=1) as tier:
        assert store(tier, *range(SLOTS)) == [True] * SLOTS
        loaded(tier, 0)
        assert store(tier, *range(SLOTS, 2 * SLOTS - 1)) == [True] * (SLOTS - 1)
        there = {n for n in range(2 * SLOTS) if tier.has_chunk(key(n))}
        assert there == {0, *range(SLOTS, 2 * SLOTS - 1)}
        assert tier.stats()["evicted"] == SLOTS - 1
        assert all(loaded(tier, n) for n in there)
    with opened(tmp_path / "tier", direct=direct) as tier:
        assert {n for n in range(2 * SLOTS) if loaded(tier, n)} == there


def test_a_changed_bit_of_any_kind_is_a_miss(tmp_path: Path) -> None:
    path = tmp_path / "tier"
    places: dict[int, Callable[[int], int]] = {
        1: lambda at: at + 3,  # the magic
        2: lambda at: at + 8 + 5,  # the key
        3: lambda at: at + 40,  # the length
        4: lambda at: at + 48,  # the era
        5: lambda at: at + 64,  # the checksum of the bytes
        6: lambda at: at + BLOCK,  # the first byte
        7: lambda at: at + BLOCK + CHUNK - 1,  # the last
    }
    for reopened in (False, True):
        path.unlink(missing_ok=True)
        tier = opened(path)
        store(tier, *range(9))
        if reopened:
            tier.close()
        for number, place in places.items():
            flip(path, place(header_of(path, number)))
        if reopened:
            tier = opened(path)
        assert [n for n in range(9) if loaded(tier, n)] == [0, 8]
        assert tier.stats()["corrupt"] == (2 if reopened else len(places))
        assert tier.stats()["used"] == 2
        tier.close()
        with opened(path) as tier:
            assert [n for n in range(9) if tier.has_chunk(key(n))] == [0, 8]


def test_two_chunks_that_changed_places_are_misses(tmp_path: Path) -> None:
    path = tmp_path / "tier"
    with opened(path) as tier:
        store(tier, 1, 2)
        one, two = header_of(path, 1), header_of(path, 2)
        whole = bytearray(path.read_bytes())
        whole[one : one + STRIDE], whole[two : two + STRIDE] = whole[two : two + STRIDE], whole[one : one + STRIDE]
        with path.open("r+b") as file:
            file.write(whole)
        assert not loaded(tier, 1)
        assert not loaded(tier, 2)


def test_a_file_that_was_cut_has_what_is_left(tmp_path: Path) -> None:
    path = tmp_path / "tier"
    with opened(path, threads=1) as tier:
        store(tier, *range(10))
        cut = header_of(path, 5) + BLOCK + 100
        os.truncate(path, cut)
        before = {n for n in range(10) if key(n) in path.read_bytes()[: cut - BLOCK - 100]}
        assert {n for n in range(10) if loaded(tier, n)} == before
        assert tier.stats()["failed"] == 0
    os.truncate(path, cut)
    with opened(path) as tier:
        assert path.stat().st_size == SIZE
        assert {n for n in range(10) if loaded(tier, n)} == before
        assert store(tier, *range(SLOTS)) == [True] * SLOTS


def test_one_that_died_while_it_made_the_file_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "tier"
    path.touch()  # no header yet
    opened(path).close()
    os.truncate(path, BLOCK)  # no room yet
    with opened(path) as tier:
        assert path.stat().st_size == SIZE
        assert store(tier, 1) == [True]


@pytest.mark.parametrize(
    "content", [b"x", b"somebody's letters" * 1000, bytes(SIZE), b"ringcast", b"ringcast tier\n"], ids=range(5)
)
def test_a_file_of_somebody_elses_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "letters"
    path.write_bytes(content)
    with pytest.raises(TierError, match="not a tier's"):
        opened(path)
    assert path.read_bytes() == content


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, why in (
        (tmp_path, "cannot be opened"),
        (tmp_path / "pipe", "no regular file"),
        (Path("/dev/null"), "no regular file"),
        (tmp_path / "not" / "there", "cannot be opened"),
    ):
        with pytest.raises(TierError, match=why):
            opened(path)


def test_another_size_version_or_byte_order_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tier"
    with opened(path) as tier:
        store(tier, 1)
    for options in ({"size": 2 * SIZE}, {"chunk_bytes": CHUNK + 1}, {"size": SIZE - 1}):
        with pytest.raises(TierError, match=f"was made with {SIZE} bytes for chunks of {CHUNK}"):
            opened(path, **options)
    whole = path.read_bytes()
    for at, word, why in ((16, 0x04030201, "byte order"), (20, 77, "version 77")):
        with path.open("r+b") as file:
            file.seek(at)
            file.write(struct.pack("=I", word))
        with pytest.raises(TierError, match=why):
            opened(path)
        path.write_bytes(whole)
    flip(path, 40)  # the era
    with pytest.raises(TierError, match="damaged header"):
        opened(path)
    flip(path, 40)
    with opened(path) as tier:
        assert loaded(tier, 1)


def test_a_file_has_one_tier_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "tier"
    with opened(path) as tier:
        store(tier, 1)
        code = (
            "import sys; from ringcast.pool import FileTier; from ringcast.errors import TierError\n"
            f"try: FileTier(sys.argv[1], {SIZE}, {CHUNK})\n"
            "except TierError as error: print(error.pid, error)"
        )
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"{os.getpid()} ")
        assert f"in use by process {os.getpid()}" in done.stdout
        with pytest.raises(TierError, match="in use"):
            opened(path)
        assert loaded(tier, 1)
    with opened(path) as tier:
        assert loaded(tier, 1)


def test_a_size_with_no_room_for_a_chunk_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tier"
    with pytest.raises(TierError, match="no room for one chunk"):
        opened(path, size=CHUNK + BLOCK)
    assert not path.exists()
    with opened(path, size=BLOCK + STRIDE) as tier:
        assert tier.stats()["slots"] == 1
        assert store(tier, 1) == store(tier, 2) == [True]
        assert [loaded(tier, 1), loaded(tier, 2)] == [False, True]


@pytest.mark.parametrize(
    "arguments",
    [
        (None, SIZE, CHUNK),
        (b"path", SIZE, CHUNK),
        (7, SIZE, CHUNK),
        ("", SIZE, CHUNK),
        ("a\0b", SIZE, CHUNK),
        ("\udcff", SIZE, CHUNK),
        ("t", 0, CHUNK),
        ("t", True, CHUNK),
        ("t", 1.5, CHUNK),
        ("t", "much", CHUNK),
        ("t", SIZE, 0),
        ("t", SIZE, SIZE + 1),
        ("t", 1 << 63, CHUNK),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    arguments: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ArgumentError, ArgumentTypeError)):
        FileTier(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_chunk_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "tier") as tier:
        assert store(tier, 1, size=CHUNK + 1) == [False]
        assert tier.stats()["refused"] == 1


def test_a_limit_on_files_makes_stores_fail_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "tier"
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from tests.pool.test_file_tier import *\n"
        "with opened(Path(sys.argv[1]), threads=1) as tier:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK + 6 * STRIDE + BLOCK, resource.RLIM_INFINITY))\n"
        "    done = store(tier, *range(10))\n"
        "    assert done == [loaded(tier, n) for n in range(10)], done\n"
        "    assert done[:6] == [True] * 6 and tier.stats()['failed'] > 0, (done, tier.stats())\n"
        "    print(tier.stats()['last_error'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert os.strerror(errno.EFBIG) in done.stdout
    with opened(path) as tier:
        assert all(loaded(tier, n) for n in range(6))


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="a file system of one's own takes root and unshare"
)
def test_a_full_disk_is_told_and_leaves_no_file(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.pool.test_file_tier import *\n"
        "folder = Path(sys.argv[1])\n"
        "try:\n"
        "    opened(folder / 'tier', size=4 * SIZE)\n"
        "except TierError as error:\n"
        "    print(error.errno, error)\n"
        "assert list(folder.iterdir()) == []\n"
        "with opened(folder / 'tier', size=SIZE // 2) as tier:\n"
        "    (folder / 'letters').write_bytes(b'x' * (SIZE // 2 - BLOCK))\n"
        "    slots = tier.stats()['slots']\n"
        "    assert store(tier, *range(slots)) == [True] * slots and all(loaded(tier, n) for n in range(slots))\n"
    )
    script = 'mount -t tmpfs -o size=1m none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", tmp_path, sys.executable, code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no file system of one's own: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{errno.ENOSPC} ")


def test_a_cleared_era_holds_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "tier"
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from tests.pool.test_file_tier import *\n"
        "tier = opened(Path(sys.argv[1]))\n"
        "store(tier, *range(10)); tier.clear(); store(tier, 11)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    with opened(path) as tier:
        assert tier.era == 1
        assert [n for n in range(12) if tier.has_chunk(key(n))] == [11]
        assert loaded(tier, 11)


def test_a_chunk_of_an_earlier_place_is_not_taken_for_a_later_one(tmp_path: Path) -> None:
    """One key in two slots, as a kill between two writes can leave it: the later one counts, and one can be removed."""
    path = tmp_path / "tier"
    with opened(path) as tier:
        store(tier, 1, 2)
        two = header_of(path, 2)
        of_one = path.read_bytes()[header_of(path, 1) :][:STRIDE]
    with path.open("r+b") as file:
        file.seek(two)
        file.write(of_one)
    with opened(path) as tier:
        assert tier.stats()["used"] == 1
        assert loaded(tier, 1)
        assert tier.remove([key(1)]).result() == [True]
    with opened(path) as tier:
        assert tier.exists([key(1)]).result() == [False]


@pytest.mark.parametrize("then", ["sync", "close", "store"])
def test_what_could_not_be_erased_is_erased_later(tmp_path: Path, then: str) -> None:
    path = tmp_path / "tier"
    with opened(path) as tier:
        store(tier, *range(SLOTS))
        with unwritable():
            assert tier.remove([key(1), key(2)]).result() == [True, True]
            assert tier.exists([key(1), key(2)]).result() == [False, False]
            assert not tier.sync(), "the next index would have them"
        if then == "sync":
            assert tier.sync()
        if then == "store":
            assert store(tier, SLOTS) == [True]
        assert store(tier, 1) == [True]
        assert tier.remove([key(1)]).result() == [True]
    with opened(path) as tier:
        assert {n for n in range(SLOTS + 1) if tier.has_chunk(key(n))} == {
            n for n in range(SLOTS + (then == "store")) if n not in (1, 2)
        }
