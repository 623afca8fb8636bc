"""ringcast: broadcast between Python processes through shared memory, at the hardware's speed.

    from ringcast import MessageQueue

    queue = MessageQueue(n_reader=2, name="sched")      # one process writes
    queue.wait_until_ready()
    queue.enqueue({"step": 1, "tokens": [1, 2, 3]})

    reader = MessageQueue.attach("sched")               # others read, each every message
    message = reader.dequeue()

Importing this imports no third-party package.
"""

from ringcast import errors
from ringcast._version import __version__
from ringcast.queue import Handle, MessageQueue
from ringcast.ring import ShmRingBuffer
from ringcast.waiting import Busy, SpinSleepTimer, SpinTimer, memory_fence

__all__ = [
    "Busy",
    "Handle",
    "MessageQueue",
    "ShmRingBuffer",
    "SpinSleepTimer",
    "SpinTimer",
    "__version__",
    "errors",
    "memory_fence",
]
