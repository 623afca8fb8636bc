"""What the scheduler's side tells the workers with each step, and what they tell it back. Plain data, which travels."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Handshake:
    """What a worker's pages are, told once, before the first request: all workers of an engine must have the same."""

    page_bytes: tuple[int, ...]
    cpu_isa: str | None
    form: str
    """Whatever else makes the bytes of a page mean what they do."""


@dataclass(frozen=True)
class Load:
    """Chunks of the pool, to be copied into a request's blocks."""

    request: str
    token: bytes
    blocks: list[int]


@dataclass(frozen=True)
class Store:
    """Blocks, to be copied into chunks of the pool; `blocks[i]` is for the token's key i, if that was reserved."""

    number: int
    token: bytes
    blocks: list[int]


@dataclass
class Plan:
    """A step's."""

    loads: list[Load] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)


@dataclass
class Report:
    """What has come of it since the last one."""

    failed_loads: set[str] = field(default_factory=set)
    """Requests, some of whose blocks hold nothing of use."""
    stored: dict[int, int] = field(default_factory=dict)
    """How many workers have committed their part of that store."""
    not_stored: dict[int, int] = field(default_factory=dict)
    """How many have not, and will not."""

    def aggregate(self, other: Report) -> Report:
        """Of several workers together."""
        self.failed_loads |= other.failed_loads
        for mine, theirs in ((self.stored, other.stored), (self.not_stored, other.not_stored)):
            for number, count in theirs.items():
                mine[number] = mine.get(number, 0) + count
        return self

    def __bool__(self) -> bool:
        return bool(self.failed_loads or self.stored or self.not_stored)
