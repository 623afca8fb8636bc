"""A pool's memory: told of and given up while it is taken; touched at the start, as huge pages if there are any."""

from __future__ import annotations

import os
import platform
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from ringcast import errors
from ringcast.instruments.looking import sweep
from ringcast.pool import PoolClient, PoolServer, _huge_pages, _progress, remove
from tests import own_shm
from tests.pool.pools import CHUNK, COMMITTED, Starter, pool, retrieved, some_keys, store
from tests.support import SHM, Link, eventually, segments, unique_name

MIB = 1 << 20
STEPS = 600 * MIB
"""A pool that is reserved in three steps."""
PIECES = 160 * MIB
"""One that is prefaulted in three pieces."""

Told = tuple[str, int, int]

linux = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="looks at /proc/PID/smaps")


def free_bytes() -> int:
    place = os.statvfs(SHM)
    return place.f_bavail * place.f_frsize


def of_server(server: PoolServer, field: str) -> int:
    """A field of /proc/self/smaps, in bytes, of the whole file's writable mapping."""
    inode = (SHM / server.segment).stat().st_ino
    text = Path("/proc/self/smaps").read_text()
    mapping = re.search(rf"^\S+ rw-s 0+ \S+ {inode} .*?^{field}: +([0-9]+) kB$", text, re.MULTILINE | re.DOTALL)
    assert mapping is not None
    return int(mapping[1]) * 1024


def taking(link: Link, name: str, stage: str, options: dict[str, Any]) -> None:
    """A server that says when it is in the middle of this stage, and stays there."""

    def wait(now: str, done: int, total: int) -> None:
        if now == stage and (done > 0 or stage == "prefaulting"):
            link.send((done, total))
            link.recv()

    PoolServer(name, STEPS if stage == "reserving" else PIECES, on_progress=wait, **options).start()


# --- progress


def test_each_stage_is_told_from_nothing_to_all() -> None:
    told: list[Told] = []
    with PoolServer(unique_name("p"), STEPS, prefault=True, on_progress=lambda *one: told.append(one)):
        pass
    for stage in ("reserving", "prefaulting"):
        done = [one[1] for one in told if one[0] == stage]
        (total,) = {one[2] for one in told if one[0] == stage}
        assert total >= STEPS
        assert done == sorted(set(done))
        assert (done[0], done[-1]) == (0, total)
    assert [one[1] for one in told if one[0] == "reserving"][1:3] == [256 * MIB, 512 * MIB]
    assert [one[0] for one in told] == sorted((one[0] for one in told), reverse=True)


def test_a_line_says_how_far_it_is_now_and_then_and_only_of_what_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("ringcast.pool._progress.monotonic", lambda: now)
    lines: list[str] = []
    say = _progress.Lines("kv0", lines.append)
    for tenths in range(101):
        now = 100 + tenths / 10
        say("reserving", tenths << 30, 100 << 30)
    say("prefaulting", 0, 1 << 30)
    say("prefaulting", 1 << 30, 1 << 30)
    assert lines == [
        "pool 'kv0': reserving memory, 10.0 of 100.0 GiB after 1 s",
        "pool 'kv0': reserving memory, 60.0 of 100.0 GiB after 6 s",
        "pool 'kv0': reserving memory, 100.0 of 100.0 GiB after 10 s",
    ]


def test_what_on_progress_raises_ends_the_start() -> None:
    def fail(stage: str, done: int, total: int) -> None:
        raise LookupError(stage)

    with pytest.raises(LookupError, match="reserving"):
        PoolServer(unique_name("p"), PIECES, on_progress=fail).start()
    with pytest.raises(errors.ArgumentError, match="on_progress"):
        PoolServer(unique_name("p"), PIECES, on_progress=7)  # type: ignore[arg-type]


# --- signals and kills


@pytest.mark.parametrize("stage", ["reserving", "prefaulting"])
def test_ctrl_c_is_heard_while_memory_is_taken(stage: str) -> None:
    free = free_bytes()

    def interrupt(now: str, done: int, total: int) -> None:
        if now == stage and (done > 0 or stage == "prefaulting"):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        PoolServer(unique_name("p"), STEPS, prefault=True, on_progress=interrupt).start()
    assert segments() == set()
    assert free_bytes() >= free - MIB


@pytest.mark.parametrize("stage", ["reserving", "prefaulting"])
def test_sigterm_while_memory_is_taken_leaves_nothing(start: Starter, stage: str) -> None:
    child = start(taking, unique_name("p"), stage, {"prefault": True})
    child.receive()
    child.signal(signal.SIGTERM)
    assert child.join() == -signal.SIGTERM
    assert segments() == set()


@pytest.mark.parametrize("stage", ["reserving", "prefaulting"])
@pytest.mark.parametrize("swept", [True, False])
def test_a_server_killed_while_it_takes_memory_is_in_nobodys_way(start: Starter, stage: str, swept: bool) -> None:
    name = unique_name("p")
    child = start(taking, name, stage, {"prefault": True})
    child.receive()
    child.kill()
    if swept:
        sweep()
        assert segments() == set()
    with PoolServer(name, PIECES, prefault=True) as server, PoolClient.connect(name, layout=CHUNK) as client:
        assert store(client, some_keys(3)) == [COMMITTED] * 3
        assert server.adopted == (stage == "prefaulting" and not swept)  # it served already


def test_a_kept_pool_whose_server_was_killed_while_it_prefaulted_is_taken_over(start: Starter) -> None:
    name = unique_name("p")
    child = start(taking, name, "prefaulting", {"prefault": True, "keep": True})
    child.receive()
    with PoolClient.connect(name, layout=CHUNK) as client:  # it serves meanwhile
        store(client, some_keys(3))
        child.kill()
        server = PoolServer(name, PIECES, prefault=True).start()
        assert server.adopted
        assert retrieved(client, some_keys(3)) == 3
        server.close()
    remove(name)


# --- not enough


def test_what_does_not_fit_is_refused_before_any_is_taken() -> None:
    told: list[Told] = []
    with pytest.raises(errors.CapacityError, match="free"):
        PoolServer(unique_name("p"), free_bytes() + STEPS, on_progress=lambda *one: told.append(one)).start()
    assert told == []


def test_memory_that_others_take_meanwhile_is_missed_and_all_is_given_back() -> None:
    hog = SHM / "hog"

    def take(stage: str, done: int, total: int) -> None:
        if done > 0 and not hog.exists():
            with hog.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, free_bytes() - 64 * MIB)

    try:
        small = own_shm.of_size("700m")
        small.__enter__()
    except OSError as error:
        pytest.skip(f"no small /dev/shm: {error}")
    try:
        free = free_bytes()
        with pytest.raises(errors.CapacityError):
            PoolServer(unique_name("p"), STEPS, on_progress=take).start()
        hog.unlink()
        assert free_bytes() == free
        assert segments() == set()
    finally:
        small.__exit__(None, None, None)


# --- pages


@linux
def test_prefault_maps_every_page() -> None:
    with PoolServer(unique_name("p"), PIECES) as untouched:
        assert of_server(untouched, "Rss") < PIECES / 4
    with PoolServer(unique_name("p"), PIECES, prefault=True) as server:
        assert of_server(server, "Rss") == of_server(server, "Size") >= PIECES


def test_prefaulting_what_is_taken_over_changes_no_byte_of_those_who_write_meanwhile(start: Starter) -> None:
    name = unique_name("p")
    child = start(serving, name)
    child.receive()
    written = 0

    with PoolClient.connect(name, layout=CHUNK) as client:
        store(client, some_keys(500))

        def write(stage: str, done: int, total: int) -> None:
            nonlocal written
            assert stage == "prefaulting"
            assert store(client, some_keys(500, first=written + 1)) == [COMMITTED] * 500
            written += 1

        child.kill()
        with PoolServer(name, PIECES, prefault=True, on_progress=write) as server:
            assert server.adopted
            assert written > 0
            for first in range(written + 1):
                assert retrieved(client, some_keys(500, first=first)) == 500


def serving(link: Link, name: str) -> None:
    server = PoolServer(name, PIECES).start()
    link.send("serves")
    server.serve_forever()


def denied() -> bool:
    setting = _huge_pages.SETTINGS / "shmem_enabled"
    return not setting.exists() or "[deny]" in setting.read_text()


def release() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"[0-9]+", platform.release())[:2])


@linux
def test_huge_pages_are_told_as_the_kernel_counts_them() -> None:
    with pool(chunks=PIECES // CHUNK, prefault=True) as (server, [client]):
        # The kernel may join pages between two looks.
        eventually(lambda: server.stats()["huge_page_bytes"] == of_server(server, "ShmemPmdMapped"))
        if release() >= (6, 1) and not denied():
            assert of_server(server, "ShmemPmdMapped") > 0
        store(client, some_keys(100))
        assert retrieved(client, some_keys(100)) == 100
    assert _huge_pages.mapped_bytes(server.segment, os.getpid()) is None  # it is gone
    assert _huge_pages.mapped_bytes("no-such-segment", 1) is None


def test_what_keeps_the_kernel_from_huge_pages_is_said_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_huge_pages, "SETTINGS", tmp_path)
    assert _huge_pages.obstacle() == "this kernel has none for shared memory"
    setting = tmp_path / "shmem_enabled"
    setting.write_text("always within_size advise never [deny] force\n")
    assert str(setting) in str(_huge_pages.obstacle())
    setting.write_text("always within_size advise never deny [force]\n")
    assert _huge_pages.obstacle() is None
    setting.write_text("always within_size advise [never] deny force\n")
    monkeypatch.setattr(_huge_pages, "_mounted_with_huge", lambda: False)
    assert "--prefault" in str(_huge_pages.obstacle())
