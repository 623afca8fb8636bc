"""Every public call of what was closed, found by looking, says by a typed error what that was; some still answer."""

from __future__ import annotations

import asyncio
import inspect
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest

from ringcast import MessageQueue, Selector, ShmRingBuffer, WorkerGroup
from ringcast.errors import ArgumentError, PoolClosedError, QueueClosedError, RoleError, SegmentNotFoundError
from ringcast.pool import PoolClient, PoolServer
from ringcast.pool.tiers import FileTier
from tests.pool.pools import some_keys
from tests.support import unique_name


class Closed(NamedTuple):
    subject: Any
    told: str
    """What its errors name it by."""
    raises: tuple[type[Exception], ...]
    arguments: dict[str, tuple[Any, ...]]
    """By method; without arguments otherwise."""
    answers: frozenset[str]
    """What answers, or does nothing, all the same, from what was known at its end."""


MAKES_ANOTHER = {
    "adopt", "attach", "connect", "create_from_handle", "create_from_process_group",
    "create_from_process_group_single_reader", "of", "on_ray",
}  # fmt: skip
ALWAYS = MAKES_ANOTHER | {"close", "closed", "shutdown"}
KEYS = some_keys(1)
OF_AN_END: dict[str, tuple[Any, ...]] = {
    "enqueue": (1,), "try_enqueue": (1,), "enqueue_many": ([1],), "broadcast_object": (1,), "dequeue_many": (1,),
    "evict": (0,), "loan": (8,), "loan_array": (8, "u1"),
}  # fmt: skip


def ends(writer: bool) -> Closed:
    queue = MessageQueue[Any](1, name=unique_name())
    reader = MessageQueue[Any].create_from_handle(queue.export_handle(), 0)
    name = f"queue '{queue.name}'"
    reader.close()
    queue.close()
    return Closed(
        queue if writer else reader, name, (QueueClosedError, RoleError), OF_AN_END,
        frozenset({"name", "segment", "role", "rank", "reader_attributes"}),
    )  # fmt: skip


def ring() -> Closed:
    made = ShmRingBuffer(1, 1000, 4)
    name = made.handle()[-1]
    made.close()
    return Closed(
        made, str(name), (QueueClosedError, SegmentNotFoundError), {"slot_state": (0,)}, frozenset({"handle"})
    )


def selector() -> Closed:
    queue = MessageQueue[Any](1, name=unique_name())
    reader = MessageQueue[Any].create_from_handle(queue.export_handle(), 0)
    made = Selector[str]()
    made.register(reader, "it")
    made.close()
    other = (reader, "it")
    closed = Closed(
        made, f"queue '{queue.name}'", (QueueClosedError, ArgumentError),
        {"register": other, "unregister": (reader,), "select": (0,), "aselect": (0,)}, frozenset({"ends"}),
    )  # fmt: skip
    _left_open.extend((reader.close, queue.close))
    return closed


_left_open: list[Callable[[], object]] = []


def group() -> Closed:
    made = WorkerGroup(dict, 1)
    made.close()
    calls = {"call": ("get", 1), "cast": ("get", 1), "submit": ("get", 1), "stream": ("items",), "respawn": (0,)}
    scattered: dict[str, tuple[Any, ...]] = {**calls, "scatter": ("get", [1])}
    return Closed(made, "WorkerGroup(dict, 1)", (QueueClosedError,), scattered, frozenset({"pids", "stats"}))


def rank_of_a_group() -> Closed:
    made = WorkerGroup(dict, 1)
    rank = made[0]
    made.close()
    calls: dict[str, tuple[Any, ...]] = dict.fromkeys(("call", "cast", "submit"), ("get", 1))
    return Closed(
        rank, "WorkerGroup(dict, 1)", (QueueClosedError,), {**calls, "stream": ("items",)}, frozenset({"rank", "pid"})
    )


def pool_server() -> Closed:
    made = PoolServer(unique_name(), "1MiB").start()
    made.close()
    return Closed(
        made,
        f"pool '{made.name}'",
        (PoolClosedError,),
        {},
        frozenset({"name", "segment", "capacity", "adopted", "serve_forever"}),
    )


def pool_client() -> Closed:
    with PoolServer(unique_name(), "1MiB") as server:
        made = PoolClient.connect(server.name, layout=16)
        store = made.prepare_store(KEYS)
        token = store.export()
        retrieve = made.prepare_retrieve(KEYS)
        made.close()
        arguments: dict[str, tuple[Any, ...]] = dict.fromkeys(
            ("aretrieve", "lookup", "prefetch", "prepare_retrieve", "retrieve", "touch"), (KEYS,)
        )
        arguments |= {
            "abort_store": (store,), "commit_store": (store,), "commit_retrieve": (retrieve,), "join": (token,),
            "prepare_store": (KEYS,), "store": (KEYS,),
        }  # fmt: skip
        closed = Closed(
            made, f"pool '{server.name}'", (PoolClosedError,), arguments, frozenset({"commit_retrieve", "reconnect"})
        )
    return closed


def tier() -> Closed:
    folder = tempfile.TemporaryDirectory()
    _left_open.append(folder.cleanup)
    made = FileTier(f"{folder.name}/tier", "1MiB", "64KiB")
    made.close()
    arguments: dict[str, tuple[Any, ...]] = {
        "store": (KEYS, [b"x"]), "load": (KEYS, [bytearray(1)]), "exists": (KEYS,), "remove": (KEYS,)
    }  # fmt: skip
    hooks = {name for name in dir(made) if name.endswith(("_chunk", "_chunks"))}
    hooks |= {"clear_before", "register", "unregister", "checks", "together", "era", "path", "stats"}
    return Closed(made, made.path, (PoolClosedError,), arguments, frozenset(hooks))


MAKES: dict[str, Callable[[], Closed]] = {
    "writer": lambda: ends(writer=True), "reader": lambda: ends(writer=False), "ring": ring, "selector": selector,
    "group": group, "rank of a group": rank_of_a_group, "pool's server": pool_server, "pool's client": pool_client,
    "tier": tier,
}  # fmt: skip


@pytest.fixture(params=MAKES, ids=list(MAKES))
def closed(request: pytest.FixtureRequest) -> Iterator[Closed]:
    yield MAKES[request.param]()
    while _left_open:
        _left_open.pop(0)()


def used(closed: Closed, name: str) -> None:
    """Calls the method, or reads the property, and goes through what it gives."""
    found = getattr(closed.subject, name)
    if not callable(found):
        return
    result = found(*closed.arguments.get(name, ()))
    if inspect.iscoroutine(result):
        asyncio.run(result)
    elif hasattr(result, "__enter__"):
        with ExitStack() as stack:
            stack.enter_context(result)
    elif hasattr(result, "result"):
        result.result(10)
    elif hasattr(result, "__next__"):
        next(result)


def test_it_says_what_was_closed(closed: Closed) -> None:
    public = {name for name in dir(type(closed.subject)) if not name.startswith("_")}
    assert set(closed.arguments) <= public
    for name in sorted(public - ALWAYS - closed.answers):
        with pytest.raises(closed.raises) as caught:
            used(closed, name)
        assert closed.told in str(caught.value), name
