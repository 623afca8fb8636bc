"""What a group is given, as its user says it: checked here, so that the error comes at once and says what is meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from ringcast import _arguments
from ringcast.errors import ArgumentError


def name_of(kind: Any) -> str:
    """Of a class, or whatever makes objects."""
    return str(getattr(kind, "__qualname__", type(kind).__qualname__))


def sequence(given: Any, what: str = "args") -> tuple[Any, ...]:
    """Also what a generator makes; but a set has no order, and of a dict or a text hardly anybody means the items."""
    try:
        items = None if isinstance(given, str | bytes | bytearray | Mapping | Set) else iter(given)
    except TypeError:
        items = None
    if items is None:
        raise _arguments.refuse(what, "a sequence", given)
    return tuple(items)


def keywords(kwargs: Any) -> dict[str, Any]:
    """Of the user's class."""
    if kwargs is None:
        return {}
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise _arguments.refuse("kwargs", "a dict from names to arguments", kwargs)
    return dict(kwargs)


def environment(env: Any) -> dict[str, str]:
    """What the system takes as such: it would say so too late, and not of which variable."""
    if env is None:
        return {}
    if not isinstance(env, Mapping):
        raise _arguments.refuse("env", "a dict from names of variables to text", env)
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise _arguments.refuse("env", "a dict from names of variables to text", {name: value})
        if not name or "=" in name or "\0" in name + value:
            raise ArgumentError(f"env: no environment has a variable {name!r} with the value {value!r}")
    return dict(env)


def refuse_ours(kwargs: dict[str, Any], name: str, why: str) -> None:
    """A keyword that elsewhere is the call's is never the method's own, so that nobody takes the one for the other."""
    if name in kwargs:
        raise ArgumentError(f"{name}={kwargs[name]!r}: {why}, and no method has an argument of this name")


def each_with_own(common: tuple[Any, ...], rank_args: Sequence[Sequence[Any]] | None, n: int) -> list[tuple[Any, ...]]:
    """The arguments of each rank."""
    if rank_args is None:
        return [common] * n
    own = [sequence(one, "each of rank_args") for one in sequence(rank_args, "rank_args")]
    if len(own) != n:
        raise ArgumentError(f"rank_args must have one sequence of arguments for each of {n} ranks, not {len(own)}")
    return [(*common, *one) for one in own]
