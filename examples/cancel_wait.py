"""A thread that waits for messages, ended in three ways: by a time-out, by an event, by the writer's closing.

    python examples/cancel_wait.py

A waiting thread sleeps: none of this costs CPU time.
"""

from __future__ import annotations

import threading

from ringcast import MessageQueue
from ringcast.errors import QueueClosedError, QueueTimeoutError, WaitCancelledError


def consume(reader: MessageQueue, cancel: threading.Event) -> None:
    try:
        while True:
            print("received", reader.dequeue(cancel=cancel))
    except WaitCancelledError:
        print("cancelled: the reader can go on with the next message later")
    except QueueClosedError:
        print("closed: the writer is done, and everything has been read")


def main() -> None:
    writer = MessageQueue(1)
    reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
    try:
        reader.dequeue(timeout=0.1)
    except QueueTimeoutError as error:
        print("timed out:", error)

    for end in ("cancel", "close"):
        cancel = threading.Event()
        thread = threading.Thread(target=consume, args=(reader, cancel))
        thread.start()
        writer.enqueue(f"a message before {end}")
        if end == "cancel":
            cancel.set()
        else:
            writer.close()
        thread.join()
    reader.close()


if __name__ == "__main__":
    main()
