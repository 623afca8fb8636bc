"""Subclasses of MessageQueue with an `__init__` and attributes of their own: what their readers have."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from ringcast import MessageQueue
from ringcast.errors import ArgumentTypeError
from tests.support import Child, Link, unique_name


class Frames(MessageQueue):
    def __init__(self, shape: tuple[int, ...], **options: Any) -> None:
        self.before = "set before the queue is made"
        super().__init__(1, **options)
        self.shape = shape

    def get(self) -> tuple[Any, Any]:
        return self.dequeue(10), self.shape


class Locked(MessageQueue):
    def __init__(self) -> None:
        super().__init__(1)
        self.lock = threading.Lock()
        self.large = bytes(2 << 20)
        self.small = 1


class Choosing(MessageQueue):
    def __init__(self) -> None:
        super().__init__(1)
        self.lock = threading.Lock()

    def reader_attributes(self) -> dict[str, Any]:
        return {"colour": "red"}


class Plain(MessageQueue):
    pass


def _read(link: Link, handle: Any) -> None:
    with Frames.create_from_handle(handle, 0) as reader:
        link.send((type(reader).__name__, *reader.get(), reader.before))


def test_a_reader_of_a_subclass_has_the_writer_s_attributes_in_another_process(start: Callable[..., Child]) -> None:
    with Frames((4, 4)) as queue:
        queue.enqueue("frame")
        child = start(_read, queue.export_handle())
        assert child.receive() == ("Frames", "frame", (4, 4), "set before the queue is made")


def test_the_attributes_of_a_subclass_survive_json() -> None:
    with Frames((4, 4)) as queue:
        queue.enqueue("frame")
        handle = json.loads(json.dumps(queue.export_handle()))
        with Frames.create_from_handle(handle, 0) as reader:
            assert reader.get() == ("frame", [4, 4])


def test_what_cannot_travel_stays_behind_and_that_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with Locked() as queue, caplog.at_level(logging.WARNING, logger="ringcast"):
        handle = queue.export_handle()
        assert handle == queue.export_handle()
        assert handle.attributes == (("small", 1),)
        texts = [record.getMessage() for record in caplog.records]
        assert len(texts) == 2
        assert "the attribute 'lock' of Locked stays with the writer (cannot pickle" in texts[0]
        assert "the attribute 'large' of Locked stays with the writer (it pickles to more than" in texts[1]
        with Locked.create_from_handle(handle, 0) as reader:
            assert reader.small == 1
            assert not hasattr(reader, "lock")


def test_a_subclass_chooses_what_its_readers_get() -> None:
    with Choosing() as queue, Choosing.create_from_handle(queue.export_handle(), 0) as reader:
        assert reader.colour == "red"  # type: ignore[attr-defined]


def test_attributes_that_are_no_dict_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Choosing, "reader_attributes", lambda self: ["colour"])
    with Choosing() as queue, pytest.raises(ArgumentTypeError, match=r"Choosing\.reader_attributes\(\) must be a dict"):
        queue.export_handle()


@pytest.mark.parametrize("kind", [MessageQueue, Plain])
def test_what_the_library_keeps_on_an_end_does_not_travel(kind: type[MessageQueue]) -> None:
    with kind(1, name=unique_name()) as queue:
        queue.stats()
        assert queue.export_handle().attributes == ()


def test_a_plain_reader_takes_no_attributes_of_a_subclass() -> None:
    with Frames((1,)) as queue, MessageQueue.create_from_handle(queue.export_handle(), 0) as reader:
        assert not hasattr(reader, "shape")


def test_a_reader_by_name_is_of_the_subclass_too() -> None:
    with Frames((1,), name=unique_name()) as queue:
        assert queue.name is not None
        with Frames.attach(queue.name) as reader:
            assert type(reader) is Frames
