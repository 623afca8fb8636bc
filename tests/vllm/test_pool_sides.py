"""The KV connector's two sides over a real pool, without vLLM: what is loaded, stored, skipped, and given back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ringcast import errors
from ringcast.instruments.looking import sweep
from ringcast.pool import FileTier, PoolClient, PoolEvent, PoolServer, StoreLease
from ringcast.vllm import _scheduling
from ringcast.vllm._plans import Load, Plan, Report, Store
from ringcast.vllm._pool_events import Announcements, Removed, Stored
from ringcast.vllm._pool_settings import Settings
from ringcast.vllm._storing import Stores
from tests.pool.pools import Starter, start_server
from tests.support import DEADLINE_S, eventually, mapped, segments, unique_name
from tests.vllm.toy import BLOCK, CHUNK, MODEL, RANKS, Toy, ToyRequest, hashes, page

PROMPT = list(range(8 * BLOCK + 2))


@pytest.fixture(autouse=True)
def _sweeps_what_killed_servers_left() -> Iterator[None]:
    yield
    sweep()


@contextmanager
def server(chunks: int = 64, name: str | None = None) -> Iterator[PoolServer]:
    with PoolServer(name or unique_name("v"), chunks * (CHUNK + 4096), entries=max(16, chunks)) as made:
        yield made


def stored(pool: PoolServer) -> int:
    count: Any = pool.stats()["stored"]
    return int(count)


def nothing_is_held(engine: Toy) -> None:
    assert not engine.held
    clients = [engine.side.client, *(worker._access.client for worker in engine.workers)]
    assert [client.held_pins for client in clients if client is not None] == [0] * len([c for c in clients if c])


def test_a_second_engine_takes_the_first_ones_prefix_and_computes_the_rest() -> None:
    with server() as pool, Toy(pool.name) as first, Toy(pool.name) as second:
        assert first.run(ToyRequest("a", PROMPT)) == 0
        assert first.counted()["blocks_stored"] == stored(pool) == 8
        assert second.run(ToyRequest("a", [*PROMPT, 1, 2, 3])) == 8 * BLOCK
        counted = second.counted()
        assert counted["blocks_loaded"] == 8
        assert counted["bytes_loaded"] == 8 * CHUNK
        assert stored(pool) == 9, "what was there is not stored again, and what came after it is"
        for engine in (first, second):
            nothing_is_held(engine)


def test_what_a_step_computes_is_stored_after_it_however_soon_the_server_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker begins with what it is told before it computes."""
    begin = Stores.begin

    def begin_and_hear(stores: Stores, *arguments: Any) -> None:
        before = len(stores._answers)
        begin(stores, *arguments)
        eventually(lambda: len(stores._answers) > before)

    monkeypatch.setattr(Stores, "begin", begin_and_hear)
    with server() as pool, Toy(pool.name) as first, Toy(pool.name) as second:
        request = ToyRequest("a", PROMPT)
        first.admit(request)
        assert first.step({"a": len(PROMPT)}).stores == []
        first.end(request)
        first.settle()
        assert stored(pool) == 8
        assert second.run(ToyRequest("a", PROMPT)) == 8 * BLOCK, "whose bytes are looked at there"


def test_what_is_stored_and_what_goes_is_told_with_its_tokens() -> None:
    with server() as pool, Toy(pool.name) as engine:
        engine.run(ToyRequest("a", PROMPT))
        told, engine.announced = engine.announced, []
        made = hashes(PROMPT)
        assert told == [
            Stored(made[i], made[i - 1] if i else None, PROMPT[i * BLOCK : (i + 1) * BLOCK]) for i in range(8)
        ]
        client = engine.side.client
        assert client is not None
        client.clear()
        engine.wait_until(lambda: len(engine.announced) == 8)
        assert engine.announced == [Removed(each) for each in made]


def test_what_has_gone_before_its_store_was_known_to_be_over_is_not_told_as_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = threading.Event()
    saw, commit = Announcements._saw, PoolClient.commit_store

    def see(announcements: Announcements, batch: list[PoolEvent]) -> None:
        saw(announcements, batch)
        if any(event.kind == "cleared" for event in batch):
            seen.set()

    def commit_and_lose(client: PoolClient, lease: StoreLease) -> Any:
        statuses = commit(client, lease)
        if client is engine.side.client:
            client.clear()
            assert seen.wait(DEADLINE_S)
        return statuses

    monkeypatch.setattr(Announcements, "_saw", see)
    monkeypatch.setattr(PoolClient, "commit_store", commit_and_lose)
    with server() as pool, Toy(pool.name) as engine:
        engine.run(ToyRequest("a", PROMPT))
        assert engine.counted()["blocks_stored"] == 8
        assert engine.announced == []


def test_what_is_being_stored_at_a_reset_is_not_told_as_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    commit = PoolClient.commit_store

    def commit_late(client: PoolClient, lease: StoreLease) -> Any:
        assert go_on.wait(DEADLINE_S)
        return commit(client, lease)

    with server() as pool, Toy(pool.name) as engine:
        request = ToyRequest("a", PROMPT)
        engine.admit(request)
        monkeypatch.setattr(PoolClient, "commit_store", commit_late)
        engine.step({"a": len(PROMPT)})
        engine.side.forget()
        go_on.set()
        engine.end(request)
        engine.settle()
        assert engine.counted()["blocks_stored"] == 8
        assert engine.announced == []


def test_a_prompts_last_token_is_computed_even_where_all_of_it_is_there() -> None:
    with server() as pool, Toy(pool.name) as engine:
        engine.run(ToyRequest("a", PROMPT[: 4 * BLOCK]))
        assert engine.run(ToyRequest("b", PROMPT[: 4 * BLOCK])) == 3 * BLOCK


def test_another_salt_another_model_and_another_form_find_nothing() -> None:
    with server() as pool, Toy(pool.name) as engine:
        engine.run(ToyRequest("a", PROMPT, cache_salt="one"))
        assert engine.run(ToyRequest("b", PROMPT)) == 0
        assert engine.run(ToyRequest("c", PROMPT, cache_salt="two" * 1000)) == 0
        assert engine.run(ToyRequest("d", PROMPT, cache_salt="two" * 1000)) == 8 * BLOCK
        assert engine.run(ToyRequest("f", PROMPT, cache_salt="\ud800")) == 0
        assert engine.run(ToyRequest("e", PROMPT, cache_salt="one")) == 8 * BLOCK
        for other in (MODEL._replace(name="m2"), MODEL._replace(revision="2"), MODEL._replace(form="other")):
            with Toy(pool.name, model=other) as stranger:
                assert stranger.run(ToyRequest("a", PROMPT, cache_salt="one")) == 0


def test_an_adapter_of_the_same_name_from_another_place_finds_nothing() -> None:
    """The engine's hashes have the name."""
    with server() as pool, Toy(pool.name) as first, Toy(pool.name) as second:
        here, there = (SimpleNamespace(lora_name="a", lora_path=path) for path in ("/here", "/there"))
        first.run(ToyRequest("a", PROMPT, lora_request=here))
        assert second.run(ToyRequest("b", PROMPT, lora_request=there)) == 0
        assert second.run(ToyRequest("c", PROMPT)) == 0
        assert second.run(ToyRequest("d", PROMPT, lora_request=here)) == 8 * BLOCK
        second.side.forget()
        assert second.run(ToyRequest("e", PROMPT, lora_request=here)) == 0


def test_who_wants_no_cache_reads_none_and_after_a_reset_nobody_finds_what_was() -> None:
    with server() as pool, Toy(pool.name) as engine:
        engine.run(ToyRequest("a", PROMPT))
        assert engine.run(ToyRequest("b", PROMPT, skip_reading_prefix_cache=True)) == 0
        engine.side.forget()
        assert engine.run(ToyRequest("c", PROMPT)) == 0
        assert engine.run(ToyRequest("d", PROMPT)) == 8 * BLOCK
        with Toy(pool.name) as other:
            assert other.run(ToyRequest("a", PROMPT)) == 8 * BLOCK, "what others have is as it was"


def test_what_was_computed_before_a_reset_is_not_stored_after_it() -> None:
    with server() as pool, Toy(pool.name) as engine:
        client = engine.side.client
        assert client is not None
        request = ToyRequest("a", PROMPT)
        engine.admit(request)
        engine.compute(request, 4 * BLOCK)  # with weights of before
        engine.side.forget()
        engine.step({"a": len(PROMPT) - 4 * BLOCK})
        engine.settle()
        engine.end(request)
        assert stored(pool) == 0
        assert engine.run(ToyRequest("b", PROMPT)) == 0


def test_who_was_preempted_before_a_reset_stores_all_that_it_computes_after_it() -> None:
    with server() as pool, Toy(pool.name) as engine:
        request = ToyRequest("a", PROMPT)
        engine.admit(request)
        engine.step({"a": 4 * BLOCK})
        engine.settle()
        assert stored(pool) == 4
        request.num_computed_tokens = 0
        engine.side.forget()
        engine.step({"a": len(PROMPT)})
        engine.settle()
        engine.end(request)
        assert engine.counted()["blocks_stored"] == 4 + 8
        assert engine.run(ToyRequest("b", PROMPT)) == 8 * BLOCK


def test_after_a_reset_what_was_told_as_stored_is_told_as_gone() -> None:
    with server() as pool, Toy(pool.name) as engine:
        engine.run(ToyRequest("a", PROMPT))
        engine.side.forget()
        assert engine.told.take() == [Removed(each) for each in hashes(PROMPT)]


def test_what_is_only_in_a_file_is_brought_for_who_asks_for_it(tmp_path: Path) -> None:
    tier = FileTier(tmp_path / "tier", "4MiB", CHUNK)
    with PoolServer(unique_name("v"), 12 * (CHUNK + 4096), policy="lru", tiers=[tier]) as pool:
        with Toy(pool.name) as engine:
            engine.run(ToyRequest("a", PROMPT))
            engine.run(ToyRequest("b", PROMPT))  # what is used again is copied
            eventually(lambda: pool.stats()["tiers"][0]["chunks"] == 8)
            keys = engine.side._get(ToyRequest("c", PROMPT)).keys
            others = iter(range(100, 200))

            def is_in_the_file_alone() -> bool:
                engine.run(ToyRequest("d", [next(others), *PROMPT]))
                client = engine.side.client
                return client is not None and client.lookup(keys) == (0, 8)

            eventually(is_in_the_file_alone)
            assert engine.run(ToyRequest("c", PROMPT)) == 8 * BLOCK
            nothing_is_held(engine)


def test_what_is_stored_is_held_until_it_is_although_its_request_has_ended() -> None:
    with server() as pool, Toy(pool.name) as engine:
        engine.run(ToyRequest("a", PROMPT), settle=False)
        assert engine.side.busy or not engine.held
        engine.settle()
        nothing_is_held(engine)
        assert stored(pool) == 8


def test_a_preempted_requests_blocks_are_used_by_others_only_once_they_are_stored() -> None:
    with server() as pool, Toy(pool.name) as engine:
        request = ToyRequest("a", PROMPT)
        engine.admit(request)
        engine.step({"a": len(PROMPT)})
        held = set(engine.held)
        engine.free = request.blocks + engine.free  # preempted: they come next, but for those held
        request.blocks = []
        other = ToyRequest("b", [99, *PROMPT])
        engine.admit(other)
        assert not held.intersection(other.blocks) or held - set(engine.held)
        engine.step({"b": other.num_tokens})
        engine.settle()
        engine.end(other)
        with Toy(pool.name) as second:
            assert second.run(ToyRequest("c", PROMPT)) == 8 * BLOCK
            assert second.run(ToyRequest("d", [99, *PROMPT])) == 8 * BLOCK


def test_what_a_request_makes_is_stored_block_by_block() -> None:
    with server() as pool, Toy(pool.name) as engine:
        request = ToyRequest("a", PROMPT[: 2 * BLOCK])
        engine.admit(request)
        request.blocks += engine.free[:2]
        engine.step({"a": 2 * BLOCK})
        for token in range(2 * BLOCK):
            request.tokens.append(token)
            engine.step({"a": 1})
        engine.settle()
        assert stored(pool) == 4
        assert engine.counted()["blocks_stored"] == 4
        engine.end(request)


@pytest.mark.parametrize("when", ["before it has blocks", "with blocks, but not for it", "while it loads"])
def test_a_request_that_is_aborted_gives_its_chunks_back(when: str) -> None:
    with server() as pool, Toy(pool.name) as engine:
        engine.run(ToyRequest("a", PROMPT))
        request = ToyRequest("b", PROMPT)
        client = engine.side.client
        assert client is not None
        tokens, _ = engine.side.matched(request, 0)
        assert tokens == 8 * BLOCK
        assert client.held_pins > 0
        if when == "with blocks, but not for it":
            engine.side.allocated(request, range(9), 0)
            assert client.held_pins == 0
        elif when == "while it loads":
            engine.side.allocated(request, range(9), tokens)
            plan = engine.side.plan({})
            engine.side.finished("b")
            assert client.held_pins > 0, "the workers have not joined yet"
            for worker in engine.workers:
                worker.begin(plan)
            engine.wait_until(lambda: "b" in engine.loaded)
        engine.side.finished("b")
        nothing_is_held(engine)


def test_asked_again_with_more_computed_it_pins_the_rest_alone() -> None:
    with server() as pool, Toy(pool.name) as engine:
        engine.run(ToyRequest("a", PROMPT))
        request = ToyRequest("b", PROMPT)
        assert engine.side.matched(request, 0) == engine.side.matched(request, 0) == (8 * BLOCK, True)
        assert engine.side.matched(request, 6 * BLOCK) == (2 * BLOCK, True)
        assert engine.side.matched(request, 8 * BLOCK) == (0, False)
        engine.side.finished("b")
        nothing_is_held(engine)


def test_a_full_pool_a_small_one_and_one_with_another_size_of_chunks_fail_no_step() -> None:
    with server(chunks=4) as pool, Toy(pool.name) as engine:
        engine.run(ToyRequest("a", PROMPT))
        counted = engine.counted()
        assert counted["blocks_stored"] + counted["blocks_not_stored"] == 8
        assert counted["blocks_not_stored"] > 0
        assert engine.run(ToyRequest("b", PROMPT)) == stored(pool) * BLOCK
        nothing_is_held(engine)


def test_stores_hold_no_more_than_half_of_the_blocks_and_go_on_where_they_stopped() -> None:
    with server() as pool, Toy(pool.name, blocks=10) as engine:
        request = ToyRequest("a", list(PROMPT))
        engine.admit(request)
        engine.side.plan({"a": len(PROMPT)})
        assert set(engine.side.held()) == set(engine.held)
        assert len(engine.held) == 5
        engine.compute(request, len(PROMPT))
        engine.settle()
        request.tokens.append(7)
        engine.step({"a": 1})
        engine.settle()
        assert stored(pool) == 8
        engine.end(request)


def test_a_flipped_bit_is_a_failed_load_of_that_block_and_asked_for_no_more() -> None:
    with server() as pool, Toy(pool.name) as engine:
        engine.run(ToyRequest("a", PROMPT))
        _flip_a_bit()
        request = ToyRequest("b", PROMPT)
        loaded = engine.admit(request)
        assert loaded < 8 * BLOCK
        assert engine.counted()["loads_failed"] == 1
        assert engine.side.matched(request, 0) == (0, False), "it would come to the same again"
        engine.step({"b": len(PROMPT) - loaded})
        engine.check(request)
        engine.end(request)
        engine.settle()
        nothing_is_held(engine)


def test_what_is_gone_when_the_workers_come_for_it_is_a_failed_load() -> None:
    with server() as pool, Toy(pool.name) as engine:
        engine.run(ToyRequest("a", PROMPT))
        for worker in engine.workers:
            worker.begin(Plan([Load("x", b"no token", [3, 4])]))
        engine.wait_until(lambda: "x" in engine.loaded)
        assert engine.failed_blocks == {3, 4}


def test_a_store_of_which_one_worker_fails_its_part_is_given_up() -> None:
    with server() as pool, Toy(pool.name) as engine:
        request = ToyRequest("a", PROMPT)
        engine.admit(request)
        engine.side.plan({"a": len(PROMPT)})
        engine.compute(request, len(PROMPT))
        plans: list[Plan] = []

        def has_come() -> bool:
            plans.append(engine.side.plan({}))
            return bool(plans[-1].stores)

        eventually(has_come)
        [store] = plans[-1].stores
        engine.workers[0].begin(plans[-1])
        engine.workers[1].begin(Plan([], [Store(store.number, b"broken on its way", store.blocks)]))
        engine.settle()
        assert stored(pool) == 0
        assert engine.counted()["blocks_not_stored"] == 8
        engine.end(request)
        nothing_is_held(engine)
        assert engine.run(ToyRequest("b", PROMPT)) == 0
        assert stored(pool) == 8


def test_a_killed_server_takes_no_stores_and_goes_on_giving_and_its_successor_takes_them(start: Starter) -> None:
    name = unique_name("v")
    child, _ = start_server(start, name, chunks=256)
    with Toy(name, regain=0.1) as engine:
        engine.run(ToyRequest("a", PROMPT))
        child.kill()
        assert engine.run(ToyRequest("b", PROMPT)) == 8 * BLOCK
        assert engine.run(ToyRequest("c", [9, *PROMPT])) == 0
        counted = engine.counted()
        assert counted["blocks_not_stored"] == 8
        assert counted["pool_errors"] > 0
        nothing_is_held(engine)
        start_server(start, name, chunks=256)
        assert engine.run(ToyRequest("d", [9, *PROMPT])) == 0
        assert engine.run(ToyRequest("e", [9, *PROMPT])) == 8 * BLOCK


def test_a_stopped_server_delays_no_step_and_what_waits_for_it_is_given_up(start: Starter) -> None:
    name = unique_name("v")
    child, _ = start_server(start, name, chunks=256)
    with Toy(name, timeout=0.2) as engine:
        child.signal(signal.SIGSTOP)
        request = ToyRequest("a", PROMPT)
        engine.run(request, settle=False)
        assert engine.side.busy
        engine.settle()
        assert engine.counted()["blocks_not_stored"] == 8
        nothing_is_held(engine)
        os.kill(child.pid, signal.SIGCONT)
        eventually(lambda: engine.run(ToyRequest("b", PROMPT)) == 8 * BLOCK)


def test_an_engine_finds_its_pool_when_it_comes_and_the_next_one_of_its_name() -> None:
    name = unique_name("v")
    with server(name=name), Toy(name) as engine:
        engine.run(ToyRequest("a", PROMPT))
    with server(name=name) as pool, Toy(name, retry=0.0) as engine:
        assert engine.run(ToyRequest("a", PROMPT)) == 0
        pool.close()
        with server(name=name) as another:
            engine.run(ToyRequest("b", [8, *PROMPT]))  # which finds that its pool is closed

            def stores() -> bool:
                engine.run(ToyRequest("c", [7, *PROMPT]))
                return stored(another) > 0

            eventually(stores)
            nothing_is_held(engine)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "pool"),
        ({"pool": "kv0", "tiemout": 3}, "tiemout"),
        ({"pool": 7}, "a str"),
        ({"pool": "a/b"}, "a/b"),
        ({"pool": "kv0", "timeout": "soon"}, "timeout"),
        ({"pool": "kv0", "regain": -1}, "regain"),
        ({"pool": "kv0", "retry": True}, "retry"),
        ({"pool": "kv0", "timeout": None}, "timeout.*not None"),
        ({"pool": "kv0", "retry": float("inf")}, "retry.*not inf"),
        ({"pool": "kv0", "regain": 1e10}, "regain"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(given: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.ArgumentError, match=says):
        Settings.of(given)


def test_reports_of_several_workers_add_up() -> None:
    together = Report({"a"}, {1: 1}, {2: 1}).aggregate(Report({"b"}, {1: 1, 3: 1}))
    assert together == Report({"a", "b"}, {1: 2, 3: 1}, {2: 1})
    assert together
    assert not Report()


def test_each_reset_makes_another_era() -> None:
    first = _scheduling.replace_era(MODEL)
    assert first.revision.startswith("1+")
    assert _scheduling.replace_era(first).revision.partition("+")[0] == "1"
    assert _scheduling.replace_era(first) != first


def _flip_a_bit() -> None:
    """One bit of what one rank has of the second chunk in a layer, wherever that lies."""
    content = bytes(page(hashes(PROMPT)[1], RANKS - 1, 1))
    flipped = 0
    for name in segments():
        with mapped(name) as memory:
            at = memory.find(content)
            if at >= 0:
                memory[at + 5] ^= 1
                flipped += 1
    assert flipped == 1
