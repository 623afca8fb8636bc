"""How a server tells that it is still taking its memory, which lasts minutes where that is hundreds of GiB."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Literal, TypeAlias

Stage: TypeAlias = Literal["reserving", "prefaulting"]
OnProgress: TypeAlias = Callable[[Stage, int, int], object]
"""What is called with the stage, and with how many bytes of how many are done."""

FIRST_LINE_AFTER_S = 1.0
NEXT_LINE_AFTER_S = 5.0


class Lines:
    """Says how far a stage has come, in a line, now and then: nothing of what takes a second or less.

    Args:
        name: the pool's.
        say: what is called with each line.
    """

    def __init__(self, name: str, say: Callable[[str], object]) -> None:
        self._name = name
        self._say = say
        self._stage: Stage | None = None
        self._begun = self._next = 0.0

    def __call__(self, stage: Stage, done: int, total: int) -> None:
        now = monotonic()
        if stage != self._stage:
            self._stage, self._begun, self._next = stage, now, now + FIRST_LINE_AFTER_S
        said_before = self._next > self._begun + FIRST_LINE_AFTER_S
        if now < self._next and not (said_before and done == total):
            return
        self._next = now + NEXT_LINE_AFTER_S
        self._say(
            f"pool '{self._name}': {stage} memory, {done / 2**30:.1f} of {total / 2**30:.1f} GiB "
            f"after {now - self._begun:.0f} s"
        )
