"""What the first array or tensor needs is imported while the reader attaches, and only if it will be needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ringcast import MessageQueue
from tests.importing_reader import attach
from tests.support import Child, broadcast

torch = pytest.importorskip("torch")

MESSAGES: dict[str, Callable[[], Any]] = {
    "an array": lambda: np.zeros(3),
    "an array of many bytes": lambda: np.zeros(100_000),
    "a tensor": lambda: torch.zeros(3),
    "an array in a dict": lambda: {"weights": np.zeros(100_000)},
    "bytes": lambda: b"bytes",
    "a dict": lambda: {"key": [1, 2, "three"]},
    "much text": lambda: "text" * 100_000,
}


ARRAYS_NEED = ["numpy", "ringcast.codec.arrays"]
NEEDED = {
    "an array": ARRAYS_NEED,
    "an array of many bytes": ARRAYS_NEED,
    "an array in a dict": ARRAYS_NEED,
    "a tensor": [*ARRAYS_NEED, "torch"],
}


@pytest.mark.parametrize(
    ("send", "message"),
    [
        *(("enqueue", message) for message in MESSAGES),
        ("try_enqueue", "an array in a dict"),
        ("enqueue_many", "an array"),
    ],
)
def test_a_reader_that_attaches_imports_what_the_writer_has_sent_needs(
    send: str, message: str, start: Callable[..., Child]
) -> None:
    with MessageQueue(1) as writer:
        handle = writer.export_handle()
        getattr(writer, send)([MESSAGES[message]()] if send == "enqueue_many" else MESSAGES[message]())
        reader = start(attach, handle, "", "")
        imported = reader.receive()
        assert imported == NEEDED.get(message, [])
        assert reader.ask("receive") == type(MESSAGES[message]()).__name__


def test_a_loaned_array_counts_as_one() -> None:
    with broadcast() as (writer, _):
        assert writer._segment is not None
        assert not writer._segment.sends_arrays
        with writer.loan_array(3, np.int8):
            pass
        assert writer._segment.sends_arrays


def test_a_reader_that_uses_numpy_anyway_is_ready_for_arrays_before_they_come(
    start: Callable[..., Child],
) -> None:
    with MessageQueue(1) as writer:
        reader = start(attach, writer.export_handle(), "numpy", "")
        assert reader.receive() == ARRAYS_NEED


@pytest.mark.parametrize(("message", "missing"), [("an array", "numpy"), ("a tensor", "torch")])
def test_who_lacks_the_package_attaches_all_the_same_and_the_message_says_what_is_missing(
    message: str, missing: str, start: Callable[..., Child]
) -> None:
    with MessageQueue(1) as writer:
        handle = writer.export_handle()
        writer.enqueue(MESSAGES[message]())
        writer.enqueue("what follows")
        reader = start(attach, handle, "", missing)
        assert missing not in reader.receive()
        assert missing in reader.ask("receive")
        assert reader.ask("receive") == "str"
