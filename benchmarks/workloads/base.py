"""What a workload is: a question, its cases, its figures, and how to ask one subject."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from ..bench import Bench
from ..measure import Metric, Outcome
from ..peers.base import Receiver, Sender, Subject
from ..settings import Settings


class CheckError(AssertionError):
    """A message was lost, repeated, out of order or changed."""


@dataclass(frozen=True)
class Case:
    """One variant of a workload, such as a number of readers. A workload without variants has one with no title."""

    key: str = ""
    title: str = ""
    n_readers: int = 1


class Workload(ABC):
    """See the module. The first metric is the headline; goals, ratios and plots use it."""

    key: ClassVar[str]
    title: ClassVar[str]
    explain: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    floor_label: ClassVar[str] = "native floor"
    #: Whether a first round that does not count is needed, to find out how much to send.
    needs_trial: ClassVar[bool] = False
    #: False for what only the floor program does.
    has_subjects: ClassVar[bool] = True

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """The variants to measure."""
        return (Case(),)

    @abstractmethod
    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Measure one subject once."""

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """Measure the floor once; None if this workload has none."""
        return None


def settle(*ends: Sender | Receiver) -> None:
    """Wait until these ends are ready, as far as their library has that notion."""
    for end in ends:
        if end.ready is not None:
            end.ready()


def check(held: bool, what: str) -> None:
    """Raise `CheckError` unless ``held``."""
    if not held:
        raise CheckError(what)
