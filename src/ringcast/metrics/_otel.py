"""Metrics for OpenTelemetry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from ringcast.metrics._metrics import METRICS, Metric
from ringcast.metrics._source import End, Source

_FRESH_S = 0.2
"""The callbacks of one collection share a look."""


def instrument(meter: Meter, ends: Sequence[End] = ()) -> None:
    """Make an observable instrument of `meter` for each metric of METRICS, also of the `ends` of this process.

    Units are "By", "s" and "1", attributes the labels. What looks is the metric reader that collects; that takes no
    seat and holds nobody up.

    >>> from opentelemetry.sdk.metrics import MeterProvider
    >>> from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    >>> reader = InMemoryMetricReader()
    >>> instrument(MeterProvider([reader]).get_meter("docs"))
    >>> found = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    >>> [metric.unit for metric in found if metric.name == "ringcast.queues"]
    ['1']
    """
    source = Source(ends, _FRESH_S)
    for metric in METRICS:
        make = meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_gauge
        make(metric.name, [_callback(source, metric)], metric.otel_unit, metric.help)


def _callback(source: Source, wanted: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(options: CallbackOptions) -> Iterable[Observation]:
        for metric, values in source.samples():
            if metric is wanted:
                for labels, value in values.items():
                    yield Observation(value, dict(zip(metric.labels, labels, strict=True)))

    return observe
