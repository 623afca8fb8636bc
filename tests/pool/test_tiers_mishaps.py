"""Whatever a tier's own code raises or answers: its futures end, its figures are right, and the next jobs are done."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from ringcast.pool import FileTier, PoolServer, Tier, _tending
from tests.mishaps import MISHAPS, Mute, filtered, no_threads
from tests.pool.pools import retrieved, some_keys, store
from tests.pool.tiered import evict, keep, tier_figure, tiered
from tests.pool.tiers import DictTier, chunk, key
from tests.support import DEADLINE_S, Background, eventually, unique_name


class Unsayable:
    """Neither true nor false."""

    def __bool__(self) -> bool:
        raise SystemExit


ODD_ANSWERS: list[Any] = [[], [True, True, True], None, 7, [Unsayable(), True]]


class Wayward(DictTier):
    """A tier that does as it should but for one job."""

    def __init__(self, **options: Any) -> None:
        super().__init__({}, **options)
        self.does: Callable[[], Any] | None = None
        self.did = threading.Event()

    def _once(self) -> Any:
        does, self.does = self.does, None
        assert does is not None
        self.did.set()
        return does()


class OfChunks(Wayward):
    """One that goes wrong with a chunk."""

    def store_chunk(self, key: bytes, chunk: memoryview) -> bool:
        return self._once() if self.does is not None else super().store_chunk(key, chunk)

    def load_chunk(self, key: bytes, into: memoryview) -> bool:
        return self._once() if self.does is not None else super().load_chunk(key, into)

    def has_chunk(self, key: bytes) -> bool:
        return self._once() if self.does is not None else super().has_chunk(key)

    def remove_chunk(self, key: bytes) -> bool:
        return self._once() if self.does is not None else super().remove_chunk(key)


class OfSeveral(Wayward):
    """One that goes wrong with a few chunks together."""

    together = 1 << 20

    def __init__(self) -> None:
        super().__init__(threads=1)

    def store_chunks(self, keys: list[bytes], chunks: list[memoryview]) -> list[bool]:
        return self._once() if self.does is not None else super().store_chunks(keys, chunks)

    def load_chunks(self, keys: list[bytes], into: list[memoryview]) -> list[bool]:
        return self._once() if self.does is not None else super().load_chunks(keys, into)


def raising(kind: Callable[[], BaseException]) -> Callable[[], Any]:
    def raises() -> Any:
        raise kind()

    return raises


def answering(answer: Any) -> Callable[[], Any]:
    return lambda: answer


def stored(tier: Tier, *numbers: int) -> list[bool]:
    return tier.store([key(n) for n in numbers], [chunk(n) for n in numbers]).result(DEADLINE_S)


def loaded(tier: Tier, *numbers: int) -> list[bool]:
    slots = [bytearray(len(chunk(n))) for n in numbers]
    found = tier.load([key(n) for n in numbers], slots).result(DEADLINE_S)
    assert all(bytes(slot) == chunk(n) for n, slot, is_there in zip(numbers, slots, found, strict=True) if is_there)
    return found


def in_order(tier: Tier) -> bool:
    """Nothing is in flight, and a chunk comes and goes."""
    assert tier.stats()["in_flight_bytes"] == 0
    assert stored(tier, 1, 2) == loaded(tier, 1, 2) == [True, True]
    assert tier.exists([key(1)]).result(DEADLINE_S) == tier.remove([key(1)]).result(DEADLINE_S) == [True]
    return True


@pytest.mark.parametrize("kind", MISHAPS)
@pytest.mark.parametrize("job", ["store", "load", "exists", "remove"])
def test_whatever_a_tier_raises_is_a_job_that_failed(job: str, kind: Callable[[], BaseException]) -> None:
    with OfChunks() as tier:
        tier.does = raising(kind)
        jobs: dict[str, Callable[[], list[bool]]] = {
            "store": lambda: stored(tier, 1),
            "load": lambda: loaded(tier, 1),
            "exists": lambda: tier.exists([key(1)]).result(DEADLINE_S),
            "remove": lambda: tier.remove([key(1)]).result(DEADLINE_S),
        }
        assert jobs[job]() == [False]
        assert tier.stats()["failed"] == 1
        assert f"{job}: {kind().__class__.__name__}" in tier.stats()["last_error"]
        assert in_order(tier)


@pytest.mark.parametrize("does", [*map(raising, MISHAPS), *map(answering, ODD_ANSWERS)])
@pytest.mark.parametrize("checks", [False, True], ids=["framed", "as they are"])
@pytest.mark.parametrize("job", [stored, loaded])
def test_whatever_it_does_with_a_few_together_is_a_job_that_failed(
    job: Callable[..., list[bool]], checks: bool, does: Callable[[], Any]
) -> None:
    with OfSeveral() as tier:
        tier.checks = checks
        tier.does = does
        assert job(tier, 1, 2) == [False, False]
        assert tier.stats()["failed"] == 1
        assert in_order(tier)


def test_who_else_waits_for_a_job_is_told_whatever_one_does() -> None:
    held, told = threading.Event(), threading.Event()

    def exits(_: object) -> None:
        raise SystemExit

    with OfChunks() as tier:
        tier.does = lambda: held.wait(DEADLINE_S)
        job = tier.store([key(1)], [chunk(1)])
        job.add_done_callback(exits)
        job.add_done_callback(lambda _: told.set())
        held.set()
        assert told.wait(DEADLINE_S)
        assert job.result() == [True]


def test_who_logs_it_may_raise_too() -> None:
    def exits(record: logging.LogRecord) -> bool:
        raise SystemExit

    with OfChunks() as tier, filtered("ringcast.pool", exits):
        tier.does = raising(OSError)
        assert stored(tier, 1) == [False]
        assert in_order(tier)


def test_what_no_thread_can_be_had_for_is_refused_and_not_done_later(monkeypatch: pytest.MonkeyPatch) -> None:
    with DictTier({}, threads=1) as tier:
        with no_threads(monkeypatch):
            assert stored(tier, 7) == [False]
        assert tier.stats()["refused"] == 1
        assert in_order(tier)
        assert loaded(tier, 7) == [False], "its memory was given back"


class InServer(DictTier):
    """A tier with one thread, which goes wrong as long as it is told to, in a server."""

    def __init__(self, job: str, does: Callable[[], Any]) -> None:
        super().__init__({}, threads=1)
        self.job, self.does = job, does
        self.goes_wrong = False
        self.did = threading.Event()

    def _wrong(self, job: str) -> bool:
        if self.goes_wrong and self.job == job:
            self.did.set()
            return True
        return False

    def store_chunk(self, key: bytes, chunk: memoryview) -> bool:
        return self.does() if self._wrong("store") else super().store_chunk(key, chunk)

    def load_chunk(self, key: bytes, into: memoryview) -> bool:
        return self.does() if self._wrong("load") else super().load_chunk(key, into)

    def exists(self, keys: Any) -> Future[list[bool]]:
        if not self._wrong("find"):
            return super().exists(keys)
        future: Future[list[bool]] = Future()
        future.set_result(self.does())
        return future


@pytest.mark.parametrize("does", [*map(raising, MISHAPS), *map(answering, ODD_ANSWERS)])
@pytest.mark.parametrize("job", ["store", "load", "find"])
def test_a_server_s_one_thread_for_a_tier_outlives_it(job: str, does: Callable[[], Any]) -> None:
    tier = InServer(job, does)
    with tiered(tier) as (server, [client]):
        keys = some_keys(2)
        keep(server, client, keys)
        evict(client)
        tier.goes_wrong = True
        if job == "store":
            store(client, others := some_keys(1, 7))
            assert retrieved(client, others) == 1  # only what is used is copied
        else:
            client.prefetch(keys if job == "load" else some_keys(2, 5000)).result(DEADLINE_S)
        assert tier.did.wait(DEADLINE_S)
        eventually(lambda: tier_figure(server, "running")() == 0, "the end of the job")
        tier.goes_wrong = False
        again = some_keys(2, 50)
        keep(server, client, again)
        evict(client, first=2000)
        assert retrieved(client, again, wait=DEADLINE_S) == 2


@pytest.mark.parametrize("answers", [[], [True, True, True]])
def test_a_tier_that_answers_for_other_keys_than_it_was_asked_for_has_failed(answers: list[bool]) -> None:
    tier = InServer("find", answering(answers))
    with tiered(tier) as (server, [client]):
        tier.goes_wrong = True
        assert client.prefetch(some_keys(2)).result(DEADLINE_S) == 0
        eventually(lambda: tier_figure(server, "failed")() >= 1)
        assert "answers came for 2 keys" in server._core.tier_errors()[0][1]  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [OSError, Mute])
def test_a_tier_that_cannot_be_closed_keeps_nothing_else_from_it(
    kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    class Stuck(DictTier):
        def close_chunks(self) -> None:
            raise kind

    told: list[int] = []
    stuck, other = Stuck({}), DictTier({})
    server = PoolServer(unique_name("p"), "1MiB", tiers=[stuck, other], on_event=lambda batch: told.append(len(batch)))
    serving = Background(server.start().serve_forever)
    server.close()
    serving.result()
    assert other.closed
    assert f"could not be closed: {kind.__name__}" in caplog.text


def test_what_tells_of_failures_outlives_that_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_tending, "_LOOK_S", 0.001)
    looks = iter([raising(UnicodeError), answering([(1, "on fire")])])

    class Core:
        abandoned = False

        def tier_errors(self) -> Any:
            return next(looks, answering([(2, "still on fire")]))()

    class Nameless(FileTier):
        def __repr__(self) -> str:
            raise SystemExit

    tier = Nameless(tmp_path / "tier", "1MiB", "4KiB")
    tending = _tending.Tending("p", Core(), [tier])  # type: ignore[arg-type]
    tending.begin()
    eventually(lambda: "<Nameless> has failed 2 times; the last: still on fire" in caplog.text)
    tending.end()
    assert tier.closed
    assert "it cannot be said what has failed: UnicodeError" in caplog.text
