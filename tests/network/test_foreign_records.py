"""Whatever somebody puts in the place of what a rank says: the others get an error of a group's, which shows it."""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from ringcast import StatelessProcessGroup
from ringcast.errors import GroupError, GroupMismatchError, GroupSecurityError, GroupTimeoutError, RingcastError
from ringcast.net._client import Client
from ringcast.net._deadline import Deadline
from ringcast.net._group import Collective, Group
from ringcast.net._meeting import meet
from ringcast.net._members import Member
from ringcast.net._numbers import Numbers
from ringcast.net._queues import _handle_of, _plain
from ringcast.net._same_node import STEPS, sharing
from ringcast.net._sealing import Sealer
from ringcast.queue import MessageQueue

SECRET = "0123456789" * 3
ARGUMENTS = {"world_size": 2}
TIMEOUT_S = 20.0
OTHERS = [
    b"", b"{}", b"[]", b"null", b"0", b'"text"', b"[" * 100_000, b"9" * 5000, b"\xff\xfe", b'{"a":' * 5000, b"s",
    b"[[]]", b"+", b"-", b"+\xff\xff\xff\xff", b"+\0\0\0\0j", b"-\2\0\0\0{}[1,2,3]", b'-\2\0\0\0{}["a","b",["c"]]',
    b"+\2\0\0\0[]", b'["GroupError","text",[-1]]', b'["GroupError",5,[]]', b"[true,false,1]", b"[null]", b"NaN",
    b'{"number":1e400}',
]  # fmt: skip


@pytest.fixture(params=["no secret", "secret"])
def sealed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.delenv("RINGCAST_SECRET", raising=False)
    if request.param == "secret":
        monkeypatch.setenv("RINGCAST_SECRET", SECRET)
    return bool(request.param == "secret")


def changed(data: bytes, chance: random.Random) -> bytes:
    """Something else in its place, or what it was with some bytes changed."""
    if chance.random() < 0.3:
        return chance.choice(OTHERS)
    text = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(text) + 1)
        way = chance.choice(["byte", "insert", "cut", "swap"])
        if way == "byte" and at < len(text):
            text[at] = chance.choice([chance.randrange(256), *b'"[]{}:,0-etn '])
        elif way == "insert":
            text[at:at] = chance.choice([b'"', b"[", b"}", b"9" * 30, b"null", b"\\ud800", chance.randbytes(3)])
        elif way == "cut":
            del text[at : at + chance.choice([1, 2, 1000])]
        else:
            text = text.replace(*chance.choice([(b"1", b"true"), (b'"', b""), (b"0", b"-1"), (b"}", b',"x":1}')]))
    return bytes(text)


def connected(store: HashStore) -> Client:
    return Client(lambda: store, "a store", Deadline(TIMEOUT_S))


def stored(sealer: Sealer, key: str, plain: bytes) -> bytes:
    return sealer.seal(plain, key)


@pytest.fixture
def two(sealed: bool) -> Iterator[Group]:
    """Rank 0 of a group of two; what rank 1 says is up to the test."""
    store = HashStore()
    clients = [connected(store) for _ in range(2)]
    with closing(clients[0]), closing(clients[1]), ThreadPoolExecutor(2) as pool:
        met = pool.map(
            lambda rank: meet(clients[rank], rank, ARGUMENTS, 2, Deadline(TIMEOUT_S), trusted=False), range(2)
        )
        yield next(iter(list(met)))


def refusal(look: Callable[[bytes], Any], data: bytes) -> GroupError | None:
    """The error of a group's that this leads to, at once, if it does; any other one fails the test."""
    try:
        look(data)
    except GroupTimeoutError:
        raise
    except GroupError as error:
        return error
    return None


def each_change(plain: bytes, sealer: Sealer, key: str, sealed: bool, look: Callable[[bytes], Any]) -> None:
    """`look` must find what was said, or raise a GroupError; under a secret it must always raise."""
    look(stored(sealer, key, plain))
    refused = 0
    for seed in range(250):
        chance = random.Random(seed)
        good = stored(sealer, key, plain)
        bad = changed(good, chance)
        if bad == good:
            continue
        error = refusal(look, bad)
        assert error is not None or not sealed, f"{bad!r} was believed"
        refused += error is not None
    assert refused > 100


def part(value: bytes, arguments: bytes = b"{}") -> bytes:
    return b"+" + len(arguments).to_bytes(4, "little") + arguments + value


def said_by_rank_1(here: Collective, step: str, bad: bytes) -> None:
    here.group.client.put(here.key(step, 1), bad, Deadline(TIMEOUT_S))


def test_where_a_rank_is(two: Group, sealed: bool) -> None:
    key = two.key("at", 1)
    plain = json.dumps({"number": 3, "kind": "barrier", "arguments": {"src": 1}, "besides": ""}).encode()

    def look(data: bytes) -> None:
        two.client.put(key, data, Deadline(TIMEOUT_S))
        two.where(1, Deadline(TIMEOUT_S))

    each_change(plain, two.sealer, key, sealed, look)


WHERE = {"number": 3, "kind": "barrier", "arguments": {}, "besides": ""}


@pytest.mark.parametrize("odd", [
    {"number": True}, {"number": -1}, {"number": "3"}, {"number": 1 << 70}, {"kind": 5}, {"kind": "bar\x1b[2Jrier"},
    {"kind": "x" * 1000}, {"arguments": []}, {"besides": None}, {"besides": "\ud800"}, {"more": 1},
])  # fmt: skip
def test_where_no_rank_can_be(two: Group, odd: dict[str, Any]) -> None:
    key = two.key("at", 1)
    two.client.put(key, two.sealer.seal(json.dumps({**WHERE, **odd}).encode(), key), Deadline(TIMEOUT_S))
    with pytest.raises(GroupError, match=r"what rank 1 .* says of where it is is not what a rank"):
        two.where(1, Deadline(TIMEOUT_S))


def test_that_a_rank_leaves(two: Group, sealed: bool) -> None:
    key = two.key("bye", 1)
    for bad in (*OTHERS[1:], two.sealer.seal(b"", two.key("bye", 0)) + b"x"):
        two.client.put(key, bad, Deadline(TIMEOUT_S))
        with pytest.raises(GroupError, match=r"says when it leaves|not sealed|is sealed"):
            two._check_alive(1, {"number": 0, "besides": ""}, Deadline(TIMEOUT_S))


@pytest.mark.parametrize("value", [b'j{"a": [1, null]}', b"-[1]", b""])
def test_a_ranks_part_of_a_collective(two: Group, sealed: bool, value: bytes) -> None:
    here = two.enter("all_gather", {}, TIMEOUT_S, "object")
    here.say_object("object", 5)
    plain = part(value) if value[:1] != b"-" else b"-\2\0\0\0{}" + b'["GroupPeerError", "it is gone", [1]]'

    def look(data: bytes) -> None:
        said_by_rank_1(here, "object", data)
        if value[:1] == b"j":
            here.objects("object", [0, 1])
        else:
            try:
                here.hear("object", [0, 1])
            except GroupError:
                if data != stored(two.sealer, here.key("object", 1), plain) or value[:1] != b"-":
                    raise

    if value[:1] == b"-" and sealed:
        with pytest.raises(GroupError, match="it is gone"):
            look(stored(two.sealer, here.key("object", 1), plain))
        return
    each_change(plain, two.sealer, here.key("object", 1), sealed, look)


def test_a_message(two: Group, sealed: bool) -> None:
    group = StatelessProcessGroup(two, TIMEOUT_S, None)

    def look(data: bytes) -> None:
        two.client.put(next_key(), data, Deadline(TIMEOUT_S))
        group.recv_obj(1)

    def next_key() -> str:
        numbers = two._received.setdefault(1, Numbers())
        return two.message_key(1, 0, numbers._past + 1)

    refusals = []
    for seed in range(150):
        refusals.append(refusal(look, changed(two.sealer.encode([1, {"a": None}], next_key()), random.Random(seed))))
    check_that_all_are_about_rank_1(refusals, 75)


def check_that_all_are_about_rank_1(refusals: Sequence[GroupError | None], at_least: int) -> None:
    about = [error.ranks for error in refusals if error is not None]
    assert len(about) >= at_least
    assert set(about) == {(1,)}


@pytest.mark.parametrize("step", ["offer", "verdict"])
def test_who_shares_memory(two: Group, sealed: bool, step: str) -> None:
    good = {"offer": ["ringcast_none", 5, [0], [1, 64, 1, "ringcast_none"]], "verdict": [True, True]}

    def look(text: bytes) -> None:
        here = two.enter("in_the_same_node_as", {}, TIMEOUT_S, *STEPS)
        for name, value in good.items():
            body = text if name == step else json.dumps(value).encode()
            said_by_rank_1(here, name, stored(two.sealer, here.key(name, 1), part(b"j" + body)))
        found = sharing(here, 1)
        assert len(found) == 2
        assert all(type(one) is bool for one in found)

    plain = json.dumps(good[step]).encode()
    look(plain)
    for odd in (b"[1, 0]", b"[true]", b"[true, true, true]", b'"tt"'):
        assert step == "offer" or refusal(look, odd) is not None
    check_that_all_are_about_rank_1([refusal(look, changed(plain, random.Random(seed))) for seed in range(200)], 50)


def test_a_handle(two: Group, sealed: bool) -> None:
    here = two.enter("create_from_process_group", {}, TIMEOUT_S, "handle")
    with closing(MessageQueue(1)) as queue:
        plain = _plain(queue.export_handle())

    def look(text: bytes) -> None:
        said_by_rank_1(here, "handle", stored(two.sealer, here.key("handle", 1), part(b"j" + text)))
        handle = _handle_of(here, 1, here.objects("handle", [1])[0])
        with suppress(RingcastError):
            MessageQueue.create_from_handle(handle, 0, timeout=0).close()

    text = json.dumps(plain).encode()
    check_that_all_are_about_rank_1([refusal(look, changed(text, random.Random(seed))) for seed in range(300)], 100)


def hello(arguments: dict[str, Any] = ARGUMENTS) -> Member:
    return Member.here(1, arguments)


def test_what_a_rank_says_of_itself(sealed: bool) -> None:
    sealer = Sealer("", False)

    def look(data: bytes) -> None:
        store = HashStore()
        store.set("told/1/1", "w")  # it waits for no answer
        with closing(connected(store)) as client:
            client.put("hello/1/1", data, Deadline(TIMEOUT_S))
            meet(client, 0, ARGUMENTS, 2, Deadline(TIMEOUT_S), trusted=False)

    each_change(hello().to_json(), sealer, "hello/1/1", sealed, look)
    for odd in ({"arrival": 2}, {"pid": -1}, {"pid": True}, {"host": 5}, {"host": "a\nb"}, {"arguments": None}):
        text = json.dumps({**hello()._asdict(), **odd}).encode()
        with pytest.raises(GroupError, match="what rank 1 says of itself is not what a rank") as error:
            look(stored(sealer, "hello/1/1", text))
        assert error.value.ranks == (1,)


@pytest.mark.parametrize("key", ["failed/1/1", "generation", "hello/0/1"])
def test_what_rank_0_says(sealed: bool, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringcast.net._meeting.TOLD_WITHIN_S", 0.0)
    sealer = Sealer("", False)
    mine: Member = hello()
    monkeypatch.setattr(Member, "here", lambda arrival, arguments: mine)
    plain = {
        "failed/1/1": json.dumps(["GroupMismatchError", "somebody differs", [1]]).encode(),
        "generation": json.dumps([hello()._asdict(), mine._asdict()]).encode(),
        "hello/0/1": hello()._replace(version="another").to_json(),
    }[key]

    def look(data: bytes) -> None:
        with closing(connected(HashStore())) as client:
            client.put(key, data, Deadline(TIMEOUT_S))
            meet(client, 1, ARGUMENTS, 2, Deadline(TIMEOUT_S if key != "hello/0/1" else 0.0), trusted=False)

    if key == "generation":
        each_change(plain, sealer, key, sealed, look)
        return
    for seed in range(150):
        good = sealer.seal(plain, key)
        bad = changed(good, random.Random(seed))
        with pytest.raises(GroupError):
            look(bad)
    with pytest.raises(GroupMismatchError, match="somebody differs" if key == "failed/1/1" else "another"):
        look(sealer.seal(plain, key))


@pytest.mark.parametrize("text", [b"", b"q", b"p", b"p0", b"p-1", b"p99999999999", b"p3", b"p\xff"])
def test_a_value_in_parts(two: Group, text: bytes) -> None:
    two.client._call(lambda store: store.set("value", text), Deadline(TIMEOUT_S))  # type: ignore[arg-type]
    with pytest.raises(GroupError, match=r"holds under 'value'"):
        two.client.take(["value"], Deadline(TIMEOUT_S))


def test_a_member_of_another_release_with_other_fields_is_told_by_its_release() -> None:
    fields = {**hello()._asdict(), "version": "9.9.9", "colour": "red"}
    with pytest.raises(GroupMismatchError, match=r"was written by ringcast 9\.9\.9, and here is"):
        Member.of(fields, "what rank 1 says of itself")


def test_under_a_secret_nothing_that_ranks_say_can_be_read_in_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGCAST_SECRET", SECRET)
    with StatelessProcessGroup.create("127.0.0.1", 0, 0, 1) as group:
        group.send_obj({"to": "myself"}, 0)
        here = group._group.enter("barrier", {"source": 0}, TIMEOUT_S, "here")
        here.say("here", b"here")
        store: Any = group._leaving.store
        keys = [key.decode() if isinstance(key, bytes) else key for key in store.list_keys()]
        values = {key: bytes(store.get(key)) for key in keys if "arrivals" not in key and not key.startswith("init")}
        kinds = {"hello", "generation", "at", "message", "collective"}
        assert all(any(kind in key for key in values) for kind in kinds)
        for key, value in values.items():
            assert value.startswith(b"ws"), f"{key} is {value!r}"
            for word in (socket.gethostname(), str(os.getpid()), "barrier", "myself", "source"):
                if len(word) > 4:  # a few bytes of a cipher may say anything
                    assert word.encode() not in value


def test_what_a_rank_with_another_secret_says_is_told_apart_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGCAST_SECRET", SECRET)
    here = Sealer("g", False)
    with pytest.raises(GroupSecurityError, match="is not sealed, though RINGCAST_SECRET is set here"):
        here.unseal(b"{}", "k", "rank 1")
    monkeypatch.setenv("RINGCAST_SECRET", SECRET[::-1])
    with pytest.raises(GroupSecurityError, match="not sealed under this rank's RINGCAST_SECRET"):
        here.unseal(Sealer("g", False).seal(b"{}", "k"), "k", "rank 1")
    monkeypatch.delenv("RINGCAST_SECRET")
    with pytest.raises(GroupSecurityError, match="is sealed, and RINGCAST_SECRET is not set here"):
        Sealer("g", False).unseal(here.seal(b"{}", "k"), "k", "rank 1")
