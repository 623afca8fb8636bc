"""PyTorch and NumPy can move an object's memory. Sending it neither forbids that nor reads what is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ringcast import MessageQueue
from ringcast.errors import EncodeError
from tests.support import DEADLINE_S, eventually

torch: Any = pytest.importorskip("torch")

ITEMS = 1 << 20  # enough for memory of its own, which the process gives back to the system

FORMS: dict[str, Callable[[Any], Any]] = {
    "alone": lambda sent: sent,
    "in a dict": lambda sent: {"a": 1, "sent": sent},
    "beside a part of it": lambda sent: [sent[: ITEMS // 2], sent],
}
MOVES: dict[str, Callable[[Any], object]] = {
    "resize_ to more": lambda tensor: tensor.resize_(64 * ITEMS),
    "resize of its storage to nothing": lambda tensor: tensor.untyped_storage().resize_(0),
    "share_memory_": lambda tensor: tensor.share_memory_(),
}
MOVES_ALONE: dict[str, Callable[[Any], object]] = {
    "set_": lambda tensor: tensor.set_(torch.zeros(4).untyped_storage()),
    "data": lambda tensor: setattr(tensor, "data", torch.zeros(3)),
}


def full_queue() -> tuple[MessageQueue, MessageQueue]:
    queue = MessageQueue(1, max_chunks=1)
    reader = MessageQueue.create_from_handle(queue.export_handle(), 0)
    queue.enqueue("fills it")
    return queue, reader


def moved_while_waiting(message: Any, move: Callable[[], object]) -> None:
    queue, reader = full_queue()
    with reader, queue:
        errors: list[BaseException] = []

        def send() -> None:
            try:
                queue.enqueue(message, timeout=DEADLINE_S)
            except EncodeError as error:
                errors.append(error)

        thread = threading.Thread(target=send)
        thread.start()
        eventually(lambda: queue.stats()["waiting_s"], "the sender's wait")
        move()
        assert reader.dequeue(DEADLINE_S) == "fills it"
        thread.join()
        assert "got other memory while the call waited" in str(errors[0])
        assert queue.stats()["messages"] == 1
        queue.enqueue(b"goes on", timeout=DEADLINE_S)
        assert reader.dequeue(DEADLINE_S) == b"goes on"
        assert queue.stats()["memory"]["blocks"] == 0


@pytest.mark.parametrize(
    ("form", "move"), [*((form, move) for form in FORMS for move in MOVES), *(("alone", move) for move in MOVES_ALONE)]
)
def test_a_tensor_whose_memory_moves_while_its_sender_waits_is_not_sent(form: str, move: str) -> None:
    tensor = torch.ones(ITEMS)
    moved_while_waiting(FORMS[form](tensor), lambda: (MOVES | MOVES_ALONE)[move](tensor))


@pytest.mark.parametrize("form", ["alone", "in a dict"])
def test_so_is_an_array_that_is_resized_against_numpy_s_advice(form: str) -> None:
    array = np.ones(ITEMS)
    moved_while_waiting(FORMS[form](array), lambda: array.resize(64 * ITEMS, refcheck=False))


@pytest.mark.parametrize("items", [4, 20_000, ITEMS])
@pytest.mark.parametrize("form", FORMS)
def test_a_tensor_that_was_sent_can_still_be_resized(form: str, items: int) -> None:
    queue = MessageQueue(1)
    reader = MessageQueue.create_from_handle(queue.export_handle(), 0)
    with reader, queue:
        tensor = torch.arange(items)
        queue.enqueue(FORMS[form](tensor))
        tensor.resize_(2 * items)
        received = reader.dequeue(DEADLINE_S)
        whole = received if form == "alone" else received["sent"] if form == "in a dict" else received[1]
        assert torch.equal(whole, torch.arange(items))
