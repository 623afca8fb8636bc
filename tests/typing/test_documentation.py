"""Whoever asks Python for help gets it: every public call has a signature and a documentation, whose examples run."""

from __future__ import annotations

import doctest
import inspect
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ringcast
from ringcast import MessageQueue, WorkerGroup, _core, errors, instruments, metrics, pool, vllm, workers

OURS = "ringcast"
SHORT_CLASSES = (ringcast.QueueInfo, ringcast.QueueStats, ringcast.Handle)
"""Records: they have fields instead of calls."""


NATIVE_CLASSES = (pool.Keys, pool.RetrieveLease, pool.StoreLease, pool.Slot)
"""Python knows no signature of these; their documentation shows how one is made."""


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """(name, object) of all that a module offers, and of the public members that its classes have from us."""
    for name in getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]:
        offered = getattr(module, name)
        if not str(getattr(offered, "__module__", None)).startswith(OURS):
            continue
        yield f"{module.__name__}.{name}", offered
        if not inspect.isclass(offered) or issubclass(offered, BaseException | dict | tuple):
            continue
        for member in dir(offered):
            if not member.startswith("_") and not hasattr(object, member):
                yield f"{module.__name__}.{name}.{member}", inspect.getattr_static(offered, member)


def callables() -> list[Any]:
    found = []
    for name, offered in (
        *public(ringcast),
        *public(instruments),
        *public(metrics),
        *public(workers),
        *public(pool),
        *public(vllm),
    ):
        of = offered.__func__ if isinstance(offered, classmethod) else offered
        if callable(of) and not (inspect.isclass(of) and issubclass(of, dict | tuple | BaseException)):
            found.append(pytest.param(of, id=name))
    return found


def everything() -> list[Any]:
    found = [
        pytest.param(offered, id=name)
        for module in (ringcast, instruments, metrics, workers, pool, vllm, errors)
        for name, offered in public(module)
    ]
    assert len(found) > 60
    return found


@pytest.mark.parametrize("offered", everything())
def test_everything_public_is_documented(offered: Any) -> None:
    if isinstance(offered, str | int):
        return
    assert inspect.getdoc(offered)


@pytest.mark.parametrize("offered", callables())
def test_every_public_call_shows_its_signature(offered: Any) -> None:
    if offered in NATIVE_CLASSES:
        return
    signature = inspect.signature(offered)
    if not getattr(offered, "__module__", "").startswith("ringcast.workers"):  # whose calls pass anything on
        assert not any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values())


@pytest.mark.parametrize("offered", callables())
def test_the_examples_of_every_public_call_run(
    offered: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # whose old ones pytest removes
    name = getattr(offered, "__qualname__", repr(offered))
    said: list[str] = []
    with ExitStack() as stack:
        queue = stack.enter_context(MessageQueue(n_reader=1))
        reader = stack.enter_context(MessageQueue.create_from_handle(queue.export_handle(), 0))
        ends: dict[str, Any] = {"queue": queue, "reader": reader}
        if name.startswith(("WorkerGroup.", "Member.")):
            ends["group"] = stack.enter_context(WorkerGroup(dict, 2, args=([("step", 1)],)))
        if name.startswith(("PoolClient.", "RetrieveLease", "StoreLease", "Slot")):
            space = pool.Namespace("m", dtype="uint8", layout="bytes")
            ends["keys"] = pool.keys_from_hashes([b"hash 0", b"hash 1"], space)
            stack.enter_context(pool.PoolServer("docs", "1MiB"))
            ends["client"] = stack.enter_context(pool.PoolClient.connect("docs", layout=4096))
            with ends["client"].store(ends["keys"]) as lease:
                for slot in lease.slots:
                    slot.array[:] = 7
        if name.startswith("MooncakeTier"):
            ends["master"] = request.getfixturevalue("mooncake").address
        offers = {name: getattr(module, name) for module in (ringcast, metrics) for name in module.__all__}
        names = {**offers, **vars(instruments), **vars(pool), **vars(errors), **vars(vllm), **ends}
        examples = doctest.DocTestParser().get_doctest(inspect.getdoc(offered) or "", names, name, None, None)
        assert examples.examples, f"{name} shows no example"
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples, out=said.append)
    assert "".join(said) == ""


HOT = ["enqueue", "try_enqueue", "enqueue_many", "dequeue", "try_dequeue", "dequeue_many", "qsize", "evict"]


@pytest.mark.parametrize("name", HOT)
def test_a_declared_native_call_is_the_native_one_and_has_the_declared_signature(name: str) -> None:
    native = vars(MessageQueue)[name]
    assert native is vars(_core.End)[name]
    source = inspect.getsource(ringcast.queue)
    declared: dict[str, Any] = {}
    exec(compile(source.replace("@native", ""), "declared", "exec"), declared)
    of = inspect.signature(vars(declared["MessageQueue"])[name])
    assert [(p.name, p.kind, p.default) for p in inspect.signature(native).parameters.values()] == [
        (p.name, p.kind if p.name != "self" else inspect.Parameter.POSITIONAL_ONLY, p.default)
        for p in of.parameters.values()
    ]
