"""Generators that workers run: their items come as they are read."""

from __future__ import annotations

import asyncio
import gc
import io
import sys
import threading

import pytest

from ringcast import WorkerGroup
from ringcast.errors import DecodeError, GroupMismatchError, WorkerDiedError
from ringcast.workers._stream import CREDIT_ITEMS
from tests.support import Background, eventually
from tests.workers.objects import LONG_S, Model, late_at_a_gate


def test_items_come_in_their_order(group: WorkerGroup) -> None:
    assert list(group[1].stream("count_to", 1000)) == list(range(1000))
    assert list(group.stream("count_to", 100)) == [[number, number] for number in range(100)]
    assert list(group.stream("count_to", 3, ranks=[1])) == [[0], [1], [2]]
    assert list(group[0].stream("count_to", 0)) == []


def test_large_items_come_whole(group: WorkerGroup) -> None:
    for number, blob in group[0].stream("count_to", 50, 4 << 20):
        assert len(blob) == 4 << 20
        assert number < 50


def test_a_generator_s_exception_comes_after_its_items(group: WorkerGroup) -> None:
    seen: list[int] = []
    with pytest.raises(KeyError):
        seen.extend(group[0].stream("count_and_fail", 20))
    assert seen == list(range(20))


def test_a_stream_that_nobody_reads_runs_a_little_ahead_and_holds_up_nothing(group: WorkerGroup) -> None:
    before = group[0].call("counted")
    streams = [group[0].stream("count_to", 10_000) for _ in range(3)]
    assert group[0].call("echo_only", "beside", deadline=LONG_S) == "beside"
    eventually(lambda: group[0].call("counted") == before + 3 * CREDIT_ITEMS, "the items ahead")
    assert next(streams[2]) == 0
    assert next(streams[0]) == 0
    for both in zip(streams[0], streams[1], range(200), strict=False):
        assert both[0] == both[1] + 1
    for stream in streams:
        stream.close()
    assert group[0].call("counted") < before + 1000


def test_a_dropped_stream_is_closed(group: WorkerGroup) -> None:
    stream = group[0].stream("count_to", 10_000)
    assert next(stream) == 0
    del stream
    gc.collect()
    eventually(lambda: not group._calls.under_way, "the end of the stream")


def test_streams_of_different_lengths_are_an_error(group: WorkerGroup) -> None:
    with pytest.raises(GroupMismatchError, match="rank 0 has ended") as caught:
        list(group.stream("count_to_rank", 5))
    assert caught.value.ranks == (0,)


@pytest.mark.usefixtures("whole_stacks")
def test_a_stream_has_a_deadline(group: WorkerGroup) -> None:
    seen: list[int] = []

    def read(gate: str, deadline: float) -> None:
        seen[:] = ()
        seen.extend(group[1].stream("count_to_gate", 4, gate, deadline=deadline))

    late = late_at_a_gate(read, 1)
    assert seen == [0, 1, 2]
    assert "in count_to_gate" in late.stacks[1]


def test_a_stream_is_read_beside_other_calls(group: WorkerGroup) -> None:
    stop = threading.Event()
    called = threading.Event()

    def call() -> int:
        count = 0
        while not stop.is_set():
            assert group.call("echo_only", count) == [count, count]
            called.set()
            count += 1
        return count

    async def awaits() -> None:
        for number in range(50):
            assert await group[0].submit("echo_only", number) == number

    calling = Background(call)
    awaiting = Background(lambda: asyncio.run(awaits()))
    try:
        assert called.wait(LONG_S)
        assert list(group.stream("count_to", 500)) == [[number, number] for number in range(500)]
        awaiting.result(LONG_S)
    finally:
        stop.set()
    assert calling.result(LONG_S) > 0


def test_a_worker_s_death_ends_its_streams() -> None:
    with WorkerGroup(Model, 1) as group:
        stream = group[0].stream("count_to", 10_000)
        assert next(stream) == 0
        group[0].cast("end", "kill")
        with pytest.raises(WorkerDiedError):
            for _ in stream:
                pass


def test_a_generator_that_fails_ends_those_of_the_other_ranks(group: WorkerGroup) -> None:
    before = group.call("counted")
    with pytest.raises(KeyError):
        list(group.stream("fail_on_rank", 0, 10_000))
    eventually(lambda: group.call("counted") == before, "the end of the other generator")
    stream = group.stream("fail_on_rank", 1, 10_000)  # nor is it read
    eventually(lambda: group.call("counted") == before, "the end of the other generator")
    stream.close()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError, KeyError])
def test_a_generator_that_raises_when_it_is_closed_ends_nobody(
    group: WorkerGroup, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", said := io.StringIO())  # pytest's capture loses what comes as it is looked at
    before = group[0].call("counted")
    stream = group[0].stream("count_until_closed", 10_000, kind)
    assert next(stream) == 0
    stream.close()
    assert group[0].call("counted") == before
    eventually(lambda: "when it was closed" in said.getvalue(), "what was printed")


def test_an_item_that_cannot_be_rebuilt_ends_its_generator(group: WorkerGroup) -> None:
    before = group[0].call("counted")
    stream = group[0].stream("count_and_give", 2, GeneratorExit, 10_000)
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(DecodeError, match="GeneratorExit"):
        next(stream)
    eventually(lambda: group[0].call("counted") == before, "the end of the generator")


def test_an_answer_that_cannot_be_rebuilt_is_no_item_of_a_stream_that_is_under_way(group: WorkerGroup) -> None:
    before = group[0].call("counted")
    stream = group[0].stream("count_until_closed", 10_000)
    assert next(stream) == 0
    bad = group[0].submit("give_what_cannot_be_rebuilt")
    with pytest.raises(DecodeError, match="not here"):
        bad.result(LONG_S)
    with pytest.raises(DecodeError, match="not here"):  # for it could have been one
        list(stream)
    eventually(lambda: group[0].call("counted") == before, "the end of the generator")


@pytest.mark.usefixtures("whole_stacks")
def test_a_stream_that_nobody_reads_is_not_what_a_late_call_waits_for(group: WorkerGroup) -> None:
    with group[0].stream("count_to", 10_000) as stream:
        assert next(stream) == 0
        late = late_at_a_gate(lambda gate, deadline: group[0].call("wait_at", gate, deadline=deadline), 0)
    assert "is before it" not in str(late)
