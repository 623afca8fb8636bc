"""Why a lookup misses, told by who was not there."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from ringcast import _core, errors
from ringcast.pool import Keys, Namespace, PoolClient, PoolServer, chunk_keys, explain, keys_from_hashes
from tests.pool.pools import CACHED, CHUNK, LOOSE, SPACE, Starter, pool, some_keys, store
from tests.support import Link, run_python, unique_name

TOKENS = list(range(40))
RINGCAST = "import sys; from ringcast.cli import main; sys.exit(main(sys.argv[1:]))"


def keys_of(space: Namespace, count: int = 4) -> Keys:
    return chunk_keys(TOKENS[: 10 * count], space, 10)


def verdicts(server: PoolServer, space: Namespace = SPACE) -> list[str]:
    return [why.verdict for why in explain(server.name, space, tokens=TOKENS, chunk_size=10)]


def test_what_is_there_is_stored_pending_or_not_stored() -> None:
    with pool(chunks=16) as (server, [client]):
        store(client, keys_of(SPACE, 2))
        lease = client.prepare_store(keys_of(SPACE, 3))
        found = explain(server.name, SPACE, tokens=TOKENS, chunk_size=10)
        assert [why.verdict for why in found] == ["present", "present", "pending", "not stored"]
        assert [why.key for why in found] == list(keys_of(SPACE))
        assert [why.first_missing for why in found] == [None] * 4
        assert found[0].at_ns > 0
        assert str(found[3]) == "chunk 3 has not been stored"
        client.abort_store(lease)
        assert verdicts(server) == ["present", "present", "not stored", "not stored"]


def test_what_was_evicted_is_told_with_its_age_and_what_lacks_it() -> None:
    with pool(chunks=16, policy="lru") as (server, [client]):
        began = time.monotonic()
        store(client, keys_of(SPACE))
        for number in range(10):
            store(client, some_keys(4, first=number))
        found = explain(server.name, SPACE, tokens=TOKENS, chunk_size=10)
        assert [why.verdict for why in found] == ["evicted"] * 4
        assert [why.first_missing for why in found] == [None, 0, 0, 0]
        told = re.fullmatch(
            r"chunk 1 was evicted for what was stored later, (\d+\.\d) s ago; chunk 0 before it is missing",
            str(found[1]),
        )
        assert told is not None
        assert float(told[1]) <= time.monotonic() - began + 0.1


@pytest.mark.parametrize("what", [None, SPACE])
def test_what_was_cleared_is_told(what: Namespace | None) -> None:
    with pool(chunks=16) as (server, [client]):
        store(client, keys_of(SPACE, 2))
        client.clear(what)
        assert verdicts(server) == ["cleared", "cleared", "not stored", "not stored"]
        client.clear()
        store(client, keys_of(SPACE, 1))
        assert verdicts(server) == ["present", "cleared", "not stored", "not stored"]


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "int8"},
        {"layout": "others"},
        {"shards": 2},
        {"group": 1},
        {"chained": False},
        {"salt": b"tenant 7"},
        {"dtype": "int8", "shards": 4, "salt": b"tenant 8"},
    ],
)
def test_what_is_there_under_another_namespace_is_found_and_the_difference_told(change: dict[str, Any]) -> None:
    fields = {"dtype": "uint8", "layout": "bytes"} | change
    other = Namespace("model", **fields)
    with pool(chunks=16) as (server, [client]):
        store(client, keys_of(other, 2))
        found = explain(server.name, SPACE, tokens=TOKENS, chunk_size=10)
        assert [len(why.elsewhere) for why in found] == [1, 1, 0, 0]
        [there] = found[0].elsewhere
        assert there.digest == other.digest.hex()
        assert set(there.differs) == {name.replace("salt", "salt_digest") for name in change}
        for field, (recorded, asked) in there.differs.items():
            assert (recorded, asked) == (other.record[field], SPACE.record[field])
            assert f"{field} {recorded!r} instead of {asked!r}" in str(found[0])


def test_hashes_are_explained_as_tokens_are() -> None:
    hashes: list[bytes | int] = [b"hash 0", 1, 2, 3]
    other = Namespace("another model", dtype="uint8", layout="bytes")
    with pool(chunks=16) as (server, [client]):
        store(client, keys_from_hashes(hashes, other, 2))
        found = explain(server.name, LOOSE, hashes=hashes, every=2)
        assert [why.verdict for why in found] == ["not stored"] * 2
        assert [set(why.elsewhere[0].differs) for why in found] == [{"model", "chained"}] * 2


def test_a_namespace_is_recorded_once_whoever_stores_for_it() -> None:
    with pool(chunks=64, clients=3) as (server, clients):
        for number, client in enumerate(clients):
            store(client, some_keys(2, first=number))
            store(client, some_keys(2, first=10 + number, space=LOOSE))
        assert server.stats()["spaces"] == 2
        assert store(clients[0], some_keys(2)) == [CACHED] * 2


def test_a_full_table_of_namespaces_is_counted_and_harms_no_store() -> None:
    with pool(chunks=16) as (server, [client]):
        for number in range(20):
            store(client, some_keys(1, space=Namespace(f"model {number}", dtype="uint8", layout="bytes")))
        stats = server.stats()
        assert (stats["spaces"], stats["spaces_without_room"]) == (16, 4)
        assert stats["stored"] == 20


def test_the_longest_names_are_recorded_whole() -> None:
    space = Namespace("m" * 1024, "r" * 256, dtype="d" * 64, layout="l" * 128, shards=64, salt=b"s" * 1024)
    with pool(chunks=16) as (server, [client]):
        store(client, some_keys(1, space=space))
        [(digest, salt_digest, packed)] = _core.PoolMemory(server.segment, "0.1.0").spaces()
        assert (digest, salt_digest, packed) == (space.digest, space.salt_digest, space.packed)
        assert Namespace._recorded(digest, salt_digest, packed).record == space.record  # type: ignore[union-attr]


@pytest.mark.parametrize("cut", [0, 1, 3, 4, 9, -1])
def test_what_is_no_record_is_passed_over(cut: int) -> None:
    packed = SPACE.packed[:cut]
    assert Namespace._recorded(SPACE.digest, SPACE.salt_digest, packed) is None


def serving(link: Link, name: str) -> None:
    PoolServer(name, 64 * CHUNK, entries=64).start()
    link.send("serving")
    link.recv()


def test_a_pool_that_is_taken_over_remembers_its_namespaces_and_what_was_evicted(start: Starter) -> None:
    name = unique_name("p")
    child = start(serving, name)
    assert child.receive() == "serving"
    with PoolClient.connect(name, layout=CHUNK) as client:
        store(client, keys_of(SPACE, 2))
        client.clear()
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        with PoolServer(name, 64 * CHUNK, entries=64) as server:
            assert server.stats()["spaces"] == 1
            assert verdicts(server) == ["cleared", "cleared", "not stored", "not stored"]
            store(client, keys_of(SPACE, 1))
            assert verdicts(server)[0] == "present"


@pytest.mark.parametrize("wrong", [{}, {"tokens": [1], "hashes": [b"1"]}, {"tokens": "text"}, {"hashes": [1.5]}])
def test_wrong_arguments_are_refused(wrong: dict[str, Any]) -> None:
    with pool() as (server, _), pytest.raises((errors.ArgumentError, errors.ArgumentTypeError)):
        explain(server.name, SPACE, **wrong)


def test_nothing_is_explained_without_a_pool() -> None:
    with pytest.raises(errors.PoolConnectError):
        explain(unique_name("p"), SPACE, tokens=TOKENS)


def test_the_command_tells_it_in_words_and_in_json() -> None:
    with pool(chunks=16) as (server, [client]):
        store(client, keys_of(SPACE, 2))
        options = ["--model", "model", "--dtype", "int8", "--layout", "bytes", "--tokens", "-", "--chunk-size", "10"]
        command = [sys.executable, "-c", RINGCAST, "pool", "explain", server.name, *options]
        done = subprocess.run(command, input=json.dumps(TOKENS), capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[0] == (
            "chunk 0 has not been stored; it is there for another namespace (dtype 'uint8' instead of 'int8')"
        )
        done = subprocess.run(
            [*command, "--json"], input="0 1 2,3\n4 5 6 7 8 9", capture_output=True, text=True, check=True
        )
        [told] = json.loads(done.stdout)
        assert told["verdict"] == "not stored"
        assert told["elsewhere"] == [{"digest": SPACE.digest.hex(), "differs": {"dtype": ["uint8", "int8"]}}]
        salted = dataclasses.replace(SPACE, salt=b"\xff")
        store(client, keys_of(salted, 1))
        command[command.index("int8")] = "uint8"
        done = subprocess.run(
            [*command, "--salt", os.fsdecode(salted.salt)],
            input=json.dumps(TOKENS),
            capture_output=True,
            text=True,
            check=True,
        )
        assert "chunk 0 is in the pool" in done.stdout
        wrong = run_python(RINGCAST, "pool", "explain", server.name, *options[:6])
        assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
        assert "Give either --tokens or --hashes." in wrong.stderr


def test_a_touched_chunk_is_evicted_later() -> None:
    with pool(chunks=16, policy="lru") as (server, [client]):
        store(client, keys_of(SPACE))
        store(client, some_keys(8, space=LOOSE))
        client.touch(keys_of(SPACE))
        store(client, some_keys(6, first=1, space=LOOSE))
        assert verdicts(server) == ["present"] * 4
        client.touch(some_keys(6, first=1, space=LOOSE))
        store(client, some_keys(8, first=2, space=LOOSE))
        assert "evicted" in verdicts(server)
        with pytest.raises(errors.ArgumentTypeError, match="keys must be Keys"):
            client.touch([b"key"])  # type: ignore[arg-type]
