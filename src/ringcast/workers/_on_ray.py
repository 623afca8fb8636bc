"""Workers that are actors of Ray's, one in each bundle of a placement group. The group starts and ends them.

Ray carries what is needed until rings are there, says where actors are, and how they have ended. Calls and answers go
through rings of this machine, and to other machines through links, with no need of Ray.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from ringcast import _core
from ringcast._extras import needed
from ringcast._names import PREFIX, suffix
from ringcast._registry import Registry
from ringcast.errors import ArgumentError, CallTimeoutError, RingcastError, WorkerDiedError
from ringcast.net._same_node import Offer
from ringcast.queue import MessageQueue
from ringcast.waiting import Wait
from ringcast.workers._actor import Actor, Place, Terms
from ringcast.workers._birth import RING_DEPTH
from ringcast.workers._failures import Failure, note, one_of, unpacked
from ringcast.workers._guests import CHUNK_BYTES, IN_HASTE_S, Guest, Guests, how_it_left
from ringcast.workers._starting import Patience

_ASKS_BYTES, _ASKS_DEPTH = 1 << 12, 4
_OTHERS_S = 0.05
_MOMENT_S = 0.002
_HOW_WITHIN_S = 0.7
"""So long Ray may take to say how an actor has ended whose ring has."""
_FOR_THE_KERNEL_S = 10.0


class ActorWorker(Guest):
    """One rank, from before its actor is made."""

    def __init__(self, rank: int) -> None:
        super().__init__(rank)
        self.actor: Any = None
        self.serving: Any = None
        self.ip: str | None = None
        """Of its machine, if that is another one than the group's."""
        self.left: tuple[float, RingcastError] | None = None
        """When its ring has ended, and with what."""
        self.unknown = ""
        """What Ray says that does not reach it; it may serve on."""


class RayCrew(Guests):
    """See the module."""

    def __init__(
        self,
        name: str,
        kind: Callable[..., Any],
        placement_group: Any,
        arguments: Callable[[int], list[tuple[Any, ...]]],
        kwargs: Mapping[str, Any],
        env: Mapping[str, str],
        actor_options: Mapping[str, Any],
        allow_callables: bool,
        max_bytes: int | None,
        wait: Wait,
        timeout: float | None,
    ) -> None:
        self._ray: Any = needed("ray", "WorkerGroup.on_ray")
        if not self._ray.is_initialized():
            raise ArgumentError("there is no Ray cluster yet: call ray.init() before")
        bundles = getattr(placement_group, "bundle_specs", None)
        if not isinstance(bundles, list) or not bundles:
            raise ArgumentError(f"placement_group must be one of Ray's, not {placement_group!r}")
        self._name = name
        self._group = placement_group
        self._bundles = bundles
        self._made_of = [(kind, args, dict(kwargs)) for args in arguments(len(bundles))]
        self._env = dict(env)
        self._options = dict(actor_options)
        label = f"WorkerGroup.on_ray({name}, {len(bundles)})"
        patience = Patience(timeout, label)
        workers = [ActorWorker(rank) for rank in range(len(bundles))]
        try:
            with Offer(len(workers)) as offer:
                for worker in workers:
                    self._make_actor(worker)
                places = self._all(
                    workers, [worker.actor.come.remote(offer.said, worker.rank) for worker in workers], patience,
                    "while its actor was started",
                )  # fmt: skip
                shares = offer.shares([place.answer for place in places])
            ip: str = self._ray.util.get_node_ip_address()
            local = [worker.rank for worker, shared in zip(workers, shares, strict=True) if shared]
            sent: dict[str, Any] = {
                "connect_ip": None if len(local) == len(workers) else ip, "on_reader_death": "evict", "wait": wait,
            }  # fmt: skip
            of = (len(workers), len(local), local)
            with ExitStack() as ends:
                ring = ends.enter_context(MessageQueue(*of, CHUNK_BYTES, RING_DEPTH, max_bytes=max_bytes, **sent))  # type: MessageQueue[Any]
                asks: MessageQueue[Any] = ends.enter_context(MessageQueue(*of, _ASKS_BYTES, _ASKS_DEPTH, **sent))
                super().__init__(label, ring, asks, workers, wait)
                self._terms = Terms(ring.export_handle(), asks.export_handle(), wait, allow_callables, max_bytes)
                self._wait = wait
                self._ending, self._has_ended = threading.RLock(), False
                ends.pop_all()
        except BaseException:
            for worker in workers:
                self._kill(worker)
            raise
        try:
            for worker, place, shared in zip(workers, places, shares, strict=True):
                _settle(worker, place, shared)
            self._join(workers, patience)
        except BaseException:
            self.end(0.0, "could not be started")
            raise
        self._thread.start()
        _crews.add(self)
        atexit.unregister(_end_all)
        atexit.register(_end_all)  # before Ray's own, which ends actors

    def respawn(self, rank: int, timeout: float | None) -> None:
        """A new actor in the bundle of one that has ended."""
        before, worker = self.worker(rank), ActorWorker(rank)
        patience = Patience(timeout, self.label, self._check_is_open)
        while not before.ended.is_set() or self.calls.deaths:  # or the new one would be told to be dead
            self._check_is_open()
            if not self._steps.take("taking answers", self.calls.look):
                time.sleep(_MOMENT_S)
        self._kill(before)
        try:
            with Offer(1) as offer:
                self._make_actor(worker)
                doing = "while its actor was started"
                (place,) = self._all([worker], [worker.actor.come.remote(offer.said, 0)], patience, doing)
                (shared,) = offer.shares([place.answer])
            if shared != (before.ip is None):
                raise ArgumentError(
                    f"{self.label}: rank {rank}'s bundle is on another machine now ({place.host}): make a new group"
                )
            _settle(worker, place, shared)
            self.workers[rank] = worker
            self._join([worker], patience)
            self._check_is_open()  # or nobody ends it
            with self.calls._sending:  # so that nobody sends to it who is not told of its end
                if not worker.ended.is_set():
                    del self.calls.dead[rank]
        except BaseException as error:
            if rank in self.calls.dead:
                worker.ended.set()
            else:
                self._died(rank, "was not brought back")
            self._kill(worker)
            if isinstance(error, Exception):
                self._check_is_open()
            raise

    def _check_is_open(self) -> None:
        if self.calls.closed is not None:
            raise self.calls.closed_error()

    def end(self, timeout: float, why: str) -> None:
        """Asks; then their processes end, as Ray ends them. Any number of times."""
        if self._pid != os.getpid():
            return
        self.calls.close(why)
        with self._ending:
            if not self._has_ended:
                self._end(timeout)
                self._has_ended = True

    def _end(self, timeout: float) -> None:
        _crews.discard(self)
        if timeout > 0:
            self._await_ends(timeout)
        for worker in self.workers:
            self._kill(worker)
        until = time.monotonic() + _FOR_THE_KERNEL_S
        while self._any_holds_its_seat() and time.monotonic() < until:
            time.sleep(0.002)  # Ray does not say when it has ended what it was told to
        self._let_go()
        _core.sweep(PREFIX, suffix(), dry_run=False)  # killed, they may not have got to tell of their rings

    def _make_actor(self, worker: ActorWorker) -> None:
        """Soon; it has all of its bundle, if nothing else is said."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        bundle = dict(self._bundles[worker.rank])
        taken: dict[str, Any] = {"num_cpus": bundle.pop("CPU", 0), "num_gpus": bundle.pop("GPU", 0)}
        if "memory" in bundle:
            taken["memory"] = bundle.pop("memory")
        options = {
            **taken, "resources": bundle, "max_restarts": 0, "max_task_retries": 0,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self._group, worker.rank), **self._options,
        }  # fmt: skip
        if self._env:
            environment = dict(options.get("runtime_env") or {})
            environment["env_vars"] = {**environment.get("env_vars", {}), **self._env}
            options["runtime_env"] = environment
        worker.actor = self._ray.remote(Actor).options(**options).remote(self._name, worker.rank)

    def _join(self, workers: Sequence[ActorWorker], patience: Patience) -> None:
        """From where they are known until they serve."""
        doing = "while it took its seats"
        self._all(workers, [worker.actor.join.remote(self._terms) for worker in workers], patience, doing)
        doing = "while its object was made"
        made = [worker.actor.make.remote(*self._made_of[worker.rank], worker.ip) for worker in workers]
        handles = self._all(workers, made, patience, doing)
        for worker, handle in zip(workers, handles, strict=True):
            end: MessageQueue[Any] = MessageQueue.create_from_handle(handle, 0, wait=self._wait)
            self.calls.rings.add(worker.rank, end)
            self._follow(worker, worker.actor.serve.remote())

    def _follow(self, worker: ActorWorker, ref: Any) -> None:
        """What Ray tells when it has ended."""
        worker.serving, rank = ref, worker.rank
        ref.future().add_done_callback(lambda _: self._news.put(rank))

    def _all(self, workers: Sequence[ActorWorker], refs: Sequence[Any], patience: Patience, doing: str) -> list[Any]:
        """What all of them return. Raises what they raise, all of it that is there at once."""
        ray = self._ray
        waiting = list(refs)
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1, timeout=patience.slice())
            errors = self._errors(workers, refs, ready, doing)
            if errors:
                more, _ = ray.wait(waiting, num_returns=len(waiting), timeout=_OTHERS_S) if waiting else ([], [])
                errors += self._errors(workers, refs, more, doing)
                raise one_of(errors, f"{patience.label}: the start")
            late = [worker.rank for worker, ref in zip(workers, refs, strict=True) if ref in waiting]
            if late and patience.over(late, doing):
                raise CallTimeoutError(patience.told(late, doing), tuple(late))
        found: list[Any] = ray.get(list(refs))
        return found

    def _errors(
        self, workers: Sequence[ActorWorker], refs: Sequence[Any], ready: Sequence[Any], doing: str
    ) -> list[BaseException]:
        errors: list[BaseException] = []
        for worker, ref in zip(workers, refs, strict=True):
            if ref not in ready:
                continue
            try:
                value = self._ray.get(ref)
                if isinstance(value, Failure):
                    errors.append(unpacked(value, worker.rank, doing))
            except self._ray.exceptions.RayActorError as error:
                died = WorkerDiedError(f"rank {worker.rank} (an actor of Ray's) {_how(error)}, {doing}")
                died.rank, died.pid = worker.rank, worker.pid or None
                died.__cause__ = error
                errors.append(died)
            except Exception as error:
                note(error, f"raised by rank {worker.rank} {doing}")
                errors.append(error)
        return errors

    def _any_holds_its_seat(self) -> bool:
        """Of this machine's: the only sign here that their processes live."""
        here = {worker.rank for worker in self.workers if worker.ip is None}
        return any(reader["alive"] and reader["rank"] in here for reader in self._ring.stats()["readers"])

    def _kill(self, worker: ActorWorker) -> None:
        if worker.actor is not None:
            with suppress(Exception):  # it, or Ray, is gone already
                self._ray.kill(worker.actor)

    # Deaths.

    def _left(self, rank: int, error: RingcastError) -> None:
        worker = self.worker(rank)
        if worker.left is None:
            worker.left = (time.monotonic(), error)

    def _look_at(self, worker: ActorWorker) -> None:
        if worker.left is not None and time.monotonic() - worker.left[0] > _HOW_WITHIN_S:
            self._ended(worker, how_it_left(worker.left[1]) + worker.unknown)
        if worker.serving is None and worker.unknown and not worker.ended.is_set():
            self._follow(worker, worker.actor.__ray_ready__.remote())  # it waits there for the end of what serves

    def _heard(self, rank: int) -> None:
        worker = self.worker(rank)
        if worker.serving is None or not self._ray.wait([worker.serving], timeout=0)[0]:
            return  # of the one before
        try:
            code = self._ray.get(worker.serving)
            code = code if isinstance(code, int) and not isinstance(code, bool) else None
        except self._ray.exceptions.ActorUnavailableError as error:
            worker.serving, worker.unknown = None, f" ({str(error).strip()})"
        except self._ray.exceptions.RayError as error:
            self._ended(worker, _how(error))
        else:
            self._ended(worker, "serves no more" if code is None else f"ended with exit code {code}", code)

    def _ended(self, worker: ActorWorker, how: str, exitcode: int | None = None) -> None:
        self._died(worker.rank, how, exitcode)
        with suppress(KeyError):
            self.calls.rings.of(worker.rank)._rouse()


def _settle(worker: ActorWorker, place: Place, shared: bool) -> None:
    worker.is_at(place.host, place.pid)
    worker.ip = None if shared else place.ip


def _how(error: Exception) -> str:
    """In Ray's words, without its advice."""
    text = str(error)
    _, found, reason = text.partition("The actor is dead because ")
    if not found:
        return f"has ended ({text.strip()})"
    reason = reason.partition(" Some common causes")[0].strip().rstrip(".")
    return f"has died, as Ray says because {reason}"


_crews: Registry[RayCrew] = Registry()


def _end_all() -> None:
    for crew in _crews.own():
        crew.end(IN_HASTE_S, "was closed when its process ended")
