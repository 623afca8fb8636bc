"""Processes that share nothing but a name: start the writer and two readers in any order, in three terminals.

    python examples/named_queue.py write
    python examples/named_queue.py read
    python examples/named_queue.py read

`ringcast ls` shows the queue meanwhile, and `ringcast sub example` can be one of the readers.
"""

from __future__ import annotations

import sys
from datetime import datetime

from ringcast import MessageQueue

NAME = "example"
READERS = 2


def write() -> None:
    with MessageQueue(READERS, name=NAME) as queue:
        print(f"waiting for {READERS} readers of {NAME!r}")
        queue.wait_until_ready()
        for number in range(5):
            queue.enqueue({"number": number, "sent": datetime.now()})


def read() -> None:
    with MessageQueue.attach(NAME, timeout=None) as queue:  # waits for the writer; takes a free rank
        for message in queue:
            print(f"rank {queue.rank}: {message['number']}, sent at {message['sent']:%H:%M:%S.%f}")


if __name__ == "__main__":
    roles = {"write": write, "read": read}
    if len(sys.argv) != 2 or sys.argv[1] not in roles:
        sys.exit(f"usage: {sys.argv[0]} write|read")
    roles[sys.argv[1]]()
