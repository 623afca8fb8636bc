"""WorkerGroup: N processes, each with an object of the user's class, and calls of its methods on all of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ringcast import _arguments, _html
from ringcast._refusals import naming_limits
from ringcast.errors import ArgumentError, BusyError, RankError
from ringcast.waiting import Wait, WaitSettings
from ringcast.workers import _given
from ringcast.workers._adopted import Adopted, adopt
from ringcast.workers._call import Call
from ringcast.workers._crew import Crew
from ringcast.workers._future import CallFuture
from ringcast.workers._records import CALL, CAST, SCATTER, STREAM
from ringcast.workers._starting import START_TIMEOUT_S
from ringcast.workers._stats import GroupStats
from ringcast.workers._stream import CREDIT_ITEMS, Stream

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from ringcast.net._any_group import AnyGroup
    from ringcast.workers._on_ray import RayCrew

DEFAULT_CLOSE_S = 5.0
_AFTER_AN_EXCEPTION_S = 0.5
_MOST_WORKERS = 1024


class WorkerGroup:
    """N worker processes, each with an object of your class; calls go to all of them, answers come back by rank.

    >>> with WorkerGroup(dict, 2, args=([("step", 1)],)) as group:
    ...     group.call("get", "step")
    [1, 1]

    In the examples of the methods, `group` is this one. A worker runs one call at a time, in the order in which they
    were made. Arrays in calls and answers travel through shared memory, and arrive as views of it, as in a
    `MessageQueue`. Threads and event loops may share a group; it belongs to the process that made it, and its workers
    cannot call it.

    Args:
        cls: what makes a worker's object: a class, or a function, that workers can import; others travel by
            cloudpickle.
        n: how many workers.
        args: what it is called with.
        kwargs: and by keyword.
        rank_args: for each rank, what it is called with besides, after `args`.
        start_method: of `multiprocessing`: "spawn" (default), "forkserver" or "fork".
        env: environment variables of the workers, from before they import anything (with "spawn"). `RINGCAST_RANK` is
            theirs, too.
        wait: how to wait for calls and answers; see MessageQueue.
        prefix: whether what workers print comes out here, with each line's rank before it (default), or as it is.
        allow_callables: whether `call` and its kin take functions, too, which are called with the object.
        max_bytes: the most shared memory that calls, and each worker's answers, may take; see MessageQueue.
        start_timeout: how many seconds workers may take until all objects are made, default 600; None: without limit.
            After 30 seconds, and again so, the log says which are not ready.

    Raises what `cls` raises in a worker, with that traceback; WorkerDiedError; CallTimeoutError; EncodeError if `cls`
    or its arguments cannot be pickled; ArgumentError. Then no worker is left.
    """

    def __init__(
        self,
        cls: Callable[..., Any],
        n: int,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        rank_args: Sequence[Sequence[Any]] | None = None,
        start_method: str = "spawn",
        env: Mapping[str, str] | None = None,
        wait: Wait = None,
        prefix: bool = True,
        allow_callables: bool = False,
        max_bytes: int | None = None,
        start_timeout: float | None = START_TIMEOUT_S,
    ) -> None:
        if not callable(cls):
            raise _arguments.refuse("cls", "a class, or a function that makes an object", cls)
        n = _arguments.checked("n", n, 1, _MOST_WORKERS)
        arguments = _given.each_with_own(_given.sequence(args), rank_args, n)
        _arguments.choice("start_method", start_method, ("spawn", "forkserver", "fork"))
        WaitSettings.of(wait)
        timeout = _arguments.seconds("start_timeout", start_timeout)
        self._allow_callables = _arguments.flag("allow_callables", allow_callables)
        name = _given.name_of(cls)
        with_prefix = _arguments.flag("prefix", prefix)
        label = f"WorkerGroup({name}, {n})"
        with naming_limits(f"{label}: making what its workers are reached by"):
            crew = Crew(
                name, cls, arguments, _given.keywords(kwargs), start_method, _given.environment(env), wait, with_prefix,
                self._allow_callables, max_bytes,
            )  # fmt: skip
        crew.calls.label = label
        crew.start(timeout)
        self._lead(crew)

    def _lead(self, crew: Crew | Adopted | RayCrew) -> None:
        self._crew = crew
        self._calls = crew.calls
        self._label = crew.calls.label
        self._coming_back: dict[int, object] = {}
        self._finalizer = weakref.finalize(self, crew.drop)
        self._finalizer.atexit = False

    @classmethod
    def adopt(
        cls,
        pg: AnyGroup,
        kind: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        controller: int = 0,
        include_self: bool = False,
        allow_callables: bool = False,
        trust_store: bool = False,
        max_bytes: int | None = None,
        wait: Wait = None,
        timeout: float | None = None,
    ) -> Self | None:
        """Collective over a process group, such as torchrun's: the other ranks become the workers of `controller`.

        On the controller the group, whose ranks are those of `pg`; elsewhere None, after the controller has closed it:
        until then the rank serves. With `include_self` the controller's own process is a rank, too: a thread of it
        makes the object and runs its calls, which must not call the group. Other machines are reached through links.
        `pg` and `trust_store` are as in `MessageQueue.create_from_process_group`, the other arguments as the class has
        them, the same on all ranks; `timeout` is in seconds, until all objects are made. Ranks that end, which is
        known within a second, also between calls, are told as WorkerDiedError, and cannot be brought back.

        >>> import socket, threading
        >>> listening = socket.create_server(("127.0.0.1", 0))
        >>> port = listening.getsockname()[1]
        >>> def run(rank):  # as a process of its own would
        ...     with StatelessProcessGroup.create("127.0.0.1", port, rank, 2, listen_socket=listening) as pg:
        ...         return WorkerGroup.adopt(pg, dict, ([("step", 1)],))
        >>> worker = threading.Thread(target=run, args=(1,))
        >>> worker.start()
        >>> with run(0) as adopted:
        ...     adopted.call("get", "step")
        [1]
        >>> worker.join()
        """
        if not callable(kind):
            raise _arguments.refuse("kind", "a class, or a function that makes an object", kind)
        allow = _arguments.flag("allow_callables", allow_callables)
        crew = adopt(
            pg, kind, _given.sequence(args), _given.keywords(kwargs), controller,
            _arguments.flag("include_self", include_self), allow, trust_store, max_bytes, wait,
            _arguments.seconds("timeout", timeout),
        )  # fmt: skip
        if crew is None:
            return None
        group = cls.__new__(cls)
        group._allow_callables = allow
        group._lead(crew)
        return group

    @classmethod
    def on_ray(
        cls,
        kind: Callable[..., Any],
        placement_group: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        rank_args: Sequence[Sequence[Any]] | None = None,
        env: Mapping[str, str] | None = None,
        actor_options: Mapping[str, Any] | None = None,
        allow_callables: bool = False,
        max_bytes: int | None = None,
        wait: Wait = None,
        start_timeout: float | None = START_TIMEOUT_S,
    ) -> Self:
        """Workers that are actors of Ray's: rank n in bundle n of `placement_group`, of which it takes all.

        Needs `ringcast[ray]`, and a cluster that this process is in. Actors on this machine are reached through shared
        memory, others through links. Ray shows what they print, with each line's rank before it. `actor_options` are
        Ray's, as `.options` of an actor has them, and go before what the bundle says; the other arguments are as the
        class has them. The group ends its actors, and leaves the placement group alone.
        Raises what the class raises; MissingPackageError; what Ray raises.

        >>> import ray  # doctest: +SKIP
        >>> ray.init()  # doctest: +SKIP
        >>> placed = ray.util.placement_group([{"CPU": 1}] * 2)  # doctest: +SKIP
        >>> with WorkerGroup.on_ray(dict, placed, ([("step", 1)],)) as actors:  # doctest: +SKIP
        ...     actors.call("get", "step")
        [1, 1]
        """
        if not callable(kind):
            raise _arguments.refuse("kind", "a class, or a function that makes an object", kind)
        common = _given.sequence(args)
        timeout = _arguments.seconds("start_timeout", start_timeout)
        WaitSettings.of(wait)
        allow = _arguments.flag("allow_callables", allow_callables)
        from ringcast.workers._on_ray import RayCrew

        crew = RayCrew(
            _given.name_of(kind), kind, placement_group, lambda n: _given.each_with_own(common, rank_args, n),
            _given.keywords(kwargs), _given.environment(env), actor_options or {}, allow, max_bytes, wait, timeout,
        )  # fmt: skip
        group = cls.__new__(cls)
        group._allow_callables = allow
        group._lead(crew)
        return group

    def call(
        self, name: str | Callable[..., Any], /, *args: Any, ranks: Iterable[int] | None = None,
        deadline: float | None = None, **kwargs: Any,
    ) -> list[Any]:  # fmt: skip
        """Calls this method of all objects, or of those of `ranks`, and returns what they return, in the order of
        ranks.

        The first exception is raised at once, with its type, the worker's traceback as its cause, and a note that says
        where it was; several that are there together as an ExceptionGroup. What the other ranks answer then is dropped,
        and those that have not begun do not begin. So it is at the deadline, `deadline` seconds from now. `ranks` and
        `deadline` are never the method's own.
        Raises CallTimeoutError, which says what the late ranks are doing; WorkerDiedError, within a second; EncodeError
        and its kin, if the arguments cannot be sent; DecodeError; QueueClosedError once the group is closed.

        >>> group.call("setdefault", "tokens", [1, 2], deadline=10.0)
        [[1, 2], [1, 2]]
        """
        call = self._new(name, ranks, deadline)
        self._calls.send(CALL, call, args, kwargs)
        result: list[Any] = self._calls.result_of(call)
        return result

    def submit(
        self, name: str | Callable[..., Any], /, *args: Any, ranks: Iterable[int] | None = None,
        deadline: float | None = None, **kwargs: Any,
    ) -> CallFuture[list[Any]]:  # fmt: skip
        """As `call`, but returns at once a `concurrent.futures.Future`, which can be awaited, too.

        Waits only for room, if very much is under way. `cancel()` of the future, or of the task that awaits it, keeps
        workers from beginning the call.

        >>> future = group.submit("get", "step")
        >>> future.result(timeout=10.0)
        [1, 1]
        """
        return self._submit(CALL, self._new(name, ranks, deadline), args, kwargs)

    def scatter(
        self, name: str | Callable[..., Any], /, shards: Iterable[Any], *, ranks: Iterable[int] | None = None,
        deadline: float | None = None, **kwargs: Any,
    ) -> list[Any]:  # fmt: skip
        """As `call`, with one argument of its own for each rank: `shards` in the order of ranks.

        >>> group.scatter("get", ["step", "none"], deadline=10.0)
        [1, None]
        """
        given = _given.sequence(shards, "shards")
        call = self._new(name, ranks, deadline)
        if len(given) != len(call.ranks):
            raise ArgumentError(f"shards must be one for each of {len(call.ranks)} ranks, not {len(given)}")
        self._calls.send(SCATTER, call, dict(zip(call.ranks, given, strict=True)), kwargs)
        result: list[Any] = self._calls.result_of(call)
        return result

    def cast(
        self, name: str | Callable[..., Any], /, *args: Any, ranks: Iterable[int] | None = None, **kwargs: Any
    ) -> None:
        """As `call`, but waits for no answer, and there is none: an exception is printed by its worker.

        >>> group.cast("clear")
        >>> group.call("get", "step")
        [None, None]
        """
        _given.refuse_ours(kwargs, "deadline", "cast waits for no answer")
        self._calls.send(CAST, self._new(name, ranks, None), args, kwargs, answered=False)

    def stream(
        self, name: str | Callable[..., Any], /, *args: Any, ranks: Iterable[int] | None = None,
        deadline: float | None = None, **kwargs: Any,
    ) -> Stream:  # fmt: skip
        """Calls a method that returns a generator, or anything that can be iterated over, and yields its items as they
        come: lists of one of each rank.

        Some items are under way ahead of the reader. Between two items, and while nobody reads, the workers do other
        calls. An exception in a generator comes after its items. `deadline` is for all of it.
        Raises what `call` raises; GroupMismatchError if the generators are not of the same length.

        >>> list(group.stream("values"))
        [[1, 1]]
        """
        return self._stream(self._new(name, ranks, deadline), args, kwargs)

    def respawn(self, rank: int, *, start_timeout: float | None = START_TIMEOUT_S) -> None:
        """Brings a rank back that has ended: a new process, with a new object.

        Raises what the group's own start raises; ArgumentError if the rank has not ended; BusyError if it is being
        brought back already, or within another call; QueueClosedError once the group is closed, also meanwhile.

        >>> group.call("update", ranks=[1], step=5)
        [None]
        >>> import os, signal
        >>> os.kill(group.pids[1], signal.SIGKILL)
        >>> try:
        ...     group[1].call("get", "step")
        ... except errors.WorkerDiedError as error:
        ...     group.respawn(error.rank)
        >>> group[1].call("get", "step")
        1
        """
        timeout = _arguments.seconds("start_timeout", start_timeout)
        rank = self._rank(rank)
        self._calls.check_caller()
        if self._calls.closed is not None:
            raise self._calls.closed_error()
        if self._calls._leads():
            raise self._calls._within()
        own = object()
        try:
            if self._coming_back.setdefault(rank, own) is not own:
                raise BusyError(f"{self._label}: rank {rank} is being brought back already, by another call of respawn")
            if rank not in self._calls.dead and self._calls.can_respawn:
                pid = next(worker.pid for worker in self._crew.workers if worker.rank == rank)
                raise ArgumentError(f"{self._label}: rank {rank} has not ended (pid {pid})")
            self._crew.respawn(rank, timeout)
        finally:
            if self._coming_back.get(rank) is own:
                del self._coming_back[rank]

    def stats(self) -> GroupStats:
        """How long each rank takes, and how far it is behind the others; `ringcast.workers.RankStats` says what the
        fields are. Waits for nothing.

        >>> group.call("get", "step")
        [1, 1]
        >>> stats = group.stats()
        >>> [(rank["rank"], rank["alive"], rank["answers"]) for rank in stats["ranks"]]
        [(0, True, 1), (1, True, 1)]
        """
        calls = self._calls
        under_way = list(calls.under_way.values())
        stats: GroupStats = {
            "under_way": len(under_way),
            "ranks": [
                calls.answered.of(
                    worker.rank, worker.pid, not worker.ended.is_set(),
                    sum(worker.rank in call.waiting for call in under_way),
                )
                for worker in self._crew.workers
            ],
        }  # fmt: skip
        return _html.shown(stats)

    def close(self, timeout: float = DEFAULT_CLOSE_S) -> None:
        """Ends all workers: they finish the call that they are in, and casts; after `timeout` seconds they get SIGTERM,
        and half a second later SIGKILL. What is under way or later called fails with QueueClosedError. Any number of
        times.

        >>> group.close()
        >>> group.closed
        True
        """
        seconds = _arguments.seconds("timeout", timeout)
        if seconds is None:
            raise ArgumentError("timeout must be finite: a worker that never returns would hold everybody up")
        self._finalizer.detach()
        self._crew.end(seconds, "is closed")

    @property
    def closed(self) -> bool:
        """Has it been closed?"""
        return self._calls.closed is not None

    @property
    def pids(self) -> list[int]:
        """The workers' processes, by rank; also of those that have ended."""
        return [worker.pid for worker in self._crew.workers]

    def __getitem__(self, rank: int) -> Member:
        return Member(self, self._rank(rank))

    def __len__(self) -> int:
        return len(self._calls.every)

    def __iter__(self) -> Iterator[Member]:
        return (Member(self, rank) for rank in self._calls.every)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(DEFAULT_CLOSE_S if kind is None else _AFTER_AN_EXCEPTION_S)

    def __repr__(self) -> str:
        dead = sorted(self._calls.dead)
        state = "closed" if self.closed else (f"ranks {dead} have ended" if dead else "open")
        return f"<{self._label}: {state}>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        return _html.page(repr(self), {}) if self.closed else _html.ranks(repr(self), self.stats())

    def __reduce__(self) -> Any:
        raise TypeError(
            f"a {type(self).__name__} belongs to its process and cannot be pickled or copied: its "
            "workers cannot call it"
        )

    def _submit(self, kind: int, call: Call, arguments: Any, options: dict[str, Any]) -> CallFuture[Any]:
        future: CallFuture[Any] = CallFuture(self._calls, call, self)
        call.future = future
        self._calls.send(kind, call, arguments, options)
        self._calls.on_stray()
        return future

    def _stream(self, call: Call, arguments: tuple[Any, ...], options: dict[str, Any]) -> Stream:
        stream = Stream(self._calls, call, self)
        self._calls.send(STREAM, call, (CREDIT_ITEMS, *arguments), options)
        self._calls.on_stray()
        return stream

    def _new(self, name: Any, ranks: Iterable[int] | None, deadline: float | None, alone: bool = False) -> Call:
        if not isinstance(name, str):
            if not callable(name):
                raise _arguments.refuse("name", "a method's name", name)
            if not self._allow_callables:
                raise ArgumentError(
                    f"name is {name!r}: this group calls methods by their names only, unless it is made with "
                    "allow_callables=True"
                )
        chosen = (
            self._calls.every if ranks is None else tuple(self._rank(rank) for rank in _arguments.ranks("ranks", ranks))
        )
        if not chosen:
            raise ArgumentError("ranks must name at least one rank")
        self._calls.check_caller()
        return Call(name, chosen, alone, None if deadline is None else _arguments.seconds("deadline", deadline))

    def _rank(self, rank: Any) -> int:
        rank = _arguments.checked("rank", rank, -_arguments.INT32_MAX)
        if rank not in self._calls.every:
            every = self._calls.every
            raise RankError(f"{self._label} has ranks {every[0]} to {every[-1]}, not {rank}")
        return int(rank)


class Member:
    """One worker of a group: `group[rank]`.

    >>> with WorkerGroup(dict, 2) as group:
    ...     group[1]
    <rank 1 of <WorkerGroup(dict, 2): open>>
    """

    def __init__(self, group: WorkerGroup, rank: int) -> None:
        self._group = group
        self._ranks = (rank,)

    @property
    def rank(self) -> int:
        """Its rank."""
        return self._ranks[0]

    def call(self, name: str | Callable[..., Any], /, *args: Any, deadline: float | None = None, **kwargs: Any) -> Any:
        """As `WorkerGroup.call`, of this worker alone: returns what it returns.

        >>> group[1].call("get", "step")
        1
        """
        _given.refuse_ours(kwargs, "ranks", "this is one rank")
        call = self._group._new(name, self._ranks, deadline, alone=True)
        calls = self._group._calls
        calls.send(CALL, call, args, kwargs)
        return calls.result_of(call)

    def submit(
        self, name: str | Callable[..., Any], /, *args: Any, deadline: float | None = None, **kwargs: Any
    ) -> CallFuture[Any]:
        """As `WorkerGroup.submit`, of this worker alone.

        >>> group[1].submit("get", "step").result()
        1
        """
        _given.refuse_ours(kwargs, "ranks", "this is one rank")
        group = self._group
        return group._submit(CALL, group._new(name, self._ranks, deadline, alone=True), args, kwargs)

    def stream(
        self, name: str | Callable[..., Any], /, *args: Any, deadline: float | None = None, **kwargs: Any
    ) -> Stream:
        """As `WorkerGroup.stream`, of this worker alone: yields its items.

        >>> list(group[1].stream("values"))
        [1]
        """
        _given.refuse_ours(kwargs, "ranks", "this is one rank")
        group = self._group
        return group._stream(group._new(name, self._ranks, deadline, alone=True), args, kwargs)

    def cast(self, name: str | Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """As `WorkerGroup.cast`, of this worker alone.

        >>> group[1].cast("clear")
        >>> group.call("get", "step")
        [1, None]
        """
        _given.refuse_ours(kwargs, "ranks", "this is one rank")
        self._group.cast(name, *args, ranks=self._ranks, **kwargs)

    def __repr__(self) -> str:
        return f"<rank {self.rank} of {self._group!r}>"
