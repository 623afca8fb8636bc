"""One thread selects, another registers and unregisters: neither waits for what the other has for ever."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import threading
from ringcast import MessageQueue, Selector

writer = MessageQueue(8, max_chunk_bytes=64)
ends = [MessageQueue.create_from_handle(writer.export_handle(), rank) for rank in range(8)]
selector = Selector(wait="spin")  # so that who selects keeps what guards the ends
for end in ends[:4]:
    selector.register(end, end.rank)
over = threading.Event()


def come_and_go():
    while not over.is_set():
        for end in ends[4:]:
            selector.register(end, end.rank)
        for end in ends[4:]:
            selector.unregister(end)


thread = threading.Thread(target=come_and_go)
thread.start()
for _ in range(3000):
    assert selector.select(0.0003) == []
over.set()
thread.join()
print("well")
"""


def test_ends_that_come_and_go_meanwhile_freeze_no_process() -> None:
    """In a process of its own: who holds the interpreter's lock for ever is heard of by nobody within."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True, timeout=120)
    assert done.stdout == "well\n", done.stderr
