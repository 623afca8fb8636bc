"""Policies: each against a plain model in random operations; what the pool asks of them; the curve of hit rates."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import pytest

from ringcast import _core
from ringcast.errors import ArgumentError, ArgumentTypeError
from ringcast.pool import Keys, Namespace, keys_from_hashes

KINDS = ["lru", "arc", "s3fifo"]
SPACE = Namespace("m", dtype="uint8", layout="pages")
LARGEST_ERROR = 0.02


def digest(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "little")).digest()


@dataclass
class Entry:
    digest: bytes
    parent: int | None
    tenant: int
    queue: int
    used: int
    uses: int = 0


class Model:
    """What the policies share: leaves only, the coldest of a queue first."""

    n_queues = 1

    def __init__(self, entries: int) -> None:
        self.room = entries
        self.clock = 0
        self.here: dict[int, Entry] = {}
        self.victims_of_now: dict[int, Entry] = {}
        self.ghosts: list[list[bytes]] = [[], []]

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def size(self, queue: int) -> int:
        return sum(entry.queue == queue for entry in self.here.values())

    def admit(self, number: int, digest: bytes, parent: int | None, tenant: int) -> None:
        self.here[number] = Entry(digest, parent, tenant, self.queue_for(digest), self.tick())

    def touch(self, number: int) -> None:
        self.here[number].used = self.tick()

    def leaves(self) -> list[int]:
        parents = {entry.parent for entry in self.here.values()}
        return [number for number in self.here if number not in parents]

    def coldest(self, queue: int, passed: set[int], tenant: int | None) -> int | None:
        fit = [
            number for number in self.leaves()
            if self.here[number].queue == queue and number not in passed and tenant in (None, self.here[number].tenant)
        ]  # fmt: skip
        return min(fit, key=lambda number: self.here[number].used, default=None)

    def victims(self, count: int, held: Container[int], tenant: int | None) -> list[int]:
        found: list[int] = []
        passed: set[int] = set()
        while len(found) < count:
            number = self.next(passed, tenant)
            if number is None:
                break
            if number in held:
                passed.add(number)
                continue
            found.append(number)
            self.victims_of_now[number] = self.here.pop(number)
        return found

    def forget(self, number: int, evicted: bool) -> None:
        entry = self.victims_of_now.pop(number, None) or self.here.pop(number)
        if evicted:
            self.evicted(entry)

    def keep(self, number: int) -> None:
        self.here[number] = self.victims_of_now.pop(number)

    def add_ghost(self, digest: bytes, queue: int) -> None:
        for known in self.ghosts:
            if digest in known:
                known.remove(digest)
        if sum(map(len, self.ghosts)) == self.room:
            self.ghosts[len(self.ghosts[1]) > len(self.ghosts[0])].pop(0)
        self.ghosts[queue].append(digest)

    def queue_for(self, digest: bytes) -> int:
        return 0

    def next(self, passed: set[int], tenant: int | None) -> int | None:
        return self.coldest(0, passed, tenant)

    def evicted(self, entry: Entry) -> None:
        pass


class ArcModel(Model):
    target = 0.0
    full = 0.0

    def queue_for(self, digest: bytes) -> int:
        once, again = map(len, self.ghosts)
        if digest in self.ghosts[0]:
            self.ghosts[0].remove(digest)
            self.target = min(max(len(self.here), self.full), self.target + max(again / once, 1))
            return 1
        if digest in self.ghosts[1]:
            self.ghosts[1].remove(digest)
            self.target = max(0, self.target - max(once / again, 1))
            return 1
        return 0

    def touch(self, number: int) -> None:
        super().touch(number)
        self.here[number].queue = 1

    def next(self, passed: set[int], tenant: int | None) -> int | None:
        self.full = max(self.full, len(self.here))
        first = 0 if self.size(0) > self.target else 1
        found = self.coldest(first, passed, tenant)
        return found if found is not None else self.coldest(1 - first, passed, tenant)

    def evicted(self, entry: Entry) -> None:
        self.full = max(len(self.here), self.full - self.full / 4096)
        self.add_ghost(entry.digest, entry.queue)
        while self.ghosts[0] and self.size(0) + len(self.ghosts[0]) > self.full:
            self.ghosts[0].pop(0)
        while self.ghosts[1] and sum(map(len, self.ghosts)) > self.full:
            self.ghosts[1].pop(0)


class S3FifoModel(Model):
    def queue_for(self, digest: bytes) -> int:
        if digest not in self.ghosts[0]:
            return 0
        self.ghosts[0].remove(digest)
        return 1

    def touch(self, number: int) -> None:
        entry = self.here[number]
        if entry.queue == 0:
            entry.queue, entry.used = 1, self.tick()
        else:
            entry.uses = min(3, entry.uses + 1)

    def next(self, passed: set[int], tenant: int | None) -> int | None:
        while True:
            first = 0 if self.size(0) > len(self.here) // 4 else 1
            number = self.coldest(first, passed, tenant)
            if number is None:
                number = self.coldest(1 - first, passed, tenant)
            if number is None or self.here[number].uses == 0:
                return number
            self.here[number].uses -= 1
            self.here[number].used = self.tick()

    def evicted(self, entry: Entry) -> None:
        if entry.queue == 0:
            self.add_ghost(entry.digest, 0)
            while len(self.ghosts[0]) > len(self.here) + 1:
                self.ghosts[0].pop(0)


MODELS = {"lru": Model, "arc": ArcModel, "s3fifo": S3FifoModel}
ENTRIES, TENANTS = 40, 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_a_policy_does_what_its_model_does(kind: str, seed: int) -> None:
    dice = random.Random(seed)
    policy, model = _core.Policy(kind, ENTRIES, TENANTS), MODELS[kind](ENTRIES)
    went = 0
    for _ in range(3000):
        spare = [number for number in range(ENTRIES) if number not in model.here]
        action = dice.choice(["admit"] * 4 + ["touch"] * 4 + ["evict", "evict one", "remove"])
        if action == "admit" and spare:
            number, name = dice.choice(spare), digest(dice.randrange(2 * ENTRIES))
            parent = dice.choice([None, *model.here])
            tenant = dice.randrange(TENANTS)
            policy.admit(number, name, parent, tenant)
            model.admit(number, name, parent, tenant)
        elif action == "touch" and model.here:
            number = dice.choice(list(model.here))
            policy.touch(number)
            model.touch(number)
        elif action.startswith("evict"):
            count = 1 if action == "evict one" else dice.randrange(8)
            held = [number for number in model.here if dice.random() < 0.2]
            tenant_or_all = dice.choice([None, None, *range(TENANTS)])
            found = policy.victims(count, held, tenant_or_all)
            assert found == model.victims(count, held, tenant_or_all)
            went += settle(policy, model, found, dice)
        elif action == "remove" and model.here:
            number = dice.choice(model.leaves())
            policy.forget(number, False)
            model.forget(number, False)
    assert went > 300


def settle(policy: _core.Policy, model: Model, victims: list[int], dice: random.Random) -> int:
    """Some victims, and their parents among them, are held after all. How many went."""
    kept: set[int] = set()
    for number in victims:
        stays = number in kept or dice.random() < 0.2
        parent = model.victims_of_now[number].parent
        if stays:
            kept.add(number)
            if parent in victims:
                kept.add(parent)
    for number in victims:
        if number in kept:
            policy.keep(number)
            model.keep(number)
        else:
            policy.forget(number, True)
            model.forget(number, True)
    return len(victims) - len(kept)


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_goes_from_its_end_in_one_batch(kind: str) -> None:
    policy = _core.Policy(kind, 2000)
    for number in range(2000):
        policy.admit(number, digest(number), number - 1 if number else None)
    assert policy.victims(500) == list(range(1999, 1499, -1))
    for number in range(1999, 1499, -1):
        policy.forget(number, True)
    assert policy.victims(2000) == list(range(1499, -1, -1))


@pytest.mark.parametrize("kind", KINDS)
def test_no_parent_goes_before_a_child_that_is_held(kind: str) -> None:
    policy = _core.Policy(kind, 10)
    for number in range(5):
        policy.admit(number, digest(number), number - 1 if number else None)
    policy.admit(9, digest(9), 1)
    assert policy.victims(10, held=[4]) == [9]
    policy.keep(9)
    assert policy.victims(10, held=[9]) == [4, 3, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_who_was_held_goes_first_once_it_is_let_go(kind: str) -> None:
    policy = _core.Policy(kind, 10)
    for number in range(10):
        policy.admit(number, digest(number))
    assert policy.victims(3, held=[0, 2]) == [1, 3, 4]
    for number in (1, 3, 4):
        policy.forget(number, True)
    assert policy.victims(3) == [0, 2, 5]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tenants_victims_are_its_own(kind: str) -> None:
    policy = _core.Policy(kind, 30, tenants=3)
    for number in range(30):
        policy.admit(number, digest(number), tenant=number % 3)
    assert policy.victims(4, tenant=2) == [2, 5, 8, 11]
    assert policy.victims(3) == [0, 1, 3]
    assert policy.victims(30, held=range(0, 30, 2), tenant=1) == [7, 13, 19, 25]


def test_arc_remembers_what_it_should_have_kept() -> None:
    policy = _core.Policy("arc", 10)
    for number in range(4):
        policy.admit(number, digest(number))
    policy.forget(policy.victims(1)[0], True)
    policy.admit(0, digest(0))  # a ghost: used again, so 1, 2, 3 go before it
    policy.admit(5, digest(5))
    assert policy.victims(1) == [1]
    policy.forget(1, False)
    policy.admit(1, digest(1))  # removed, not evicted: new
    policy.touch(2)
    assert policy.victims(1) == [3]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: _core.Policy("fifo", 10),
        lambda: _core.Policy("lru", 0),
        lambda: _core.Policy("lru", 10).touch(3),
        lambda: _core.Policy("lru", 10).admit(10, digest(0)),
        lambda: _core.Policy("lru", 10).admit(1, digest(0), 1),
        lambda: _core.Policy("lru", 10).admit(1, b"short"),
        lambda: _core.Policy("lru", 10).admit(1, digest(0), tenant=1),
        lambda: _core.Policy("lru", 10).forget(1, True),
        lambda: _core.Policy("lru", 10).keep(1),
        lambda: _core.Policy("lru", 10).victims(1, tenant=1),
        lambda: _core.CacheSimulator("lru", 0),
        lambda: _core.CacheSimulator("LRU", 5),
        lambda: _core.HitRateCurve(0),
    ],
)
def test_impossible_calls_are_refused(wrong: Any) -> None:
    with pytest.raises(ArgumentError):
        wrong()


def chain(*hashes: int) -> Keys:
    return keys_from_hashes(hashes, SPACE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_simulated_cache_counts_leading_hits(kind: str) -> None:
    cache = _core.CacheSimulator(kind, 4)
    assert [cache.access(chain(*hashes)) for hashes in ((1, 2, 3), (1, 2, 3), (1, 2, 9), (1, 2))] == [0, 3, 2, 2]
    assert len(cache) == 4
    assert cache.access(chain(5, 6, 7, 8, 9, 10)) == 0
    assert len(cache) == 4
    assert cache.access(chain(5, 6, 7, 8, 9, 10)) == 4
    with pytest.raises(ArgumentTypeError):
        cache.access([b"x" * 32])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("leaf_first", [True, False])
def test_a_simulated_cache_survives_keys_that_are_no_chains(kind: str, leaf_first: bool) -> None:
    dice = random.Random(4)
    cache = _core.CacheSimulator(kind, 8, leaf_first)
    for _ in range(3000):
        hashes = [dice.randrange(20) for _ in range(dice.randrange(12))]
        assert cache.access(chain(*hashes)) <= len(hashes)
        assert len(cache) <= 16


def requests(seed: int, root: int) -> list[Keys]:
    """A system prompt that all share, users whose conversations grow, the popular ones more often."""
    dice = random.Random(seed)
    grown = [0] * 2000
    found = []
    for _ in range(10000):
        user = min(int(dice.expovariate(1 / 300)), 1999)
        grown[user] = min(grown[user] + dice.randrange(3), 40)
        found.append(chain(root, *(10000 + 100 * user + turn for turn in range(grown[user]))))
    return found


def is_sampled(hash_of_block: int) -> bool:
    return chain(hash_of_block)[0][24] % 2 == 0  # half of them, in a pool as small as below


@pytest.mark.parametrize("root_is_sampled", [True, False])
def test_the_curve_tells_what_simulation_finds_whether_or_not_the_hottest_chunk_is_in_its_sample(
    root_is_sampled: bool,
) -> None:
    root = next(number for number in range(1000) if is_sampled(number) == root_is_sampled)
    capacity, total = 4096, 0
    curve = _core.HitRateCurve(capacity)
    caches = {
        (kind, factor): _core.CacheSimulator(kind, int(capacity * factor))
        for kind in KINDS
        for factor in (0.5, 1.0, 2.0)
    }
    hits = dict.fromkeys(caches, 0)
    for keys in requests(1, root):
        curve.access(keys)
        total += len(keys)
        for which, cache in caches.items():
            hits[which] += cache.access(keys)
    assert curve.accesses == total
    rates = curve.hit_rates()
    assert list(rates) == KINDS
    assert list(rates["arc"]) == [0.5, 1.0, 2.0, 4.0]
    errors = {which: rates[which[0]][which[1]] - count / total for which, count in hits.items()}
    assert max(map(abs, errors.values())) < LARGEST_ERROR, errors


def test_the_curve_forgets_by_halves() -> None:
    curve = _core.HitRateCurve(100, window=10)
    for _ in range(9):
        curve.access(chain(1))
    assert curve.accesses == 9
    curve.access(chain(1))
    assert curve.accesses == 5
    assert _core.HitRateCurve(100).hit_rates()["lru"][1.0] == 0
