"""Metrics for prometheus_client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ringcast.metrics._metrics import METRICS
from ringcast.metrics._source import End, Source


class RingcastCollector(Collector):
    """All metrics of this user's queues, links, worker groups and pools, and of the `ends` of this process.

    Each collection looks once: that takes no seat and holds nobody up. `glance` in between, as often as you like, makes
    the times of waits more precise; `ringcast exporter` does so every second.

    >>> from prometheus_client import CollectorRegistry
    >>> from ringcast import MessageQueue
    >>> registry, queue = CollectorRegistry(), MessageQueue(1, name="docs-metrics")
    >>> registry.register(RingcastCollector([queue]))
    >>> queue.enqueue("something")
    >>> registry.get_sample_value("ringcast_queue_messages_total", {"queue": "docs-metrics"})
    1.0
    """

    def __init__(self, ends: Sequence[End] = ()) -> None:
        self._source = Source(ends)

    def describe(self) -> Iterator[Metric]:
        """The names, without looking.

        >>> len(list(RingcastCollector().describe())) == len(METRICS)
        True
        """
        for metric in METRICS:
            family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            yield family(metric.prometheus_name, metric.help, labels=metric.labels)

    def collect(self) -> Iterator[Metric]:
        """Looks. Raises SystemCallError only if the segments cannot be listed.

        >>> [family.name for family in RingcastCollector().collect()][:1]
        ['ringcast_queues']
        """
        for metric, values in self._source.samples():
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(metric.prometheus_name, metric.help, labels=metric.labels)
            for labels, value in values.items():
                family.add_metric(labels, float(value))
            yield family

    def glance(self) -> None:
        """Sees who sleeps for what now: some microseconds for each queue. Raises nothing.

        >>> RingcastCollector().glance()
        """
        self._source.glance()
