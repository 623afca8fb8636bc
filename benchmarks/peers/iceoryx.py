"""iceoryx2: publish-subscribe with safe overflow off and the publisher retrying until delivered, so nothing is dropped.

A subscriber cannot block by itself. As the library's own examples do, each message is followed by a notification on
an event service, on which a reader with nothing to read waits. The variant "polling" sends no notifications and its
readers never sleep: a core each, in exchange for the lowest latency the library has.

Python objects at both ends: the payload is copied in from `bytes` and out to `bytes`; others are pickled, protocol 5.
Arrays are copied into the loan after a header; a reader has a view of the sample, which goes back when the view goes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ringcast.cli.lab.subject import RUN_PREFIX, QueueSpec, Receiver, Sender, SubjectBase

from . import arrays

#: A polling reader gives way after so many looks in vain, or readers that share a CPU would take turns by time slice.
_LOOKS_BEFORE_YIELDING = 64
_SHM_FOLDER = Path("/dev/shm")

#: A reader looks again after so long even without a notification. In 0.10.0 one is lost now and then (with two readers
#: about once in a million messages), and a publisher that waits for room would never send another.
_LONGEST_WAIT_MS = 1000


def _open(spec: QueueSpec) -> tuple[Any, Any, Any]:
    """A node with files of its own below this run's folder, and the queue's two services."""
    import iceoryx2 as iox

    iox.set_log_level(iox.LogLevel.Error)
    config = iox.config.default()
    config.global_cfg.root_path = iox.Path.new(spec.workdir)
    config.global_cfg.prefix = iox.FileName.new(RUN_PREFIX)
    node = (
        iox.NodeBuilder.new()
        .config(config)
        .signal_handling_mode(iox.SignalHandlingMode.Disabled)
        .create(iox.ServiceType.Ipc)
    )
    name = iox.ServiceName.new(spec.name)
    messages = (
        node.service_builder(name)
        .publish_subscribe(iox.Slice[ctypes.c_uint8])
        .max_publishers(1)
        .max_subscribers(spec.n_readers)
        .subscriber_max_buffer_size(spec.depth)
        .subscriber_max_borrowed_samples(2)
        .history_size(0)
        .enable_safe_overflow(False)
        .open_or_create()
    )
    events = node.service_builder(name).event().max_listeners(spec.n_readers).max_notifiers(1).open_or_create()
    return node, messages, events


@dataclass(frozen=True)
class Iceoryx(SubjectBase):
    """See the module."""

    polling: bool = False

    def place(self, spec: QueueSpec) -> Any:
        """Both ends open the services by name: nothing to do here."""
        return None

    def sender(self, spec: QueueSpec, address: Any, links: Sequence[Connection]) -> Sender:
        """The publisher. Waits until all readers have subscribed: who subscribes later misses what was sent before."""
        import iceoryx2 as iox

        node, messages, events = _open(spec)
        publisher = (
            messages.publisher_builder()
            .backpressure_strategy(iox.BackpressureStrategy.RetryUntilDelivered)
            .initial_max_slice_len(spec.max_bytes + arrays.HEADER_BYTES)
            .max_loaned_samples(1)
            .create()
        )
        notifier = events.notifier_builder().create()
        for link in links:
            link.recv_bytes()
        publisher.update_connections()
        loan, notify, copy, dumps = publisher.loan_slice_uninit, notifier.notify, ctypes.memmove, pickle.dumps

        def send(message: bytes) -> None:
            size = len(message)
            sample = loan(size)
            copy(sample.payload_ptr, message, size)
            sample.assume_init().send()
            notify()

        def send_silently(message: bytes) -> None:
            size = len(message)
            sample = loan(size)
            copy(sample.payload_ptr, message, size)
            sample.assume_init().send()

        def send_array(array: arrays.Array) -> None:
            sample = loan(arrays.HEADER_BYTES + array.nbytes)
            copy(sample.payload_ptr, arrays.header(array), arrays.HEADER_BYTES)
            copy(sample.payload_ptr + arrays.HEADER_BYTES, array.ctypes.data, array.nbytes)
            sample.assume_init().send()
            notify()

        def send_object(message: object) -> None:
            send(dumps(message, 5))

        def close() -> None:
            for part in (notifier, publisher):
                part.delete()
            held.clear()

        held = [node, messages, events]  # they must live as long as the ports
        if spec.payload == "array":
            return Sender(send_array, close)
        if spec.payload != "bytes":
            return Sender(send_object, close)
        return Sender(send_silently if self.polling else send, close)

    def receiver(self, spec: QueueSpec, address: Any, rank: int, link: Connection) -> Receiver:
        """A subscriber, and the listener on which it waits."""
        import iceoryx2 as iox

        node, messages, events = _open(spec)
        listener = events.listener_builder().create()
        subscriber = messages.subscriber_builder().buffer_size(spec.depth).create()
        link.send_bytes(b"subscribed")
        receive, block, copy, loads = subscriber.receive, listener.timed_wait, ctypes.string_at, pickle.loads
        longest = iox.Duration.from_millis(_LONGEST_WAIT_MS)

        def wait_for_sample() -> Any:
            while (sample := receive()) is None:
                block(longest)
            return sample

        def recv_array() -> arrays.Array:
            sample = wait_for_sample()
            data = (ctypes.c_uint8 * sample.header.number_of_elements).from_address(sample.payload_ptr)
            data.sample = sample  # alive for as long as the view
            view = memoryview(data)
            return arrays.restore(bytes(view[: arrays.HEADER_BYTES]), view[arrays.HEADER_BYTES :])

        def recv() -> bytes:
            while (sample := receive()) is None:
                block(longest)
            return copy(sample.payload_ptr, sample.header.number_of_elements)

        def poll() -> bytes:
            looks = 0
            while (sample := receive()) is None:
                looks += 1
                if looks % _LOOKS_BEFORE_YIELDING == 0:
                    os.sched_yield()
            return copy(sample.payload_ptr, sample.header.number_of_elements)

        def recv_object() -> Any:
            return loads(recv())

        def close() -> None:
            for part in (subscriber, listener):
                part.delete()
            held.clear()

        held = [node, messages, events]
        how: Callable[[], Any] = poll if self.polling else recv
        if spec.payload == "array":
            return Receiver(recv_array, close)
        return Receiver(how if spec.payload == "bytes" else recv_object, close)

    def sweep(self) -> None:
        """The library keeps one file a prefix for ever, and those of killed processes until somebody looks."""
        for left in _SHM_FOLDER.glob(RUN_PREFIX + "*"):
            with contextlib.suppress(OSError):
                left.unlink()


SUBJECTS = (
    Iceoryx("iceoryx2", "iceoryx2, events", "iceoryx2", "iceoryx2"),
    Iceoryx("iceoryx2-polling", "iceoryx2, polling", "iceoryx2", "iceoryx2", only=("latency", "rate"), polling=True),
)
