"""Calls of a group's workers: who is called, what comes back, and what is raised."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ringcast import WorkerGroup, workers
from ringcast.errors import (
    ArgumentError,
    DecodeError,
    EncodeError,
    ForkedError,
    MessageTooLargeError,
    QueueClosedError,
    RankError,
    RemoteError,
    RoleError,
)
from tests.support import run_python
from tests.workers.objects import Ends, EndsWhoIsTold, EndsWhoTells, Gate, Holding, Model, OnlyThere


@pytest.fixture(scope="module")
def shared() -> Iterator[WorkerGroup]:
    """For tests that leave the workers as they are."""
    with WorkerGroup(Model, 2, args=(10,), rank_args=[(1,), (2,)], env={"OF_THE_TEST": "here"}) as group:
        yield group


@pytest.fixture
def group(shared: WorkerGroup) -> WorkerGroup:
    return shared


def test_a_call_returns_what_each_rank_returns(group: WorkerGroup) -> None:
    assert group.call("add", 100) == [111, 112]
    assert group.call("rank") == [0, 1]
    assert len(set(group.call("pid")) | {os.getpid()}) == 3
    assert group.call("pid") == group.pids


def test_a_call_of_some_ranks_is_for_them_alone_and_in_their_order(group: WorkerGroup) -> None:
    assert group.call("rank", ranks=[1, 0]) == [1, 0]
    assert group.call("rank", ranks=(1,)) == [1]
    before = group.call("seen")
    assert group.call("echo", "one", ranks=[1]) == ["one"]
    assert group.call("seen") == [before[0], [*before[1], "one"]]


def test_one_rank_by_its_number(group: WorkerGroup) -> None:
    assert group[1].call("add") == 12
    assert [member.call("rank") for member in group] == [0, 1]
    assert len(group) == 2
    with pytest.raises(RankError, match="ranks 0 to 1, not 2"):
        group[2]
    with pytest.raises(RankError):
        group.call("rank", ranks=[0, 2])
    with pytest.raises(ArgumentError):
        group.call("rank", ranks=[])


def test_a_worker_knows_its_rank_and_environment_and_nobody_else_does(group: WorkerGroup) -> None:
    assert group.call("environment", "RINGCAST_RANK") == ["0", "1"]
    assert group.call("environment", "OF_THE_TEST") == ["here", "here"]
    assert "OF_THE_TEST" not in os.environ
    assert "RINGCAST_RANK" not in os.environ
    with pytest.raises(RoleError):
        workers.rank()


def test_an_exception_keeps_its_type_and_says_where_it_was(group: WorkerGroup) -> None:
    with pytest.raises(KeyError) as caught:
        group.call("fail", "of the test", ranks=[1])
    error: Any = caught.value
    if sys.version_info >= (3, 11):
        assert error.args == ("of the test",)
        assert any(f"rank 1 (host {os.uname().nodename}, pid {group.pids[1]})" in note for note in error.__notes__)
    assert isinstance(error.__cause__, RemoteError)
    assert error.__cause__.rank == 1
    assert error.__cause__.kind == "KeyError"
    assert "objects.py" in str(error.__cause__)
    assert "raise KeyError(text)" in str(error.__cause__)
    assert group.call("rank") == [0, 1]


def test_the_first_exception_does_not_wait_for_the_others(group: WorkerGroup) -> None:
    with Gate() as gate, pytest.raises(KeyError) as caught:
        group.call("fail_or_wait_at", 0, gate.path)
    if sys.version_info >= (3, 11):
        assert any("rank 1 had not answered" in note for note in caught.value.__notes__)
    assert group.call("rank") == [0, 1]  # and not what was answered late


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a built-in since")
def test_exceptions_that_are_there_together_are_raised_together() -> None:
    from ringcast.workers._call import Call
    from ringcast.workers._failures import packed

    call = Call("both", (0, 1), False, None)
    for rank in (0, 1):
        call.fail(rank, packed(KeyError(rank)))
    error: Any = call.error()
    assert type(error).__name__ == "ExceptionGroup"
    assert KeyError in type(error).__mro__
    assert [type(one) for one in error.exceptions] == [KeyError, KeyError]
    assert [one.args for one in error.exceptions] == [(0,), (1,)]


@pytest.mark.parametrize(
    ("method", "kind", "text"),
    [
        ("raise_picky", "Picky", "one and two"),
        ("raise_holding", "Holding", "it holds a lock"),
        ("interrupt", "KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_an_exception_that_cannot_travel_arrives_as_text(group: WorkerGroup, method: str, kind: str, text: str) -> None:
    with pytest.raises(RemoteError, match=text) as caught:
        group.call(method, ranks=[0])
    assert caught.value.kind == kind
    assert method in str(caught.value.__cause__)
    with pytest.raises(TypeError):
        pickle.dumps(Holding("it holds a lock"))


def test_a_result_that_cannot_be_rebuilt_or_sent_is_the_error_of_its_call(group: WorkerGroup) -> None:
    before = group.submit("echo", 1)
    bad = group[0].submit("give_what_cannot_be_rebuilt")
    after = group.submit("echo", 2)
    with pytest.raises(DecodeError):
        bad.result(60)
    assert before.result(60) == [1, 1]
    assert after.result(60) == [2, 2]
    with pytest.raises(EncodeError):
        group.call("give_what_cannot_be_sent")
    with pytest.raises(MessageTooLargeError):
        group[0].call("blob", 1 << 30)
    assert group.call("echo", 3) == [3, 3]


def test_arguments_that_cannot_be_rebuilt_or_sent_are_the_error_of_their_call(group: WorkerGroup) -> None:
    before = group.submit("echo", 1)
    bad = group.submit("echo", OnlyThere())
    after = group.submit("echo", 2)
    with pytest.raises(DecodeError):
        bad.result(60)
    assert before.result(60) == [1, 1]
    assert after.result(60) == [2, 2]
    with pytest.raises(EncodeError):
        group.call("echo", sys._getframe())
    assert group.call("echo", 3) == [3, 3]


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, MemoryError])
@pytest.mark.parametrize("way", ["answer", "argument"])
def test_what_ends_programs_when_it_is_rebuilt_ends_nobody(
    group: WorkerGroup, way: str, kind: type[BaseException]
) -> None:
    before = group.submit("echo", 1)
    bad = group[0].submit("give_what_ends", kind) if way == "answer" else group.submit("echo", Ends(kind))
    after = group.submit("echo", 2)
    with pytest.raises(DecodeError, match=kind.__name__):
        bad.result(60)
    assert before.result(60) == [1, 1]
    assert after.result(60) == [2, 2]
    if way == "answer":
        with pytest.raises(DecodeError, match=kind.__name__):
            group[1].call("give_what_ends", kind)
    assert group.call("echo", 3) == [3, 3]


@pytest.mark.parametrize("kind", [EndsWhoTells, EndsWhoIsTold])
def test_an_exception_that_ends_who_takes_it_apart_or_rebuilds_it_arrives_as_text(
    group: WorkerGroup, kind: type[Exception]
) -> None:
    with pytest.raises(RemoteError, match="it is told as text") as caught:
        group.call("raise_what_ends", kind, ranks=[0])
    assert caught.value.kind == kind.__name__
    assert group.call("echo", 3) == [3, 3]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
def test_a_result_whose_pickling_raises_what_ends_programs_ends_nobody(
    group: WorkerGroup, kind: type[BaseException]
) -> None:
    with pytest.raises(RemoteError, match="when it was rebuilt") as caught:
        group.call("give_what_cannot_be_told", kind, ranks=[0])
    assert caught.value.kind == kind.__name__
    assert group.call("echo", 3) == [3, 3]


def test_an_argument_that_is_rebuilt_as_a_ctrl_c_is_the_error_of_its_call(group: WorkerGroup) -> None:
    with pytest.raises(DecodeError, match="KeyboardInterrupt"):
        group[0].call("echo", Ends(KeyboardInterrupt))
    assert group.call("echo", 3) == [3, 3]


def test_an_exception_that_is_larger_than_a_message_arrives_as_text() -> None:
    with WorkerGroup(Model, 1, max_bytes=4 << 20) as small:
        with pytest.raises(RemoteError, match="it holds much") as caught:
            small.call("raise_holding_bytes", 16 << 20)
        assert caught.value.kind == "ValueError"
        assert "in raise_holding_bytes" in str(caught.value.__cause__)
        assert small.call("echo", 3) == [3]


def test_a_cast_that_cannot_be_rebuilt_is_told_of(group: WorkerGroup, caplog: pytest.LogCaptureFixture) -> None:
    group.cast("echo", OnlyThere())
    group.cast("echo", OnlyThere(), ranks=[1])
    assert group.call("echo", 3) == [3, 3]
    told = [record.getMessage() for record in caplog.records if record.name == "ringcast.workers"]
    assert len(told) == 3, told
    assert all("'echo'" in text and "not here" in text for text in told)
    assert sorted(text.partition("rank ")[2][0] for text in told) == ["0", "1", "1"]
    facts: Any = caplog.records[0]
    assert facts.ringcast["rank"] in (0, 1)


def test_an_error_stream_that_is_broken_ends_nobody() -> None:
    with WorkerGroup(Model, 1) as one:
        one.call("close_the_error_stream")
        one.cast("fail")
        assert one.call("echo", 3) == [3]


def test_arrays_of_answers_are_views_of_shared_memory(group: WorkerGroup) -> None:
    pytest.importorskip("numpy")
    one, two = group.call("array", 1 << 20)
    assert int(one.sum()) == int(two.sum()) == 1 << 20
    assert not one.flags.writeable
    assert not one.flags.owndata


def test_functions_are_called_only_where_that_is_allowed(group: WorkerGroup) -> None:
    with pytest.raises(ArgumentError, match="allow_callables"):
        group.call(Model.add, 1)
    with pytest.raises(AttributeError):
        group[0].call("no_such_method")
    with WorkerGroup(Model, 1, allow_callables=True) as other:
        assert other.call(Model.add, 1) == [1]


def test_a_group_is_its_process_s_own(group: WorkerGroup) -> None:
    with pytest.raises(TypeError, match="belongs to its process"):
        pickle.dumps(group)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            group.call("rank")
        except ForkedError:
            os.write(writing, b"refused")
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as told:
        assert told.read() == b"refused"
    os.waitpid(pid, 0)
    assert group.call("rank") == [0, 1]


def test_wrong_arguments_are_refused_before_anything_is_started() -> None:
    wrongs: list[Callable[[], Any]] = [
        lambda: WorkerGroup(Model, 0),
        lambda: WorkerGroup("Model", 1),  # type: ignore[arg-type]
        lambda: WorkerGroup(Model, 2, rank_args=[(1,)]),
        lambda: WorkerGroup(Model, 1, start_method="thread"),
        lambda: WorkerGroup(Model, 1, args="text"),
        lambda: WorkerGroup(Model, 1, args={"scale": 1}),  # type: ignore[arg-type]
        lambda: WorkerGroup(Model, 2, args={1, 2}),  # type: ignore[arg-type]
        lambda: WorkerGroup(Model, 2, rank_args=["ab", "cd"]),
        lambda: WorkerGroup(Model, 2, rank_args=[1, 2]),  # type: ignore[list-item]
        lambda: WorkerGroup(Model, 2, rank_args=5),  # type: ignore[arg-type]
        lambda: WorkerGroup(Model, 1, kwargs=["ab"]),  # type: ignore[arg-type]
        lambda: WorkerGroup(Model, 1, kwargs={1: 2}),  # type: ignore[dict-item]
        lambda: WorkerGroup(Model, 1, env="A=1"),  # type: ignore[arg-type]
        lambda: WorkerGroup(Model, 1, env={"A": 1}),  # type: ignore[dict-item]
        lambda: WorkerGroup(Model, 1, env={"A": None}),  # type: ignore[dict-item]
        lambda: WorkerGroup(Model, 1, env={"A=B": "1"}),
        lambda: WorkerGroup(Model, 1, env={"": "1"}),
        lambda: WorkerGroup(Model, 1, env={"A": "1\0"}),
        lambda: WorkerGroup(Model, 1, wait="often"),
    ]
    for wrong in wrongs:
        with pytest.raises(ArgumentError):
            wrong()
    with pytest.raises(EncodeError):
        WorkerGroup(Model, 1, args=(sys._getframe(),))


def test_a_closed_group_says_so() -> None:
    group = WorkerGroup(Model, 1)
    group.close()
    group.close()
    assert group.closed
    with pytest.raises(QueueClosedError, match="is closed"):
        group.call("rank")
    assert "closed" in repr(group)


@pytest.mark.parametrize("method", ["forkserver", "fork"])
def test_other_ways_to_start(method: str) -> None:
    script = """
import sys
from ringcast import WorkerGroup
from tests.workers.objects import Model
if __name__ == "__main__":
    with WorkerGroup(Model, 2, start_method=sys.argv[1]) as group:
        assert group.call("rank") == [0, 1]
        assert group.call("environment", "RINGCAST_RANK") == ["0", "1"]
    print("well")
"""
    done = run_python(script, method)
    assert done.stdout == "well\n", done.stderr


@pytest.mark.parametrize("shards", [None, 5, "ab", b"ab", {"a": 1, "b": 2}, {1, 2}, frozenset({1, 2})], ids=repr)
def test_shards_without_an_order_are_refused(group: WorkerGroup, shards: Any) -> None:
    with pytest.raises(ArgumentError, match="shards must be a sequence"):
        group.scatter("echo", shards)
    assert group.call("rank") == [0, 1]


class Named:
    def __init__(self, **given: Any) -> None:
        self.given = given

    def both(self, name: str, self_: int = 0, **more: Any) -> Any:
        return self.given["name"], name, more

    def items(self, name: str) -> Iterator[str]:
        yield from name


def test_a_method_may_have_an_argument_of_any_name_but_ranks_and_deadline() -> None:
    with WorkerGroup(Named, 1, kwargs={"name": "made"}) as group:
        expected = ("made", "called", {"kind": 1, "args": 2})
        assert group.call("both", name="called", kind=1, args=2) == [expected]
        assert group[0].call("both", name="called", kind=1, args=2) == expected
        assert group.submit("both", name="called").result() == [("made", "called", {})]
        assert group.scatter("both", ["called"], kind=1) == [("made", "called", {"kind": 1})]
        assert list(group.stream("items", name="ab")) == [["a"], ["b"]]
        group.cast("both", name="called")


def test_a_name_that_is_elsewhere_the_call_s_own_is_refused_where_it_means_nothing() -> None:
    with WorkerGroup(Named, 1, kwargs={"name": "made"}) as group:
        with pytest.raises(ArgumentError, match="deadline=3: cast waits for no answer"):
            group.cast("both", "called", deadline=3)
        for call in (group[0].call, group[0].submit, group[0].stream, group[0].cast):
            with pytest.raises(ArgumentError, match=r"ranks=\[0\]: this is one rank"):
                call("both", "called", ranks=[0])
        assert group[0].call("both", "called") == ("made", "called", {})


def test_a_forked_child_that_ends_in_order_joins_none_of_its_parent_s_workers() -> None:
    script = """
import os, sys
from ringcast import WorkerGroup
if __name__ == "__main__":
    with WorkerGroup(dict, 2) as group:
        pid = os.fork()
        if pid == 0:
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert group.call("get", 1) == [None, None]
    print("well")
"""
    done = run_python(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "well\n", "")
