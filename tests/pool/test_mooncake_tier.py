"""MooncakeTier over a real master: one that dies, stops and comes again, memory that is registered, marks of eras."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringcast import _core
from ringcast.errors import ArgumentError, ArgumentTypeError, MissingPackageError, PoolClosedError, TierError
from ringcast.pool import MooncakeTier, PoolClient, PoolServer
from tests.pool.mooncake import LENT, Mooncake, kept_port, port_of
from tests.pool.pools import CHUNK as POOL_CHUNK
from tests.pool.pools import COMMITTED, Starter, retrieved, some_keys
from tests.pool.pools import store as pool_store
from tests.pool.tiered import evict
from tests.pool.tiers import CHUNK, OfMooncake, chunk, key, loaded, store
from tests.support import Link, eventually, unique_name


@pytest.fixture
def own_mooncake(tmp_path: Path) -> Iterator[Mooncake]:
    """One whose master a test may do anything to."""
    found = Mooncake(tmp_path / "log")
    yield found
    found.close()


def test_a_master_that_is_killed_makes_misses_until_there_is_another(own_mooncake: Mooncake) -> None:
    with OfMooncake(own_mooncake).open() as tier:
        assert store(tier, 1) == [True]
        own_mooncake.kill_master()
        assert store(tier, 2) == [False]
        assert not loaded(tier, 1)
        assert tier.exists([key(1)]).result() == tier.remove([key(1)]).result() == [False]
        assert tier.stats()["failed"] == 4
        with pytest.raises(TierError):
            tier.clear()
        own_mooncake.start_master()
        eventually(lambda: store(tier, 2) == [True], "a store on the new master")
        assert loaded(tier, 2)
        assert not loaded(tier, 1)
        assert tier.clear() == 2  # the first was promised to nobody
        assert not loaded(tier, 2)


def test_what_the_new_master_has_is_found_by_who_comes_later(own_mooncake: Mooncake) -> None:
    kind = OfMooncake(own_mooncake)
    with kind.open() as tier:
        own_mooncake.kill_master()
        assert not loaded(tier, 1)  # so that it is known
        own_mooncake.start_master()
        eventually(lambda: store(tier, 1) == [True], "a store on the new master")
    with kind.open() as tier:
        assert loaded(tier, 1)


def test_a_master_that_has_stopped_makes_misses(own_mooncake: Mooncake) -> None:
    with OfMooncake(own_mooncake).open() as tier:
        store(tier, 1)
        own_mooncake.stop_master()
        assert not loaded(tier, 1)
        assert store(tier, 2) == [False]
        assert tier.stats()["failed"] == 2
        assert "does not answer" in tier.stats()["last_error"]
        own_mooncake.continue_master()
        eventually(lambda: store(tier, 3) == [True], "a store")
        assert loaded(tier, 3)


def test_nobody_who_listens_is_said_to_be_nobody() -> None:
    pytest.importorskip("mooncake.store")
    with kept_port() as port, pytest.raises(TierError, match="no master listens there"):
        MooncakeTier(f"127.0.0.1:{port_of(port)}")


def test_registered_memory_is_not_copied(mooncake: Mooncake) -> None:
    memory = mmap.mmap(-1, 1 << 20)
    inside, outside = memoryview(memory)[4096 : 4096 + CHUNK], memoryview(bytearray(CHUNK))
    with OfMooncake(mooncake).open() as tier:
        tier.register(memory)
        for slot, copied in ((inside, 0), (outside, 2)):
            slot[:] = chunk(1 + copied)
            assert tier.store([key(1 + copied)], [slot]).result() == [True]
            slot[:] = bytes(CHUNK)
            assert tier.load([key(1 + copied)], [slot]).result() == [True]
            assert slot == chunk(1 + copied)
            assert tier.stats()["copied"] == copied
        last = memoryview(memory)[-CHUNK:]
        assert tier.load([key(1)], [last]).result() == [True]
        assert tier.stats()["copied"] == 2
        with pytest.raises(TierError, match="already"):
            tier.register(memory)
        for wrong, error in ((b"read-only", ArgumentError), (bytearray(), ArgumentError), (7, ArgumentTypeError)):
            with pytest.raises(error):
                tier.register(wrong)
    assert not memoryview(memory)[:4096].tobytes().strip(b"\0")
    with pytest.raises(PoolClosedError):
        tier.register(bytearray(1))


def test_memory_that_is_not_registered_any_more_is_copied(mooncake: Mooncake) -> None:
    memory = mmap.mmap(-1, 1 << 20)
    slot = memoryview(memory)[4096 : 4096 + CHUNK]
    with OfMooncake(mooncake).open() as tier:
        tier.register(memory)
        tier.register(bytearray(1 << 16))
        with pytest.raises(ArgumentError, match="registered"):
            tier.unregister(slot)
        tier.unregister(memory)
        with pytest.raises(ArgumentError, match="registered"):
            tier.unregister(memory)
        assert tier.store([key(1)], [slot]).result() == [True]
        assert tier.stats()["copied"] == 1
        tier.register(memory)
        assert tier.load([key(1)], [slot]).result() == [True]
        assert tier.stats()["copied"] == 1
        slot.release()
        tier.unregister(memory)
        memory.close()  # which it cannot while there is a view


def serving_on_mooncake(link: Link, name: str, master: str, prefix: str) -> None:
    tier = MooncakeTier(master, prefix)
    server = PoolServer(name, 16 * POOL_CHUNK, tiers=[tier], policy="lru").start()
    link.send(server.adopted)
    while True:
        if link.recv() == "stats":
            stats: Any = server.stats()
            link.send((stats["tiers"][0]["stored"], stats["tiers"][0]["hits"], tier.stats()["copied"]))
        else:
            server.close()
            link.send((tier.closed, tier._regions))


def test_a_server_registers_its_memory_when_it_starts_and_when_it_takes_over(
    start: Starter, mooncake: Mooncake
) -> None:
    name, keys = unique_name("t"), some_keys(4)
    what = (serving_on_mooncake, name, mooncake.address, OfMooncake(mooncake).prefix)
    child = start(*what)
    assert child.receive() is False

    def figures() -> Any:
        child.link.send("stats")
        return child.receive()

    with PoolClient.connect(name, layout=POOL_CHUNK, regain=60.0) as client:
        assert pool_store(client, keys) == [COMMITTED] * 4
        assert retrieved(client, keys) == 4
        eventually(lambda: figures()[0] == 4, "copies")
        child.kill()
        child = start(*what)
        assert child.receive() is True
        evict(client)
        assert retrieved(client, keys, wait=60) == 4
        assert figures() == (0, 4, 0)
    child.link.send("end")
    assert child.receive() == (True, [])


def test_what_has_no_room_is_refused(mooncake: Mooncake) -> None:
    with OfMooncake(mooncake).open(in_flight="1GiB") as tier:
        assert tier.store([key(1)], [mmap.mmap(-1, LENT)]).result() == [False]
        stats = tier.stats()
        assert (stats["refused"], stats["failed"]) == (1, 0)


def test_what_was_cleared_does_not_come_back_when_the_era_is_lost(mooncake: Mooncake) -> None:
    kind = OfMooncake(mooncake)
    with kind.open() as tier, kind.open() as other:
        store(tier, 1)
        tier.clear()
        store(tier, 2)
        store(other, 3)  # in the era that it found
        assert tier._mooncake.remove(f"{kind.prefix}/ERA", True) == 0
    with kind.open() as tier:
        assert tier.exists([key(n) for n in (1, 2, 3)]).result() == [False] * 3
        assert store(tier, 1) == [True]


def test_an_era_that_is_no_tiers_is_refused(mooncake: Mooncake) -> None:
    kind = OfMooncake(mooncake)
    with kind.open() as tier:
        name = f"{kind.prefix}/ERA"
        for other in (b"of the dinosaurs", b"x" * 28, b"x" * 100):
            assert tier._mooncake.upsert_from(name, _core.address(other), len(other)) == 0
            with pytest.raises(TierError, match="not a tier's"):
                kind.open()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"master": 7}, ArgumentTypeError),
        ({"master": "somewhere"}, ArgumentError),
        ({"master": "host:"}, ArgumentError),
        ({"master": ":1"}, ArgumentError),
        ({"master": "host:99999"}, ArgumentError),
        ({"prefix": ""}, ArgumentError),
        ({"prefix": "/"}, ArgumentError),
        ({"prefix": "a*"}, ArgumentError),
        ({"prefix": b"a"}, ArgumentTypeError),
        ({"memory": "much"}, ArgumentError),
        ({"memory": True}, ArgumentTypeError),
        ({"host": 7}, ArgumentTypeError),
        ({"protocol": None}, ArgumentTypeError),
        ({"timeout": 0}, ArgumentError),
        ({"timeout": True}, ArgumentTypeError),
        ({"timeout": float("nan")}, ArgumentError),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        MooncakeTier(**{"master": "127.0.0.1:1", **options})


def test_what_it_needs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mooncake.store", None)
    with pytest.raises(MissingPackageError, match=r"ringcast\[mooncake\]"):
        MooncakeTier("127.0.0.1:1")
