"""What the processes of a scenario tell each other without waiting: words of shared memory, which outlive them.

Each word has one writer at a time, and is stored after what it says has happened.
"""

from __future__ import annotations

import mmap
from typing import Any

_WORDS = ("attempted", "sent", "evicted", "gone", "writer_over")


class Board:
    """Anonymous shared memory, made before the fork. `evicted` and `gone` are bit masks of ranks."""

    attempted: int
    """Messages whose enqueue has begun."""
    sent: int
    """Messages whose enqueue has returned."""
    evicted: int
    """Ranks that the writer has evicted, or is about to."""
    gone: int
    """Ranks that have ended and will not come again."""
    writer_over: int
    """1 once the writer's process has ended."""

    def __init__(self) -> None:
        object.__setattr__(self, "_words", memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q"))

    def __getattr__(self, name: str) -> Any:
        if name not in _WORDS:
            raise AttributeError(name)
        return self.__dict__["_words"][_WORDS.index(name)]

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__["_words"][_WORDS.index(name)] = value
