"""Percentiles, and what one measurement gives.

Latencies are kept in HDR histograms (three significant digits, 1 ns to a minute), so that tails cost no memory and
can be pooled over rounds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from hdrh.histogram import HdrHistogram

_HIGHEST_NS = 60 * 1_000_000_000
_DIGITS = 3


def histogram(values_ns: Iterable[int] = ()) -> HdrHistogram:
    """A histogram of latencies in nanoseconds."""
    made = HdrHistogram(1, _HIGHEST_NS, _DIGITS)
    for value in values_ns:
        made.record_value(min(max(1, value), _HIGHEST_NS))
    return made


def percentile(of: HdrHistogram, percent: float) -> float:
    """The value in nanoseconds that ``percent`` of those in the histogram do not exceed."""
    return float(of.get_value_at_percentile(percent))


@dataclass(frozen=True)
class Metric:
    """One figure of a workload.

    With ``pooled``, it is that percentile of all rounds' samples together: tails need all the samples there are.
    Otherwise it is the median of the rounds' values.
    """

    key: str
    title: str
    unit: str
    better: Literal["lower", "higher"] = "lower"
    pooled: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What one measurement gave: figures by metric key, and single latencies where they are kept."""

    values: dict[str, float]
    samples_ns: list[int] = field(default_factory=list)


@dataclass
class Series:
    """One subject's outcomes of one case of one workload, over the rounds."""

    rounds: list[dict[str, float]] = field(default_factory=list)
    pool: HdrHistogram = field(default_factory=histogram)
    errors: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Take in one round."""
        self.rounds.append(outcome.values)
        for value in outcome.samples_ns:
            self.pool.record_value(min(max(1, value), _HIGHEST_NS))

    def value(self, metric: Metric) -> float | None:
        """The figure to report, None if there is none."""
        if metric.pooled is not None and self.pool.get_total_count() > 0:
            return percentile(self.pool, metric.pooled)
        values = self.each(metric)
        return median(values) if values else None

    def each(self, metric: Metric) -> list[float]:
        """The rounds' own values."""
        return [each[metric.key] for each in self.rounds if metric.key in each]
