"""Metrics: what they say of real queues, that names and units are as they should be, and that labels stay few."""

from __future__ import annotations

import itertools
import json
import re
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")
pytest.importorskip("opentelemetry.sdk.metrics")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ringcast import MessageQueue
from ringcast.errors import QueueClosedError
from ringcast.instruments import Observer, Overview
from ringcast.metrics import METRICS, RingcastCollector, _source, instrument
from ringcast.pool import PoolServer
from tests.interrupts import Interrupt
from tests.support import ROOT, broadcast, run_python, unique_name, until_asleep

NAMES = {metric.prometheus_name for metric in METRICS}


def registered(ends: Any = ()) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(RingcastCollector(ends))
    return registry


def test_a_queue_is_told_by_its_name_and_its_readers_by_their_ranks() -> None:
    name = unique_name("metrics")
    with MessageQueue(2, name=name) as writer, MessageQueue.attach(name, 0) as first, MessageQueue.attach(name, 1):
        writer.enqueue_many([b"x" * 50] * 3)
        first.dequeue(1)
        registry = registered()

        def value(metric: str, **labels: str) -> float | None:
            return registry.get_sample_value(metric, {"queue": name, **labels})

        assert value("ringcast_queue_messages_total") == 3
        assert (value("ringcast_queue_published_bytes_total") or 0) >= 150
        assert value("ringcast_queue_queued_messages") == 3
        assert value("ringcast_queue_reader_behind_messages", rank="0") == 2
        assert value("ringcast_queue_reader_messages_total", rank="0") == 1
        assert value("ringcast_queue_readers", state="active") == 2
        assert value("ringcast_queue_writer_up") == 1
        assert value("ringcast_queue_lost_wakeups_total") == 0
        assert (value("ringcast_queue_memory_bytes", part="ring") or 0) > 4096
        assert value("ringcast_queue_blocked", cause="room") == 0


def test_what_an_end_of_this_process_knows_is_told() -> None:
    name = unique_name("metrics")
    with MessageQueue(1, name=name) as writer, MessageQueue.attach(name, 0) as reader:
        registry = registered([writer, reader])
        writer.enqueue(b"x")
        reader.dequeue(1)
        labels = {"queue": name, "role": "reader", "rank": "0"}
        assert registry.get_sample_value("ringcast_end_messages_total", labels) == 1
        assert registry.get_sample_value("ringcast_end_rescued_wakes_total", labels) == 0
        assert registry.get_sample_value("ringcast_end_waits_total", {**labels, "how": "parked"}) == 0
        reader.close()
        assert registry.get_sample_value("ringcast_queue_messages_total", {"queue": name}) == 1


def test_waits_are_told_of_every_end_and_of_none_twice() -> None:
    name = unique_name("metrics")
    with MessageQueue(1, name=name) as writer, MessageQueue.attach(name, 0, wait="park") as reader:
        until_asleep(reader.dequeue, reader)
        parks = reader.stats()["parks"]
        assert parks > 0
        for ends in ([], [reader], [writer, reader]):
            registry = registered(ends)

            def value(metric: str, role: str, rank: str = "", of: Any = registry, **more: str) -> float | None:
                found: float | None = of.get_sample_value(metric, {"queue": name, "role": role, "rank": rank, **more})
                return found

            assert value("ringcast_end_parks_total", "reader", "0") == parks
            assert value("ringcast_end_rescued_wakes_total", "reader", "0") == 0
            assert value("ringcast_end_waits_total", "reader", "0", how="parked") == 0
            assert value("ringcast_end_parks_total", "writer") == 0
            assert (value("ringcast_end_messages_total", "reader", "0") is None) == (reader not in ends)


def test_waits_of_queues_without_a_name_are_summed_and_never_fewer_and_none_twice() -> None:
    given: list[MessageQueue] = []
    registry = registered(given)

    def parks() -> float:
        labels = {"queue": "", "role": "reader", "rank": ""}
        return registry.get_sample_value("ringcast_end_parks_total", labels) or 0.0

    def park(queue: MessageQueue) -> int:
        return until_asleep(queue.dequeue, queue)

    before = parks()
    with broadcast(2, wait="park") as (writer, readers):
        slept = sum(park(one) for one in readers)
        assert parks() == before + slept > before
        given.extend([writer, *readers])
        assert parks() == before + slept
        readers[0].close()
        assert parks() == before + slept
        with MessageQueue.create_from_handle(writer.export_handle(), 0, wait="park") as again:
            assert parks() == before + slept
            slept += park(again)
            assert parks() == before + slept
    assert parks() == before + slept


def test_what_an_end_counts_is_told_also_when_its_queue_s_name_is_gone() -> None:
    name = unique_name("metrics")
    writer = MessageQueue(1, name=name)
    with MessageQueue.attach(name, 0, wait="park") as reader:
        until_asleep(reader.dequeue, reader)
        writer.close()
        registry = registered([reader])
        assert registry.get_sample_value("ringcast_queue_messages_total", {"queue": name}) is None
        labels = {"queue": name, "role": "reader", "rank": "0"}
        assert registry.get_sample_value("ringcast_end_parks_total", labels) == reader.stats()["parks"] > 0


def test_queues_without_a_name_are_counted_together_and_never_fewer() -> None:
    registry = registered()

    def sent() -> float:
        return registry.get_sample_value("ringcast_queue_messages_total", {"queue": ""}) or 0.0

    before = sent()
    with broadcast(1) as (writer, _), broadcast(1) as (other, _):
        writer.enqueue_many([b"x"] * 3)
        other.enqueue_many([b"x"] * 2)
        assert sent() == before + 5
    assert sent() == before + 5
    with broadcast(1) as (writer, _):
        writer.enqueue(b"x")
        assert sent() == before + 6


def test_all_that_is_exported_is_listed_and_can_be_parsed() -> None:
    name = unique_name("metrics")
    with MessageQueue(1, name=name) as writer, MessageQueue.attach(name), PoolServer(name, "1MiB"):
        text = generate_latest(registered([writer])).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    listed = {metric.prometheus_name.removesuffix("_total"): metric for metric in METRICS}
    assert families.keys() <= listed.keys()
    assert len(families) > 40
    for family in families.values():
        metric = listed[family.name]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        for sample in family.samples:
            assert set(sample.labels) == set(metric.labels)
            assert sample.value >= 0


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: str(metric.name))
def test_names_units_and_labels_are_standard(metric: Any) -> None:
    assert re.fullmatch(r"ringcast(\.[a-z][a-z_]*)+", metric.name)
    assert metric.prometheus_name.endswith("_total") == (metric.kind == "counter")
    assert metric.otel_unit in ("1", "By", "s")
    assert metric.unit in metric.prometheus_name
    assert set(metric.labels) <= {
        "queue", "rank", "state", "part", "end", "cause", "way", "host", "pool", "tier", "how", "why", "role",
    }  # fmt: skip
    assert metric.help


def test_opentelemetry_gets_the_same() -> None:
    name = unique_name("metrics")
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    with MessageQueue(1, name=name) as writer, MessageQueue.attach(name) as attached:
        instrument(provider.get_meter("ringcast"), [writer, attached])
        writer.enqueue(b"x")
        data = reader.get_metrics_data()
    assert data is not None
    found = {one.name: one for one in data.resource_metrics[0].scope_metrics[0].metrics}
    assert found.keys() <= {metric.name for metric in METRICS}
    (point,) = [one for one in found["ringcast.queue.messages"].data.data_points if one.attributes["queue"] == name]  # type: ignore[index]
    assert point.value == 1  # type: ignore[union-attr]
    assert found["ringcast.queue.published"].unit == "By"
    provider.shutdown()


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [("prometheus_client", "RingcastCollector", "metrics"), ("opentelemetry", "instrument", "otel")],
)
def test_without_its_package_a_sentence_says_what_to_install(package: str, name: str, extra: str) -> None:
    result = run_python(
        f"import sys; sys.modules[{package!r}] = None\nimport ringcast.metrics\n"
        f"try:\n    ringcast.metrics.{name}\nexcept ImportError as error:\n    print(error)"
    )
    assert f"ringcast.metrics.{name} needs" in result.stdout
    assert f'pip install "ringcast[{extra}]"' in result.stdout


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads((ROOT / "docs/grafana/ringcast.json").read_text())
    asked = set(re.findall(r"ringcast_\w+", json.dumps(dashboard)))
    assert asked
    assert asked <= NAMES
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)) > 8


def test_the_documentation_lists_every_metric_with_its_labels() -> None:
    text = Path(ROOT / "docs/observability.md").read_text()
    for metric in METRICS:
        unit = metric.unit or "1"
        row = f"| `{metric.prometheus_name}` | {metric.kind} | {unit} | {', '.join(metric.labels) or '-'} |"
        assert row in text, f"missing, or not as it is: {row} {metric.help} |"


SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/observability.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_what_the_documentation_shows_runs(snippet: str, tmp_path: Path) -> None:
    name = unique_name("docs")
    result = run_python(f"import os\nos.chdir({str(tmp_path)!r})\n" + snippet.replace('"sched"', f'"{name}"'))
    assert (result.returncode, result.stderr) == (0, "")


def test_there_are_snippets_to_run() -> None:
    assert len(SNIPPETS) == 3


class Odd:
    """An end that does something when it is asked."""

    def __init__(self, does: Any) -> None:
        self._does = does

    def stats(self) -> Any:
        self._does()
        raise QueueClosedError("nothing to say")


def test_a_signal_s_handler_may_ask_while_its_thread_looks() -> None:
    asked: list[list[str]] = []

    def handler(*_: Any) -> None:
        collector.glance()
        asked.append([family.name for family in collector.collect()])

    collector = RingcastCollector([Odd(lambda: signal.raise_signal(signal.SIGUSR1))])
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        names = [[family.name for family in collector.collect()] for _ in range(2)]
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert asked == [[], names[0]], "what was seen last"
    assert "ringcast_queues" in names[0]


def test_wherever_a_look_is_interrupted_it_counts_no_queue_twice() -> None:
    with broadcast(1) as (writer, _):
        writer.enqueue_many([b"x"] * 3)
        there, epoch = Observer().look(), writer.stats()["epoch"]
    there["queues"] = [queue for queue in there["queues"] if queue["epoch"] == epoch]
    gone: Overview = {**there, "queues": []}

    def sent(samples: _source.Samples) -> float:
        return next(values for metric, values in samples if metric.name == "ringcast.queue.messages")[("",)]

    for n in itertools.count():
        source = _source.Source()
        source._made(there, 0.0)
        interrupted = Interrupt([_source.Source._made], n).run(partial(source._made, gone, 0.0))
        assert sent(source._made(gone, 0.0)) == 3, f"interrupted at instruction {n}"
        if not interrupted:
            break
    assert n > 100
