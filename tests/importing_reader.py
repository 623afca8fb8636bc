"""A reader that tells what it imports; in a module of its own, which imports neither NumPy nor PyTorch."""

from __future__ import annotations

import sys

from ringcast import Handle, MessageQueue
from ringcast.errors import DecodeError
from tests.support import Link

NEEDED = ("numpy", "ringcast.codec.arrays", "torch")


def attach(link: Link, handle: Handle, first: str, missing: str) -> None:
    """Tells what is imported at the end of attaching, and what comes of the messages."""
    assert not any(name in sys.modules for name in NEEDED)
    if first:
        __import__(first)
    if missing:
        sys.modules[missing] = None  # type: ignore[assignment]
    reader = MessageQueue.create_from_handle(handle, 0)
    link.send([name for name in NEEDED if sys.modules.get(name) is not None])
    while link.recv() == "receive":
        try:
            link.send(type(reader.dequeue(30)).__name__)
        except (DecodeError, ImportError) as error:
            link.send(str(error))
