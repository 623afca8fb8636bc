"""What a workload is: a question, its cases, its figures, and how to ask one subject."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ringcast.cli.lab.bench import Bench, Settings
from ringcast.cli.lab.measure import Metric, Outcome
from ringcast.cli.lab.subject import Receiver, Sender, Subject


class CheckError(AssertionError):
    """A message was lost, repeated, out of order or changed."""


@dataclass(frozen=True)
class Case:
    """One variant of a workload, such as a number of readers. A workload without variants has one with no title.

    A workload with variants in two directions gives each a `group`: a table and a panel of its own. `nbytes` is the
    size of a message where it varies.
    """

    key: str = ""
    title: str = ""
    n_readers: int = 1
    group: str = ""
    nbytes: int = 0

    @property
    def full_title(self) -> str:
        """The title with the group's."""
        return ", ".join(filter(None, (self.title, self.group)))


class Workload(ABC):
    """See the module. The first metric is the headline; goals, ratios and plots use it."""

    key: ClassVar[str]
    title: ClassVar[str]
    explain: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    floor_label: ClassVar[str] = "native floor"
    #: Whether the floor needs no floor program.
    floor_in_python: ClassVar[bool] = False
    #: False for what only the floor program does.
    has_subjects: ClassVar[bool] = True
    #: True for what no peer has.
    ringcast_only: ClassVar[bool] = False

    def __init__(self, readers: Sequence[int] = (1,)) -> None:
        """To be measured with so many readers each."""
        self._readers = readers

    def lacking(self) -> str:
        """Why this workload cannot be measured here at all; empty if it can."""
        return ""

    def takes(self, subject: Subject) -> bool:
        """Whether a subject takes part."""
        if not self.has_subjects or (self.ringcast_only and subject.module != "ringcast"):
            return False
        return self.key not in subject.unfit and (not subject.only or self.key in subject.only)

    def covers(self, subject: Subject, case: Case) -> bool:
        """Whether a subject that takes part is measured in this case."""
        return True

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """The variants to measure."""
        if len(self._readers) == 1:
            return (Case(n_readers=self._readers[0]),)
        return tuple(Case(f"{n}", f"{n} reader{'s' if n > 1 else ''}", n) for n in self._readers)

    @abstractmethod
    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Measure one subject once."""

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """Measure the floor once; None if this workload has none."""
        return None


def grouped(cases: Sequence[Case]) -> list[tuple[Case, ...]]:
    """The cases of each group together, in order."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    return [tuple(group) for group in groups.values()]


def settle(*ends: Sender | Receiver) -> None:
    """Wait until these ends are ready, as far as their library has that notion."""
    for end in ends:
        if end.ready is not None:
            end.ready()


def check(held: bool, what: str) -> None:
    """Raise `CheckError` unless `held`."""
    if not held:
        raise CheckError(what)
