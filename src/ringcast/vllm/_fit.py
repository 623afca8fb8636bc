"""Does this release of vLLM call its queue as ours can be called? Asked of the class itself, not of a version number.

The table in docs/vllm.md says of which releases it is known.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

_CALLED = (
    "__init__", "export_handle", "create_from_handle", "wait_until_ready", "enqueue", "dequeue", "broadcast_object",
    "shutdown", "create_from_process_group", "create_from_process_group_single_reader",
)  # fmt: skip
"""What vLLM calls from outside of the class."""

_INSIDE = frozenset({"acquire_write", "acquire_read", "recv", "ReadTimeoutWithWarnings"})
"""What only the class itself calls: ours need not have the same."""


def misfits(stock: type, ours: type) -> list[str]:
    """What vLLM's class `stock` offers that `ours` does not, in words; nothing if ours can be in its place."""
    found = [difference for name in _CALLED for difference in _differences(name, stock, ours)]
    new = sorted(name for name in vars(stock) if not name.startswith("_") and name not in {*_CALLED, *_INSIDE})
    return found + [f"{name} is new" for name in new]


def _differences(name: str, stock: type, ours: type) -> Iterator[str]:
    call = getattr(stock, name, None)
    if not callable(call):
        yield f"{name} is gone"
        return
    theirs, own = _parameters(call), _parameters(getattr(ours, name))
    for position, (parameter, offered) in enumerate(zip(theirs, own, strict=False)):
        same = (parameter.name, parameter.kind) == (offered.name, offered.kind)
        if not same or (parameter.default != offered.default and parameter.default is not parameter.empty):
            yield f"{name} has {parameter} as parameter {position}, not {offered}"
            return
    for extra in theirs[len(own) :]:
        yield f"{name} has a new parameter {extra}"
    for missing in own[len(theirs) :]:
        if missing.default is missing.empty:
            yield f"{name} has no parameter {missing}"


def _parameters(call: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = inspect.signature(call).parameters.values()
    return [one.replace(annotation=one.empty) for one in parameters]
