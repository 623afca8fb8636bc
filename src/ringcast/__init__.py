"""ringcast: broadcast between Python processes through shared memory, at the hardware's speed.

    from ringcast import MessageQueue

    queue = MessageQueue(n_reader=2, name="sched")      # one process writes
    queue.wait_until_ready()
    queue.enqueue({"step": 1, "tokens": [1, 2, 3]})

    reader = MessageQueue.attach("sched")               # others read, each every message
    message = reader.dequeue()

Importing this imports no third-party package, nor does using it for objects that need none. What looks at queues from
outside is in `ringcast.instruments`; every error is in `ringcast.errors`.
"""

from ringcast import errors
from ringcast._stats import QueueInfo, QueueStats
from ringcast._version import __version__
from ringcast.queue import Handle, MessageQueue
from ringcast.ring import ShmRingBuffer
from ringcast.waiting import Busy, SpinSleepTimer, SpinTimer, memory_fence

__all__ = [
    "Busy",
    "Handle",
    "MessageQueue",
    "QueueInfo",
    "QueueStats",
    "ShmRingBuffer",
    "SpinSleepTimer",
    "SpinTimer",
    "__version__",
    "errors",
    "memory_fence",
]
