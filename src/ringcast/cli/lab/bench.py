"""What a workload is given to measure with: how much to measure, the CPUs, a folder and unique names."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ringcast.cli.lab.crew import Role, run_crew
from ringcast.cli.lab.placement import Placement
from ringcast.cli.lab.subject import RUN_PREFIX, Payload, QueueSpec

#: Bytes of a small message, and slots of a queue that carries them: what figures and goals are stated for.
MESSAGE_BYTES = 64
DEPTH = 1024


@dataclass(frozen=True)
class Settings:
    """How much is measured. Each workload names counts and times of its own, for an `effort` of 1.

    A `brief` run leaves every other size out.
    """

    rounds: int
    effort: float = 1.0
    brief: bool = False
    timeout_seconds: float = 60.0

    def count(self, full: int) -> int:
        """So many, scaled."""
        return max(1, round(full * self.effort))

    def seconds(self, full: float) -> float:
        """So long, scaled."""
        return full * self.effort


@dataclass
class Bench:
    """One run. `floor` is the program that shows the machine's own speed, in runs that have one."""

    settings: Settings
    placement: Placement
    workdir: str
    floor: Any = None
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def spec(self, n_readers: int, depth: int, max_bytes: int, payload: Payload = "bytes") -> QueueSpec:
        """A queue of a name that no other queue of this machine has."""
        name = f"{RUN_PREFIX}{next(self._numbers)}"
        return QueueSpec(name, self.workdir, n_readers, depth, max_bytes, payload)

    def run(self, writer: Role, readers: Sequence[Role], placement: Placement | None = None) -> list[Any]:
        """Run a crew on this run's CPUs, placed as all are or as given."""
        return run_crew(writer, readers, placement or self.placement, self.settings.timeout_seconds)
