"""`ringcast pool`, run as its users run it: real servers, real signals, real kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from ringcast import _sizes, errors, pool
from ringcast._sizes import human_bytes
from ringcast.pool import Namespace, PoolClient, PoolServer, salt_digest
from tests.pool.pools import CHUNK, NO_MEMORY, SPACE, figure, retrieved, some_keys, store
from tests.support import DEADLINE_S, Child, Link, eventually, run_python, segments, started_pids, unique_name

RINGCAST = "import sys; from ringcast.cli import main; sys.exit(main(sys.argv[1:]))"

Serve = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts `ringcast pool serve`, and returns when it has said its line, which is the attribute `said`."""
    begun: list[subprocess.Popen[str]] = []

    def start(name: str, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "ringcast", "pool", "serve", name, "--size", "256KiB", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started_pids.add(process.pid)
        begun.append(process)
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def said(server: subprocess.Popen[str]) -> str:
    """What it says once it serves."""
    assert server.stdout is not None
    return server.stdout.readline()


def run(*arguments: str) -> str:
    """The output of a command that succeeds."""
    done = run_python(RINGCAST, "pool", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def complaint(*arguments: str, code: int = 1) -> str:
    """The one line that a command ends with that cannot do what it should."""
    done = run_python(RINGCAST, "pool", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("ringcast: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def rows(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines()]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_server_says_when_it_serves_and_ends_clean_by_a_signal(serve: Serve, number: int, code: int) -> None:
    name = unique_name("p")
    server = serve(name, "--policy", "lru")
    assert said(server) == f"serving pool '{name}', made: 256 KiB, policy lru\n"
    with PoolClient.connect(name, layout=CHUNK) as client:
        store(client, some_keys(4))
        server.send_signal(number)
        assert server.wait(DEADLINE_S) == code
        assert server.communicate() == ("", "")
        with pytest.raises(errors.PoolClosedError):
            client.prepare_store(some_keys(1, first=1))
    assert segments() == set()


def test_what_a_killed_server_left_is_shown_and_taken_over(serve: Serve) -> None:
    name = unique_name("p")
    first = serve(name)
    said(first)
    with PoolClient.connect(name, "w7", layout=CHUNK) as client:
        store(client, some_keys(5))
        first.kill()
        first.wait()
        assert [name, str(first.pid), "(gone)", "20", "KiB", "256", "KiB", "5", "1", "no"] in rows(run("ls"))
        assert ["server", str(first.pid), "(gone),", "epoch", "1"] in rows(run("stat", name))
        assert f"clients have it: w7 (pid {os.getpid()})" in complaint("rm", name)
        second = serve(name)
        assert said(second) == f"serving pool '{name}', taken over with 5 chunks: 256 KiB, policy arc\n"
        assert ["server", str(second.pid), "(living),", "epoch", "2"] in rows(run("stat", name))
        assert retrieved(client, some_keys(5)) == 5


def test_a_stopped_server_is_told_from_a_living_one(serve: Serve) -> None:
    name = unique_name("p")
    server = serve(name)
    said(server)
    server.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, server.pid, os.WSTOPPED | os.WNOWAIT)
    assert [name, str(server.pid), "(stopped)"] in [row[:3] for row in rows(run("ls"))]
    assert json.loads(run("stat", name, "--json"))["server"] == "stopped"
    line = complaint("clear", name, "--timeout", "0.2", code=124)
    assert str(server.pid) in line
    assert "stopped" in line


def without_ages(stats: Any) -> Any:
    """What does not change from one look to the next while nothing happens."""
    pins = [{name: value for name, value in pin.items() if name != "age_s"} for pin in stats["oldest_pins"]]
    clients = [{name: value for name, value in one.items() if name != "oldest_pin_s"} for one in stats["clients"]]
    return stats | {"oldest_pins": pins, "clients": clients, "curve": None, "curve_accesses": None}


def test_stat_shows_tenants_and_quotas_and_what_was_hit_by_clients_that_are_gone() -> None:
    salted = Namespace("model", dtype="uint8", layout="bytes", salt=b"tenant 7")
    unused = salt_digest(b"tenant 8").hex()
    with PoolServer(unique_name("p"), "256KiB", quota={b"tenant 7": "64KiB", unused: "8KiB"}) as server:
        with PoolClient.connect(server.name, layout=CHUNK) as client:
            store(client, some_keys(3))
            store(client, some_keys(5, space=salted))
            retrieved(client, some_keys(4))
        eventually(lambda: not server.stats()["clients"])
        found = rows(run("stat", server.name))
        ours = SPACE.salt_digest.hex()[:16]
        assert [salted.salt_digest.hex()[:16], "5", "20", "KiB", "64", "KiB"] in found
        assert [ours, "3", "12", "KiB", "none"] in found
        assert [unused[:16], "0", "0", "B", "8", "KiB"] in found
        assert ["retrieves", "75.0", "%", "of", "4", "keys"] in found


def test_stat_shows_what_other_sizes_would_hit() -> None:
    with PoolServer(unique_name("p"), "64KiB", entries=16) as server:
        with PoolClient.connect(server.name, layout=CHUNK) as client:
            chains = [some_keys(4, first=number) for number in range(6)]  # half more than there is room for

            def is_counted() -> bool:  # what comes while the thread that counts is kept from the CPU is not
                for chain in chains:
                    retrieved(client, chain)
                    store(client, chain)
                return figure(server, "curve_accesses")() >= 12 * 24

            eventually(is_counted, "so many accesses in the curve")
        stats = server.stats()
        assert set(stats["curve"]) == {"lru", "arc", "s3fifo"}
        for rates in stats["curve"].values():
            assert list(rates) == ["0.5", "1", "2", "4"]
        # All of it fits into twice the memory, so that only the first time each is asked for it is not there.
        assert stats["curve"]["lru"]["2"] > 0.9 > stats["curve"]["lru"]["0.5"]
        table = {row[0]: row[1:] for row in rows(run("stat", server.name)) if row}
        assert table["POLICY"] == ["0.5x", "1x", "2x", "4x"]

        def is_shown() -> bool:  # once all is counted
            table = {row[0]: row[1:] for row in rows(run("stat", server.name)) if row}
            return table["lru"][4:6] == [f"{100 * server.stats()['curve']['lru']['2']:.1f}", "%"]

        eventually(is_shown)


def test_stat_shows_what_is_there_who_holds_it_and_what_was_hit() -> None:
    with (
        PoolServer(unique_name("p"), "256KiB") as server,
        PoolClient.connect(server.name, "w0", layout=CHUNK) as client,
        PoolClient.connect(server.name, "w1", layout=CHUNK),
    ):
        store(client, some_keys(3))
        client.lookup(some_keys(4))
        reserved = client.prepare_store(some_keys(2, first=1))
        held = client.prepare_retrieve(some_keys(4))
        found = rows(run("stat", server.name))
        assert ["used", "20", "KiB", "of", "256", "KiB,", "7.8", "%"] in found
        assert ["chunks", "3", "of", "64,", "2", "being", "stored"] in found
        assert ["lookups", "75.0", "%", "of", "4", "keys"] in found
        assert ["retrieves", "75.0", "%", "of", "4", "keys"] in found
        assert ["clients", "2"] in found
        pid, pins = str(os.getpid()), str(client.held_pins)
        by_client = {row[1]: row for row in found if row[2:3] == [pid]}
        share = ["75.0", "%", "of", "4", "keys"]
        row = by_client["w0"]
        assert row[:4] + row[6:] == ["0", "w0", pid, pins, "1", *share, "1", *share]
        assert row[5] == "s"  # for how long it has held what it has held longest
        assert by_client["w1"] == ["1", "w1", pid, "0", "0", "none", "0", "none"]
        described = json.loads(run("stat", server.name, "--json"))
        ages = [pin.pop("age_s") for pin in described["oldest_pins"]]
        assert len(ages) == client.held_pins
        assert ages == sorted(ages, reverse=True)
        assert described["clients"][0]["oldest_pin_s"] == ages[0]
        assert without_ages(pool.describe(server.name)) == without_ages(server.stats()) == without_ages(described)
        assert described["schema"] == 1
        assert (described["chunks"], described["reserved"], described["used_bytes"]) == (3, 2, 5 * CHUNK)
        assert described["clients"][0]["pins"] == client.held_pins > 0
        client.abort_store(reserved)
        client.commit_retrieve(held)


def test_stat_watches_until_ctrl_c_with_rates_from_the_second_look_on(serve: Serve) -> None:
    with PoolServer(unique_name("p"), "256KiB") as server:
        command = [sys.executable, "-m", "ringcast", "pool", "stat", server.name, "--watch", "0.05"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
            started_pids.add(watching.pid)
            assert watching.stdout is not None
            for line in watching.stdout:
                if line.split() == ["stored", "0", "(0/s)"]:
                    break
            watching.send_signal(signal.SIGINT)
            _, complaints = watching.communicate()
            assert (watching.returncode, complaints) == (130, "")
    assert "do not go together" in complaint("stat", "x", "--json", "--watch", "1", code=2)


def test_clear_empties_a_pool_whose_chunks_stay_with_who_holds_them() -> None:
    with (
        PoolServer(unique_name("p"), "256KiB") as server,
        PoolClient.connect(server.name, layout=CHUNK) as client,
    ):
        store(client, some_keys(6))
        with client.retrieve(some_keys(6)) as found:
            assert run("clear", server.name) == "Cleared 6 chunks.\n"
            assert client.lookup(some_keys(6)).memory == 0
            assert bytes(found.slots[5].array)[:32] == some_keys(6)[5]
            assert server.stats()["limbo"] > 0
        eventually(lambda: server.stats()["used_bytes"] == 0, "the memory's return")


def test_a_kept_pool_stays_until_it_is_removed_by_name(serve: Serve) -> None:
    name = unique_name("p")
    server = serve(name, "--keep")
    assert said(server).endswith(", policy arc, kept\n")
    with PoolClient.connect(name, layout=CHUNK) as client:
        store(client, some_keys(2))
    assert f"its server is living (pid {server.pid})" in complaint("rm", name)
    server.send_signal(signal.SIGTERM)
    server.wait(DEADLINE_S)
    done = run_python(RINGCAST, "clean")
    assert [name, "to be kept: ringcast pool rm removes it"] in [
        [line.split()[0], line.rstrip()[-39:]] for line in done.stdout.splitlines()
    ]
    assert done.stdout.endswith("Nothing to remove.\n")
    assert [name, str(server.pid), "(gone)", "8", "KiB", "256", "KiB", "2", "0", "yes"] in rows(run("ls"))
    assert "ringcast pool ls" in run_python(RINGCAST, "ls").stdout
    with_chunks = serve(name)
    assert said(with_chunks) == f"serving pool '{name}', taken over with 2 chunks: 256 KiB, policy arc, kept\n"
    with_chunks.send_signal(signal.SIGTERM)
    with_chunks.wait(DEADLINE_S)
    assert run("rm", name) == f"Removed pool '{name}'.\n"
    assert segments() == set()
    assert complaint("rm", name) == f"ringcast: there is no pool '{name}'\n"


def _die_serving(link: Link, name: str) -> None:
    PoolServer(name, "256KiB").start()
    link.send(name)
    link.recv()


def test_clean_removes_what_killed_servers_left_and_counts_it_as_pools(start: Callable[..., Child]) -> None:
    name = unique_name("p")
    server = start(_die_serving, name)
    server.receive()
    with PoolServer(unique_name("p"), "256KiB") as living:
        server.kill()
        done = run_python(RINGCAST, "clean")
        assert f"{server.pid} (dead)" in done.stdout
        last = done.stdout.splitlines()[-1]
        assert last.startswith("Removed 1 pool, ")
        assert last.endswith(". 1 pool in use left alone.")
        assert [one["name"] for one in json.loads(run("ls", "--json"))] == [living.name]


def test_a_quota_holds_for_the_salt_with_that_digest(serve: Serve) -> None:
    name = unique_name("p")
    digest = salt_digest(b"tenant").hex()
    said(serve(name, "--quota", f"{digest}=8KiB"))
    with PoolClient.connect(name, layout=CHUNK) as client:
        its = Namespace("model", dtype="uint8", layout="bytes", salt=b"tenant")
        lease = client.prepare_store(some_keys(3, space=its))
        assert lease.statuses[2] == NO_MEMORY
        client.abort_store(lease)
        assert NO_MEMORY not in client.prepare_store(some_keys(3, space=SPACE)).statuses


def test_pools_are_listed_and_looked_at_from_python_too() -> None:
    with pytest.raises(errors.PoolConnectError, match="nowhere"):
        pool.describe("nowhere")
    with pytest.raises(errors.PoolConnectError, match="there is no pool 'nowhere'"):
        pool.remove("nowhere")
    with PoolServer(unique_name("p"), "256KiB") as server:
        with pytest.raises(errors.PoolError, match=f"its server is living \\(pid {os.getpid()}\\)"):
            pool.remove(server.name)
        assert pool.list_pools() == ([{**server.stats(), "huge_page_bytes": None}], [])


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ([], "There are serve, stat, events, explain, ls, clear, rm"),
        (["state"], "No such command 'state'. Did you mean 'stat'? See 'ringcast pool --help'."),
        (["serve", "x"], "Missing option '--size'"),
        (["serve", "x", "--size", "much"], "'much' is not a size"),
        (["serve", "x", "--size", "1MiB", "--policy", "mru"], "'mru' is not one of"),
        (["serve", "x", "--size", "1MiB", "--quota", "12"], "write SALTDIGEST=SIZE"),
        (["serve", "x", "--size", "1MiB", "--quota", "12=1MiB"], "must be 64 hexadecimal digits"),
        (["serve", "x", "--size", "1MiB", "--quota", "12=1MiB", "--quota", "12=1MiB"], "given two quotas"),
        (["serve", "x", "--size", "1MiB", "--seats", "0"], "'--seats': '0' is not allowed"),
        (["serve", "x/y", "--size", "1MiB"], "a pool's name must be"),
        (["serve", "x", "--size", "1KiB"], "a pool's capacity"),
        (["stat", "x", "--watch", "0"], "give a finite number of seconds"),
    ],
)
def test_wrong_usage_is_2_and_one_line(arguments: list[str], answer: str) -> None:
    assert answer in complaint(*arguments, code=2)


@pytest.mark.parametrize("arguments", [[], ["serve"], ["stat"], ["ls"], ["clear"], ["rm"]])
def test_help_has_an_example_and_the_exit_codes(arguments: list[str]) -> None:
    text = run(*arguments, "--help")
    assert "Example" in text
    assert "Exit codes" in text


def test_a_name_that_is_nearly_a_pools_is_told_so() -> None:
    with PoolServer("kvcache", "256KiB"):
        assert "Did you mean 'kvcache'?" in complaint("stat", "kvcach")
        assert "Did you mean 'kvcache'?" in complaint("clear", "kvcach")


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("64KiB", 65536), ("1M", 1 << 20), (" 1.5 gib ", 3 << 29), ("2tb", 2 << 40), ("0.1k", 102),
     ("9223372036854775807", (1 << 63) - 1)],
)  # fmt: skip
def test_sizes_are_exact(text: str, size: int) -> None:
    assert _sizes.byte_size("a size", text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "1e9", "9223372036854775808", "0.0001", "1.5.2", "MiB", "9" * 5000])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(errors.ArgumentError, match="a size must be"):
        _sizes.byte_size("a size", text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1010, "0.986 KiB"), (1 << 20, "1 MiB"), (1000 << 10, "0.977 MiB"),
     (900 << 20, "900 MiB"), (5 << 40, "5 TiB"), (5000 << 40, "5000 TiB")],
)  # fmt: skip
def test_sizes_are_shown_in_three_digits(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_a_pool_is_served_with_a_tier_which_stat_shows(serve: Serve, tmp_path: Path) -> None:
    name = unique_name("c")
    server = serve(name, "--policy", "lru", "--tier", f"file:{tmp_path}/a:b:1MiB:4KiB")
    assert "serving" in said(server)
    with PoolClient.connect(name, layout=CHUNK) as client:
        keys = some_keys(3)
        store(client, keys)
        assert retrieved(client, keys) == 3
        eventually(lambda: json.loads(run("stat", name, "--json"))["tiers"][0]["stored"] == 3)
        [row] = [line for line in run("stat", name).splitlines() if line.startswith("FileTier")]
        assert row.split()[1:5] == ["3", "of", "85", "3,"]
    assert (tmp_path / "a:b").stat().st_size == 1 << 20


@pytest.mark.parametrize(
    "tier", ["file:/x:1MiB", "disk:/x:1MiB:4KiB", "file:/x:much:4KiB", "file:/\udcff:1MiB:4KiB", "x"]
)
def test_a_tier_that_makes_no_sense_is_a_usage_error(tier: str) -> None:
    assert "--tier" in complaint("serve", "p", "--size", "1MiB", "--tier", tier, code=2)


def test_a_url_that_no_store_has_is_a_usage_error_of_one_line() -> None:
    pytest.importorskip("obstore")
    assert "--tier" in complaint("serve", "p", "--size", "1MiB", "--tier", "nowhere://x", code=2)
