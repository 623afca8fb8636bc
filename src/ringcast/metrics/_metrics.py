"""Which metrics there are: their names, kinds, units and labels. Nothing else defines any."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """`name` is as OpenTelemetry has it, `prometheus_name` as Prometheus does; `unit` is "bytes", "seconds" or "".

    >>> [metric.prometheus_name for metric in METRICS if metric.name == "ringcast.queue.published"]
    ['ringcast_queue_published_bytes_total']
    """

    name: str
    kind: Literal["counter", "gauge"]
    unit: Literal["", "bytes", "seconds"]
    labels: tuple[str, ...]
    help: str

    @property
    def prometheus_name(self) -> str:
        """With unit and, if it is a counter, `_total`."""
        parts = [self.name.replace(".", "_"), self.unit, "total" if self.kind == "counter" else ""]
        return "_".join(filter(None, parts))

    @property
    def otel_unit(self) -> str:
        """As UCUM writes it."""
        return {"": "1", "bytes": "By", "seconds": "s"}[self.unit]


def _counter(name: str, unit: Literal["", "bytes", "seconds"], labels: str, text: str) -> Metric:
    return Metric(f"ringcast.{name}", "counter", unit, tuple(labels.split()), text)


def _gauge(name: str, unit: Literal["", "bytes", "seconds"], labels: str, text: str) -> Metric:
    return Metric(f"ringcast.{name}", "gauge", unit, tuple(labels.split()), text)


METRICS: tuple[Metric, ...] = (
    _gauge("queues", "", "", "Queues of this user, those of dead writers included"),
    _counter("queue.messages", "", "queue", "Messages that were sent"),
    _counter("queue.published", "bytes", "queue", "Bytes of messages that were sent"),
    _counter("queue.oversize_messages", "", "queue", "Messages above max_chunk_bytes"),
    _gauge("queue.queued_messages", "", "queue", "Messages that the slowest reader has not read"),
    _gauge("queue.depth_messages", "", "queue", "Messages that may be unread (max_chunks)"),
    _gauge("queue.memory", "bytes", "queue part", "Shared memory: part is ring, or large for large messages"),
    _gauge("queue.memory_limit", "bytes", "queue", "The most that large messages may take"),
    _gauge("queue.readers", "", "queue state", "Readers: active, expected, failed, evicted, cut or lost"),
    _gauge("queue.writer_up", "", "queue", "1: the writer's process lives and is not stopped"),
    _gauge("queue.reader_up", "", "queue rank", "1: the reader's process lives and is not stopped"),
    _gauge("queue.reader_behind_messages", "", "queue rank", "Messages that it has not read"),
    _counter("queue.reader_messages", "", "queue rank", "Messages that were read through its seat or passed it by"),
    _gauge("queue.reader_held", "bytes", "queue rank", "Bytes that its views hold"),
    _counter("queue.missed_messages", "", "queue rank", "Messages that were promised to it and nobody read for it"),
    _counter("queue.wait", "seconds", "queue end cause",
             "Time that the writer, or all readers together, were seen asleep; cause is room, memory, readers or "
             "delivery of the writer, message of readers"),
    _counter("queue.seen_wakeups", "", "queue end", "Wake-ups that were seen: of several between two looks one"),
    _counter("queue.lost_wakeups", "", "queue", "Readers seen asleep for 0.1 s with something to read: 0"),
    _gauge("queue.blocked", "", "queue cause",
           "Ends that cannot go on: cause is room, memory, readers or link of the writer, message of readers"),
    _counter("queue.cpu", "seconds", "queue end rank", "CPU time of the process that has the end"),
    _gauge("link.up", "", "queue way host", "1: the link's process lives and has a connection; way is to or from"),
    _counter("link.sent", "bytes", "queue way host", "Bytes over the wire, out"),
    _counter("link.received", "bytes", "queue way host", "Bytes over the wire, in"),
    _counter("link.reconnects", "", "queue way host", "How often there was another connection"),
    _gauge("link.under_way_messages", "", "queue way host", "Messages that have not arrived at the other end"),
    _gauge("link.out_of_reach", "seconds", "queue way host", "For how long there has been no connection"),
    _gauge("groups", "", "", "Worker groups of this machine"),
    _gauge("group.workers", "", "state", "Workers of all groups: running, stopped or gone"),
    _gauge("group.behind_calls", "", "", "Calls that the slowest worker of any group has not taken"),
    _gauge("pool.up", "", "pool", "1: the server's process lives and is not stopped"),
    _gauge("pool.capacity", "bytes", "pool", "Of all chunks together"),
    _gauge("pool.used", "bytes", "pool", "That chunks take"),
    _gauge("pool.chunks", "", "pool state", "Chunks: present, reserved, limbo or quarantined"),
    _gauge("pool.clients", "", "pool", "Clients that live"),
    _gauge("pool.oldest_pin", "seconds", "pool", "For how long the chunk that has been held longest has been held"),
    _counter("pool.lookups", "", "pool", "Lookups"),
    _counter("pool.looked_up_keys", "", "pool", "Keys that were looked up"),
    _counter("pool.found_keys", "", "pool", "Keys that were looked up and found"),
    _counter("pool.retrieves", "", "pool", "Retrieves"),
    _counter("pool.retrieved_keys", "", "pool", "Keys that were to be retrieved"),
    _counter("pool.hits", "", "pool", "Keys that were retrieved"),
    _counter("pool.stored_chunks", "", "pool", "Chunks that were stored"),
    _counter("pool.removed_chunks", "", "pool how", "Chunks that went: evicted, aborted or cleared"),
    _counter("pool.refusals", "", "pool why", "Chunks that were not stored: no_memory, full_buckets or refused"),
    _gauge("pool.tier_chunks", "", "pool tier", "Chunks of the index that have a copy in the tier"),
    _counter("pool.tier_stored", "bytes", "pool tier", "Bytes that were copied to the tier"),
    _counter("pool.tier_loaded", "bytes", "pool tier", "Bytes that came back from the tier"),
    _counter("pool.tier_wanted_chunks", "", "pool tier", "Chunks that were to come from the tier"),
    _counter("pool.tier_hits", "", "pool tier", "Chunks that did"),
    _counter("pool.tier_failures", "", "pool tier why", "Copies and calls that came to nothing: dropped, failed, "
             "corrupt or late"),
    _gauge("unreadable_segments", "", "", "Segments with a name like ours that cannot be looked at"),
    _gauge("look", "seconds", "", "What the last look at all of it took"),
    _counter("end.messages", "", "queue role rank", "Of an end given to the collector: messages sent or received"),
    _counter("end.waits", "", "queue role rank how", "Waits of an end that ended brief, awake or parked"),
    _counter("end.parks", "", "queue role rank", "How often an end slept"),
    _counter("end.rescued_wakes", "", "queue role rank", "Sleeps that ended by looking, without a wake-up: 0"),
    _counter("end.long_waits", "", "queue role rank", "Waits that were logged"),
    _counter("end.vain_cpu", "seconds", "queue role rank", "CPU time of an end awake before a park or a time-out"),
    _gauge("end.waiting", "seconds", "queue role rank", "Of an end given to the collector: how long a call has waited"),
    _gauge("end.wakeup", "seconds", "queue role rank", "What the kernel lately took to wake an end up"),
)  # fmt: skip
