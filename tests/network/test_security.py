"""What comes through a store is believed as far as it is proven: no pickle of a stranger's is read."""

from __future__ import annotations

import ctypes
import os
import pickle
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ringcast import StatelessProcessGroup
from ringcast.errors import ArgumentError, DecodeError, EncodeError, GroupSecurityError, PickleRefusedError
from ringcast.net._sealing import Sealer
from tests.network.ranks import Meet, Starter
from tests.support import Link

SECRET = "0123456789" * 3
OBJECTS = [None, True, 1, 1.5, "text \ud800", [1, {"a": [None]}], (1, 2), {1: 2}, b"bytes", {"a": (1,)}]


class Runs:
    """A pickle that shows when it is read."""

    def __reduce__(self) -> Any:
        return os.putenv, ("RINGCAST_WAS_READ", "1")


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGCAST_SECRET", SECRET)


@pytest.mark.parametrize("obj", OBJECTS)
def test_objects_come_out_as_what_they_were(obj: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted = Sealer("g", True)
    assert trusted.decode(trusted.encode(obj, "k"), "k", "rank 1") == obj
    monkeypatch.setenv("RINGCAST_SECRET", SECRET)
    sealed = Sealer("g", False)
    data = sealed.encode(obj, "k")
    assert sealed.decode(data, "k", "rank 1") == obj
    assert type(sealed.decode(data, "k", "rank 1")) is type(obj)


def test_without_a_secret_json_goes_and_pickles_are_neither_sent_nor_read() -> None:
    stranger, here = Sealer("g", True), Sealer("g", False)
    assert here.decode(here.encode({"a": [1]}, "k"), "k", "rank 1") == {"a": [1]}
    with pytest.raises(GroupSecurityError, match="pickles are not sent"):
        here.encode((1, 2), "k")
    with pytest.raises(GroupSecurityError, match="was not read"):
        here.decode(stranger.encode(Runs(), "k"), "k", "rank 1")


@pytest.mark.usefixtures("secret")
def test_with_a_secret_only_what_is_sealed_for_this_place_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Sealer("g", True)
    data = here.encode([1], "k")
    for changed in (data[:-1] + bytes([data[-1] ^ 1]), data[:20], b"s"):
        with pytest.raises(GroupSecurityError, match="not sealed under"):
            here.decode(changed, "k", "rank 1")
    for other in (Sealer("another group", True), here):
        key = "k" if other is not here else "another key"
        with pytest.raises(GroupSecurityError, match="not sealed under"):
            other.decode(data, key, "rank 1")
    monkeypatch.delenv("RINGCAST_SECRET")
    with pytest.raises(GroupSecurityError, match="is not set here"):
        Sealer("g", True).decode(data, "k", "rank 1")
    unsealed = Sealer("g", True).encode([1], "k")
    monkeypatch.setenv("RINGCAST_SECRET", SECRET)
    with pytest.raises(GroupSecurityError, match="is not sealed"):
        here.decode(unsealed, "k", "rank 1")
    monkeypatch.setenv("RINGCAST_SECRET", SECRET[::-1])
    with pytest.raises(GroupSecurityError, match="not sealed under"):
        Sealer("g", True).decode(data, "k", "rank 1")


def test_a_short_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGCAST_SECRET", "short")
    with pytest.raises(ArgumentError, match=r"5 characters.*`ringcast secret`"):
        Sealer("g", True)


def test_pickles_are_refused_where_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    trusted = Sealer("g", True)
    data = trusted.encode((1, 2), "k")
    monkeypatch.setenv("RINGCAST_ALLOW_PICKLE", "0")
    with pytest.raises(PickleRefusedError):
        trusted.decode(data, "k", "rank 1")


def test_what_cannot_be_pickled_or_rebuilt_is_said() -> None:
    trusted = Sealer("g", True)
    with pytest.raises(EncodeError):
        trusted.encode(lambda: 0, "k")
    with pytest.raises(DecodeError):
        trusted.decode(b"p" + pickle.dumps((1,))[:-3], "k", "rank 1")


def _on_a_real_network(link: Link, meet: Meet) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x40000000) != 0:
        link.send("no network of our own")
        return
    for command in ("ip link set lo up", "ip addr add 10.9.8.7/32 dev lo"):
        subprocess.run(command.split(), check=True)

    def work(rank: int, trust: bool) -> Any:
        with StatelessProcessGroup.create("10.9.8.7", 4321 + trust, rank, 2, 30, trust_store=trust) as group:
            seen = group.broadcast_obj({"json": [rank]}, 1)
            try:
                return seen, group.broadcast_obj((1, 2), 0)
            except RuntimeError as error:
                return seen, type(error).__name__, str(error)

    with ThreadPoolExecutor(2) as pool:
        link.send([list(pool.map(work, range(2), [trust] * 2)) for trust in (False, True)])


def test_over_an_address_that_others_reach_pickles_need_a_secret_or_trust(ranks: Starter) -> None:
    (rank,) = ranks(1, _on_a_real_network)
    told = rank.receive()
    if isinstance(told, str):
        pytest.skip(told)
    refused, trusted = told
    assert refused[0][:2] == ({"json": [1]}, "GroupSecurityError")
    assert refused[1][:2] == ({"json": [1]}, "GroupError")
    assert "rank 0" in refused[1][2]
    assert trusted == [({"json": [1]}, (1, 2))] * 2
