"""A segment's name: short enough for every POSIX system, different for different users and names."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast import MessageQueue, _core, _names
from ringcast.errors import ArgumentError, SegmentNotFoundError
from tests.support import SHM, unique_name

VALID_NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}", fullmatch=True)


@pytest.fixture
def as_uid(monkeypatch: pytest.MonkeyPatch) -> Any:
    def change(uid: int) -> None:
        monkeypatch.setattr(_core, "user_id", lambda: uid)

    return change


@given(VALID_NAMES)
def test_every_name_fits_the_shortest_limit_of_any_system(name: str) -> None:
    real = _names.segment_name(name)
    assert len("/" + real) <= 30
    assert real.startswith("ringcast_")
    assert "/" not in real


@given(VALID_NAMES, VALID_NAMES)
def test_two_names_give_two_segments(first: str, second: str) -> None:
    assert (_names.segment_name(first) == _names.segment_name(second)) == (first == second)


def test_a_short_name_is_kept_readable() -> None:
    assert _names.segment_name("sched").startswith("ringcast_sched.")


def test_a_long_name_keeps_its_beginning_and_ends_in_a_digest() -> None:
    real = _names.segment_name("the-scheduler-of-the-first-engine")
    assert real.startswith("ringcast_the-sche")
    assert "~" in real


def test_a_short_name_cannot_be_spelled_like_a_long_name_s_digest() -> None:
    with pytest.raises(ArgumentError):
        _names.segment_name("abc~1234567")


@pytest.mark.parametrize("uid", [0, 1000, 2**32 - 2])
def test_the_limit_holds_for_every_user_id(as_uid: Any, uid: int) -> None:
    as_uid(uid)
    for name in ("x", "x" * 18, "x" * 19, "x" * 127, None):
        assert len("/" + _names.segment_name(name)) <= 30


@pytest.mark.parametrize("name", ["sched", "a-name-that-is-too-long-to-be-kept"])
def test_two_users_names_never_collide(as_uid: Any, name: str) -> None:
    as_uid(1000)
    mine = _names.segment_name(name)
    as_uid(1001)
    assert _names.segment_name(name) != mine


def test_unnamed_queues_get_names_of_their_own() -> None:
    names = {_names.segment_name(None) for _ in range(1000)}
    assert len(names) == 1000


@pytest.mark.parametrize(
    "name", ["", "a/b", "/a", "..", ".hidden", "-x", "_x", "a b", "ä", "a\0b", "a\n", "x" * 128, 7, b"bytes", ["list"]]
)
def test_an_invalid_name_is_refused_and_quoted(name: Any) -> None:
    with pytest.raises(ArgumentError, match="a queue's name must be") as caught:
        MessageQueue(1, name=name)
    assert repr(name) in str(caught.value)
    with pytest.raises(ArgumentError):
        MessageQueue.attach(name)


def test_two_long_names_with_the_same_beginning_are_two_queues() -> None:
    stem = unique_name() + "-" + "x" * 40
    with MessageQueue(1, name=stem + "a") as first, MessageQueue(1, name=stem + "b") as second:
        assert first.segment != second.segment
        assert (SHM / first.segment).exists()
        assert (SHM / second.segment).exists()
        with MessageQueue.attach(stem + "a") as reader:
            assert reader.segment == first.segment
            assert reader.name == stem + "a"


def test_a_name_whose_segment_belongs_to_another_name_is_not_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    with MessageQueue(1, name=unique_name()) as queue:
        monkeypatch.setattr(_names, "segment_name", lambda _: queue.segment)
        with pytest.raises(SegmentNotFoundError, match="belongs to a queue named"):
            MessageQueue.attach("another")


def test_the_longest_name_arrives_whole() -> None:
    name = unique_name()
    name += "x" * (127 - len(name))
    with MessageQueue(1, name=name) as queue, MessageQueue.attach(name) as reader:
        assert queue.name == reader.name == name
