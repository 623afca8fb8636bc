"""What a run found: every series by workload, case and subject, and the questions reports ask of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from ringcast.cli.lab.measure import Metric, Series
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case, Workload

#: The name under which the native floor's series are kept.
FLOOR = "native"
SCHEMA = "ringcast-bench/1"


@dataclass
class Results:
    """One run. `missing` names each library that could not be measured, with the reason."""

    workloads: list[tuple[Workload, tuple[Case, ...]]]
    subjects: list[Subject]
    missing: dict[str, str]
    facts: dict[str, Any]
    series: dict[tuple[str, str, str], Series] = field(default_factory=dict)
    rounds_done: int = 0

    def of(self, workload: str, case: str, subject: str) -> Series:
        """The series of one subject, made empty if there is none."""
        return self.series.setdefault((workload, case, subject), Series())

    def value(self, workload: Workload, case: Case, subject: str, metric: Metric) -> float | None:
        """A figure, or None."""
        found = self.series.get((workload.key, case.key, subject))
        return found.value(metric) if found is not None else None

    def ratio(
        self,
        workload: Workload,
        case: Case,
        subject: str,
        base: str,
        metric: Metric,
        base_case: Case | None = None,
        limit: Callable[[float], float] = float,
    ) -> float | None:
        """How many times the base's figure a subject's is: the median of the rounds' ratios.

        What disturbs a machine for a while disturbs both figures of a round, and leaves their ratio alone. Where a
        round of either is missing, the ratio of the reported figures. The base's figure is of `base_case`, if given;
        with `limit` the ratio is to what that makes of it.
        """
        ours = self.series.get((workload.key, case.key, subject))
        theirs = self.series.get((workload.key, (base_case or case).key, base))
        if ours is None or theirs is None:
            return None
        pairs = list(zip(ours.each(metric), theirs.each(metric), strict=False))
        if len(pairs) == len(ours.rounds) == len(theirs.rounds) and pairs and all(below for _, below in pairs):
            return median(above / limit(below) for above, below in pairs)
        value, below = ours.value(metric), theirs.value(metric)
        return value / limit(below) if value is not None and below else None

    def best_peer(self, workload: Workload, case: Case, metric: Metric) -> str | None:
        """The key of the peer with the best figure."""
        figures = {
            subject.key: value
            for subject in self.subjects
            if subject.standing == "peer" and (value := self.value(workload, case, subject.key, metric)) is not None
        }
        if not figures:
            return None
        choose = max if metric.better == "higher" else min
        return choose(figures, key=lambda name: figures[name])

    def workload(self, key: str) -> tuple[Workload, tuple[Case, ...]] | None:
        """A workload of this run and its cases."""
        return next((pair for pair in self.workloads if pair[0].key == key), None)

    def as_json(self) -> dict[str, Any]:
        """Everything, with each round's values beside what is reported; benchmarks/README.md says what is what."""
        facts = dict(self.facts)
        versions, settings = facts.pop("versions"), facts.pop("settings")
        return {
            "schema": SCHEMA,
            "machine": facts,
            "versions": versions,
            "settings": settings,
            "rounds": self.rounds_done,
            "missing": self.missing,
            "subjects": {each.key: {"label": each.label, "standing": each.standing} for each in self.subjects},
            "workloads": {workload.key: self._workload_json(workload, cases) for workload, cases in self.workloads},
        }

    def _workload_json(self, workload: Workload, cases: tuple[Case, ...]) -> dict[str, Any]:
        return {
            "title": workload.title,
            "explain": workload.explain,
            "floor": workload.floor_label,
            "metrics": {each.key: asdict(each) for each in workload.metrics},
            "cases": {case.key or "all": asdict(case) | {"rows": self._rows_json(workload, case)} for case in cases},
        }

    def _rows_json(self, workload: Workload, case: Case) -> dict[str, Any]:
        rows: dict[str, Any] = {}
        for subject in (FLOOR, *(subject.key for subject in self.subjects)):
            found = self.series.get((workload.key, case.key, subject))
            if found is None:
                continue
            row: dict[str, Any] = {metric.key: found.value(metric) for metric in workload.metrics}
            row["rounds"] = found.rounds
            if found.pool:
                row["samples"] = len(found.pool)
            if found.errors:
                row["errors"] = found.errors
            rows[subject] = row
        return rows
