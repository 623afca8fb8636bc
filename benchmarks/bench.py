"""What a workload is given to measure with: the settings, the CPUs, a folder, unique names and the floor program."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .crew import Role, run_crew
from .floor import Floor
from .peers.base import RUN_PREFIX, Payload, QueueSpec
from .placement import Placement
from .settings import Settings


@dataclass
class Bench:
    """One run of the benchmark. ``floor`` is None where the floor program could not be built."""

    settings: Settings
    placement: Placement
    workdir: str
    floor: Floor | None
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _rates: dict[tuple[str, ...], float] = field(default_factory=dict)

    def spec(self, n_readers: int, depth: int, max_bytes: int, payload: Payload = "bytes") -> QueueSpec:
        """A queue of a name that no other queue of this machine has."""
        name = f"{RUN_PREFIX}{next(self._numbers)}"
        return QueueSpec(name, self.workdir, n_readers, depth, max_bytes, payload)

    def run(self, writer: Role, readers: Sequence[Role], placement: Placement | None = None) -> list[Any]:
        """Run a crew on this run's CPUs, placed as all are or as given."""
        return run_crew(writer, readers, placement or self.placement, self.settings.timeout_seconds)

    def messages_for(self, *who: str) -> int:
        """How many messages fill the time of a rate measurement, by the rate this subject had before."""
        rate = self._rates.get(who)
        if rate is None:
            return self.settings.rate_first_messages
        wanted = int(rate * self.settings.rate_seconds)
        return min(max(wanted, self.settings.fewest_messages), self.settings.most_messages)

    def remember_rate(self, rate: float, *who: str) -> None:
        """Keep a measured rate for the next `messages_for`."""
        self._rates[who] = rate
