"""What is told of users' mistakes can be told, whatever they are, and work that is handed over is done once."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from ringcast._mishaps import Promise, hand_over, named, shown, tell
from tests.mishaps import Mute, MuteForGood, filtered, no_threads
from tests.support import Background


def test_every_exception_and_every_object_has_a_text_that_can_be_encoded() -> None:
    class Nameless:
        def __repr__(self) -> str:
            raise SystemExit

    assert shown(ValueError("as it is")) == "ValueError: as it is"
    assert shown(Mute()) == "Mute: <its __str__ raised RuntimeError>"
    assert shown(MuteForGood()) == "MuteForGood: <its __str__ raised SystemExit>"
    assert shown(OSError(5, "no file", "\udcff")).encode() == rb"OSError: [Errno 5] no file: '\udcff'"
    assert named([1]) == "[1]"
    assert named(Nameless()) == "<Nameless>"


def test_what_is_logged_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("ringcast.pool")

    def exits(record: logging.LogRecord) -> bool:
        raise SystemExit

    with filtered(log.name, exits):
        tell(log, "nobody hears it")
    tell(log, "%s", "somebody does", error=Mute())
    assert [record.message for record in caplog.records] == ["somebody does"]


def test_what_no_thread_could_be_had_for_is_done_otherwise_and_not_again(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    with ThreadPoolExecutor(1, "ringcast-tried") as threads:
        with no_threads(monkeypatch):
            hand_over(threads, lambda: done.append("by a thread"), lambda: done.append("here"))
        assert done == ["here"]
        # The one thread that there is now finds both.
        hand_over(threads, lambda: done.append("the next"), lambda: done.append("the next, here"))
    assert done == ["here", "the next"]
    hand_over(threads, lambda: done.append("by a thread"), lambda: done.append("after the end"))
    assert done == ["here", "the next", "after the end"]


def test_each_callback_of_a_promise_is_called_and_the_caller_s_own_may_end_it() -> None:
    called: list[str] = []

    def exits(_: object) -> None:
        called.append("exits")
        raise SystemExit

    promise: Promise[int] = Promise()
    promise.add_done_callback(exits)
    promise.add_done_callback(lambda done: called.append(f"got {done.result()}"))
    Background(promise.set_result, 7).result()
    assert called == ["exits", "got 7"]
    with pytest.raises(SystemExit):
        promise.add_done_callback(exits)
    assert asyncio.run(awaited(promise)) == 7


async def awaited(promise: Promise[int]) -> int:
    return await asyncio.wrap_future(promise)
