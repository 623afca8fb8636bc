"""Percentiles, and what one measurement gives.

Single latencies of all rounds are pooled for the tails, because a tail needs all the samples that there are. A tail of
p99 or beyond is a figure only from `TAIL_SAMPLES` samples on, `_BEYOND` of them beyond it: of a thousand, ten would
decide what p99 is.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

TAIL = 99.0
TAIL_SAMPLES = 10_000
_BEYOND = 50


def percentile(values: Iterable[int], percent: float) -> float:
    """The value that `percent` of them do not exceed. There must be one at least."""
    return _of_sorted(sorted(values), percent)


def _of_sorted(ordered: Sequence[int], percent: float) -> float:
    return float(ordered[max(0, math.ceil(round(percent * len(ordered) / 100, 6)) - 1)])


@dataclass(frozen=True)
class Metric:
    """One figure of a workload.

    With `pooled`, it is that percentile of all rounds' samples together. Otherwise it is the median of the rounds'
    values.
    """

    key: str
    title: str
    unit: str
    better: Literal["lower", "higher"] = "lower"
    pooled: float | None = None

    def carried_by(self, samples: int) -> bool:
        """Whether so many samples are enough for this percentile."""
        if self.pooled is None or self.pooled < TAIL:
            return samples > 0
        return samples >= TAIL_SAMPLES and round(samples * (100 - self.pooled) / 100, 6) >= _BEYOND


P50 = Metric("p50", "p50", "ns")
P90 = Metric("p90", "p90", "ns", pooled=90.0)
P99 = Metric("p99", "p99", "ns", pooled=99.0)
P99_9 = Metric("p99_9", "p99.9", "ns", pooled=99.9)


@dataclass(frozen=True)
class Outcome:
    """What one measurement gave: figures by metric key, and single latencies where they are kept."""

    values: dict[str, float]
    samples_ns: list[int] = field(default_factory=list)


def latencies(samples_ns: list[int], p50: float | None = None, **other: float) -> Outcome:
    """The outcome of a workload about latencies; `p50` where that was found in a better way."""
    values = {P50.key: percentile(samples_ns, 50.0) if p50 is None else p50, **other}
    if P99.carried_by(len(samples_ns)):
        values[P99.key] = percentile(samples_ns, 99.0)
    return Outcome(values, samples_ns)


@dataclass
class Series:
    """One subject's outcomes of one case of one workload, over the rounds."""

    rounds: list[dict[str, float]] = field(default_factory=list)
    pool: array[int] = field(default_factory=lambda: array("q"))
    errors: list[str] = field(default_factory=list)
    _ordered: list[int] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Take in one round."""
        self.rounds.append(outcome.values)
        self.pool.extend(outcome.samples_ns)

    def value(self, metric: Metric) -> float | None:
        """The figure to report, None if there is none, or too few samples for it."""
        if metric.pooled is not None and self.pool:
            return self._pooled(metric, metric.pooled)
        values = self.each(metric)
        return median(values) if values else None

    def each(self, metric: Metric) -> list[float]:
        """The rounds' own values."""
        return [each[metric.key] for each in self.rounds if metric.key in each]

    def _pooled(self, metric: Metric, percent: float) -> float | None:
        if not metric.carried_by(len(self.pool)):
            return None
        if len(self._ordered) != len(self.pool):
            self._ordered = sorted(self.pool)
        return _of_sorted(self._ordered, percent)
