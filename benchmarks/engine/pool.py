"""The trials of the KV connector: engines that share a pool, and what becomes of them when something is killed.

All engines have one model, whose every token depends on all before it, so that a block which holds anything else than
it must is seen in tokens and in how probable they are held to be.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.engine import model
from benchmarks.engine.driver import SHM, Engine, EngineFailedError
from ringcast.pool import Keys, Namespace, PoolClient, describe, watch

_POOL = "ringcast-engine-trials"
_SIZE = "1GiB"
_TOKENS = 16
_LONG = 2000
_CLOSE = 1e-4
_SERVE = (
    "import sys; from ringcast.pool import PoolServer\n"
    "server = PoolServer(*sys.argv[1:]).start(); print(flush=True); server.serve_forever()"
)
_SETTLE_S = 30.0


class Made(NamedTuple):
    """What an engine made of prompts."""

    tokens: list[list[int]]
    logprobs: list[list[float]]
    cached: list[int]
    seconds: list[float]
    reasons: list[str]

    def same(self, other: Made) -> bool:
        """The same tokens, held to be as probable?"""
        chains = [chain.from_iterable(made.logprobs) for made in (self, other)]
        apart = max(abs(mine - theirs) for mine, theirs in zip(*chains, strict=True))
        return self.tokens == other.tokens and apart < _CLOSE


class Pool:
    """A pool's server, in a process of its own, which may be killed and followed by another."""

    def __init__(self) -> None:
        self.serve()

    def serve(self) -> None:
        """A server, which takes over what there is."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, _POOL, _SIZE], stdout=subprocess.PIPE, env=environment
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def chunks(self) -> int:
        """How many it has."""
        return describe(_POOL)["chunks"]

    def wait_for_store(self) -> bool:
        """Until chunks are being stored; False if none are for long."""
        until = time.monotonic() + _SETTLE_S
        while not describe(_POOL)["reserved"]:
            if time.monotonic() > until:
                return False
            time.sleep(0.001)  # nothing tells; a store lasts longer
        return True

    def settled(self) -> bool:
        """Is nothing reserved and nobody dead in it, within some time?"""
        until = time.monotonic() + _SETTLE_S
        while time.monotonic() < until:
            found = describe(_POOL)
            if not found["reserved"] and not found["limbo"]:
                return True
            time.sleep(0.1)  # nothing tells when the server has looked after the dead
        return False

    def close(self) -> None:
        """End it in order."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.terminate()
            self.process.wait()

    def flip_bits(self) -> int:
        """A bit in the middle of each chunk; how many that were."""
        keys = [event.key for event in next(watch(_POOL)) if event.key is not None]
        space = Namespace("any", dtype="any", layout="any", shards=2, chained=False)
        segment = SHM / describe(_POOL)["segment"]
        flipped = 0
        with PoolClient.connect(_POOL, "flips", layout=_chunk_bytes(keys[0]), verify=False) as client:
            for key in keys:
                with client.retrieve(Keys(space, key)) as found, client.join(found.export(), part=1) as mine:
                    for slot in mine.slots:
                        at = _in_file(slot.array.ctypes.data, segment) + slot.array.nbytes // 3
                        with segment.open("r+b") as memory:
                            memory.seek(at)
                            byte = memory.read(1)[0]
                            memory.seek(at)
                            memory.write(bytes([byte ^ 16]))
                        flipped += 1
        return flipped


def _chunk_bytes(key: bytes) -> int:
    return next(event.length for event in next(watch(_POOL)) if event.key == key)


def _in_file(address: int, file: Path) -> int:
    """Where in a file that this process maps an address is."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, *_, name = line.split(maxsplit=5)
        first, last = (int(end, 16) for end in span.split("-"))
        if first <= address < last and name.strip() == str(file):
            return address - first + int(offset, 16)
    raise LookupError(f"{address:#x} is not in {file}")


def options(**more: Any) -> dict[str, Any]:
    """An engine's, that uses the pool."""
    connector = {
        "kv_connector": "RingcastConnector", "kv_connector_module_path": "ringcast.vllm.connector",
        "kv_role": "kv_both", "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"pool": _POOL, "timeout": 1.0, "regain": 1.0, "retry": 2.0},
    }  # fmt: skip
    common = {"max_model_len": 2304, "enable_prefix_caching": True, "load_format": "auto"}
    return common | {"kv_transfer_config": connector} | more


class PoolTrials:
    """Runs them; `row` is told each line: what, what came out, what was to hold, whether it does."""

    def __init__(self, work: Path, row: Any, say: Any) -> None:
        self.work = work
        self.row = row
        self.say = say
        self.model = model.make_larger(work / "larger")
        self.prompt = model.prompts(1, _LONG)

    @contextmanager
    def engines(self, *of: dict[str, Any]) -> Iterator[list[Engine]]:
        """One with each of these options."""
        found: list[Engine] = []

        try:
            for one in of:
                self.say("starting an engine with a pool")
                found.append(Engine("pool", self.work, self.model, options=one))
            yield found
        finally:
            for engine in found:
                engine.discard()

    def run(self, *, short: bool) -> None:
        """All of them."""
        pool = Pool()
        try:
            with self.engines(options(), options()) as (first, second):
                self.prefix(first, second)
                self.server_killed(pool, first, second)
                if not short:
                    self.both_at_once(first, second)
                    self.salt(second)
                    self.server_stopped(pool, second)
                    self.bit_flipped(pool, second)
                    self.worker_killed(pool, first, second)
                    self.core_killed(pool, second)
            if not short:
                heard = Heard(self.work / "events")
                counting = {"disable_log_stats": False, "kv_events_config": heard.config}
                few = {"block_size": 64, "num_gpu_blocks_override": 72}
                with self.engines(options(**counting), options(**few)) as (third, other):
                    self.afterwards(pool, third)
                    self.told(third, heard)
                    self.block_size(third, other)
                    left = [engine.stop() for engine in (third, other)]
                    mine = [name for one in left for name in one.shared_memory if "ringcast" in name]
                    nothing = not mine and not any(one.processes for one in left)
                    self.row("left after their end", f"{len(mine)} in /dev/shm", "nothing of ours", nothing)
        finally:
            pool.close()

    def prefix(self, first: Engine, second: Engine) -> None:
        """A second engine, started afresh, takes what the first one has computed."""
        for engine in (first, second):
            ask(engine, model.prompts(1, _LONG, first=900), 1)  # which makes both warm, and is another prompt
        once = [tokens[:] for tokens in self.prompt]
        once[0][0] += 1
        cold_s = ask(first, once, 1).seconds[0]
        cold = ask(first, self.prompt)
        self.made = cold
        wait_for_chunks(pool_chunks, 45)
        warm_s = ask(second, once, 1)
        warm = ask(second, self.prompt)
        self.row(
            f"prompt of {_LONG} tokens: a fresh engine's `num_cached_tokens`", f"{warm.cached[0]}", "> 0, tokens and "
            f"logprobs as computed (within {_CLOSE:g})", cold.cached == [0] and warm.cached[0] > 0 and warm.same(cold),
        )  # fmt: skip
        self.row("the same with its first token changed", "other tokens",
                 "so the tokens depend on all before", ask(first, once).tokens != cold.tokens)  # fmt: skip
        self.row(
            "its first token, computed; from the pool; s", f"{cold_s:.2f}; {warm_s.seconds[0]:.2f}", "less",
            warm_s.cached[0] > 0 and warm_s.seconds[0] < cold_s,
        )  # fmt: skip

    def server_killed(self, pool: Pool, first: Engine, second: Engine) -> None:
        """kill -9 of the server while one engine stores and the other one loads; then another server."""
        chance = random.Random(0)
        right, count = True, 0
        for i in range(3):
            fresh = model.prompts(4, 1000, first=1000 + 10 * i)
            forget(second)
            with ThreadPoolExecutor(2) as both:
                stores = both.submit(ask, first, fresh)
                loads = both.submit(ask, second, self.prompt)
                if i:
                    pool.wait_for_store()
                else:
                    time.sleep(chance.uniform(0.0, 2.0))  # at no moment of ours
                pool.kill()
                stored, loaded = stores.result(), loads.result()
            count += 5
            forget(second)
            pool.serve()
            again = ask(second, fresh)
            right &= loaded.same(self.made) and again.same(stored)
        time.sleep(2.5)  # longer than `retry`: until then the engines ask for nothing
        ask(first, model.prompts(1, 1000, first=2000))
        wait_for_chunks(pool_chunks, pool.chunks())
        taken = ask(second, model.prompts(1, 1000, first=2000)).cached[0]
        self.row("kill -9 of the server, three times, while one engine stores and one loads", f"{count} answers",
                 "as computed", right)  # fmt: skip
        self.row("tokens taken from the server after the last one", f"{taken}", "> 0", taken > 0)

    def both_at_once(self, first: Engine, second: Engine) -> None:
        """Two engines with the same new prompts, at the same time."""
        fresh = model.prompts(6, 1200, first=3000)
        with ThreadPoolExecutor(2) as both:
            made = [both.submit(ask, engine, fresh, _TOKENS) for engine in (first, second)]
            one, two = (each.result() for each in made)
        forget(second)
        third = ask(second, fresh)
        self.row("two engines at once, the same 6 prompts; again from the pool", f"{sum(third.cached)} tokens of it",
                 "the same tokens, logprobs", one.same(two) and third.same(one) and sum(third.cached) > 0)  # fmt: skip

    def salt(self, engine: Engine) -> None:
        """Another tenant finds nothing, and gets the same answer."""
        made = ask(engine, self.prompt, salt="tenant")
        forget(engine)
        again = ask(engine, self.prompt, salt="tenant")
        self.row(
            "another cache_salt; the same one again", f"{made.cached[0]}; {again.cached[0]} tokens", "0; > 0, the same",
            made.cached == [0] and again.cached[0] > 0 and made.same(self.made) and again.same(self.made),
        )  # fmt: skip

    def server_stopped(self, pool: Pool, engine: Engine) -> None:
        """SIGSTOP: hits go on, stores are given up."""
        forget(engine)
        os.kill(pool.process.pid, signal.SIGSTOP)
        made, fresh = ask(engine, self.prompt), ask(engine, model.prompts(1, 1000, first=4000))
        os.kill(pool.process.pid, signal.SIGCONT)
        took = f"{made.cached[0]} tokens of it in {made.seconds[0]:.2f} s; {fresh.seconds[0]:.2f} s"
        right = made.same(self.made) and made.cached[0] > 0
        self.row("a stopped server: a known prompt; a new one", took, "the same tokens", right)

    def bit_flipped(self, pool: Pool, engine: Engine) -> None:
        """A bit of each chunk of the pool: nothing of it is used."""
        forget(engine)
        flipped = pool.flip_bits()
        made = ask(engine, self.prompt)
        found = describe(_POOL)["quarantined"]
        right = made.same(self.made) and made.reasons == ["length"] and found > 0
        self.row(f"a bit flipped in each of {flipped} chunks", f"{found} found out", "the same tokens, computed", right)

    def worker_killed(self, pool: Pool, victim: Engine, other: Engine) -> None:
        """kill -9 of a worker while it stores: that engine ends, as every vLLM does; the others and the pool go on."""
        fresh = model.prompts(4, 1000, first=5000)
        victim.say("answer", fresh, _TOKENS)
        amid = pool.wait_for_store()
        victim.kill("w1")
        victim.discard()
        settled = pool.settled()
        one = ask(other, fresh)
        forget(other)
        two = ask(other, fresh)
        self.row("kill -9 of a worker that stores: another engine, twice", f"{sum(two.cached)} tokens from the pool",
                 "the same tokens, nothing reserved", amid and settled and one.same(two))  # fmt: skip

    def core_killed(self, pool: Pool, victim: Engine) -> None:
        """kill -9 of an engine core in a store."""
        victim.say("answer", model.prompts(4, 1000, first=6000), _TOKENS)
        amid = pool.wait_for_store()
        victim.kill("core")
        victim.discard()
        right = amid and pool.settled()
        self.row("kill -9 of an engine core that stores", f"{pool.chunks()} chunks", "nothing reserved", right)

    def afterwards(self, pool: Pool, engine: Engine) -> None:
        """An engine that comes after all that."""
        ask(engine, self.prompt)
        wait_for_chunks(pool_chunks, 1)
        forget(engine)
        made = ask(engine, self.prompt)
        killed = ask(engine, model.prompts(4, 1000, first=6000))
        forget(engine)
        again = ask(engine, model.prompts(4, 1000, first=6000))
        self.row("a fresh engine afterwards", f"{made.cached[0]}, {sum(again.cached)} tokens from the pool",
                 "the same tokens", made.same(self.made) and again.same(killed) and made.cached[0] > 0)  # fmt: skip

    def told(self, engine: Engine, heard: Heard) -> None:
        """vLLM's metrics, and the events that its routers hear."""
        counts = engine.tell("counts")
        told = {name: counts.get(name) for name in ("blocks_looked_up", "blocks_loaded", "blocks_stored")}
        self.row("vLLM's metrics of it", f"{told}", "all counted", all(told.values()))
        stored = heard.stored()
        self.row("KV events of blocks of medium CPU", f"{stored}", "as many as stored", stored == told["blocks_stored"])

    def block_size(self, engine: Engine, other: Engine) -> None:
        """Another block size finds nothing; with few blocks requests are preempted, and their stores with them."""
        made = ask(other, self.prompt)
        self.row("another block size", f"{made.cached[0]} tokens cached", "0, the same tokens",
                 made.cached == [0] and made.tokens == self.made.tokens)  # fmt: skip
        fresh = model.prompts(6, 1000, first=7000)
        plenty, few = ask(engine, fresh, 200), ask(other, fresh, 200)
        same = plenty.tokens == few.tokens
        self.row("6 requests of 1,200 tokens in 72 blocks of 64", "preempted", "tokens as with many blocks", same)


class Heard:
    """What an engine's KV events say, as a router hears it."""

    def __init__(self, socket: Path) -> None:
        zmq: Any = import_module("zmq")
        self._events = zmq.Context.instance().socket(zmq.SUB)
        self._events.subscribe(b"")
        self._events.connect(f"ipc://{socket}")
        self.config = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": f"ipc://{socket}"}

    def stored(self) -> int:
        """How many blocks were stored in the pool, until nothing has been said for a second."""
        decode: Any = import_module("msgspec").msgpack.decode
        count = 0
        while self._events.poll(1000):
            _, _, payload = self._events.recv_multipart()
            for event in decode(payload)[1]:
                if event["type"] == "BlockStored" and event["medium"] == "CPU":
                    count += len(event["block_hashes"])
        return count


def ask(engine: Engine, prompts: list[list[int]], tokens: int = _TOKENS, salt: str | None = None) -> Made:
    """What it makes of prompts."""
    answer = engine.tell("answer", prompts, tokens, salt)
    return Made(answer["tokens"], answer["logprobs"], answer["cached"], answer["seconds"], answer["reasons"])


def forget(engine: Engine) -> None:
    """The engine's own prefixes, so that the next ones come from the pool."""
    if not engine.tell("forget")["forgotten"]:
        raise EngineFailedError(f"{engine.kind}: it does not forget its prefixes")


def pool_chunks() -> int:
    """How many chunks the pool has."""
    return describe(_POOL)["chunks"]


def wait_for_chunks(count: Any, least: int) -> None:
    """Until the pool has so many: stores end a moment after the answer."""
    until = time.monotonic() + _SETTLE_S
    while count() < least and time.monotonic() < until:
        time.sleep(0.05)  # nothing tells when another process's store has ended
