"""ringcast: broadcast between Python processes through shared memory, at the hardware's speed.

    from ringcast import MessageQueue

    queue = MessageQueue(n_reader=2, name="sched")      # one process writes
    queue.wait_until_ready()
    queue.enqueue({"step": 1, "tokens": [1, 2, 3]})

    reader = MessageQueue.attach("sched")               # others read, each every message
    message = reader.dequeue()

Importing this imports no third-party package, nor does using it for objects that need none. Process groups need
PyTorch, for its store. What looks at queues from
outside is in `ringcast.instruments`; every error is in `ringcast.errors`.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from ringcast import errors
from ringcast._selector import Selector
from ringcast._stats import QueueInfo, QueueStats
from ringcast._version import __version__
from ringcast.queue import Handle, MessageQueue
from ringcast.ring import ShmRingBuffer
from ringcast.waiting import Busy, SpinSleepTimer, SpinTimer, memory_fence, set_time_slice

if _TYPE_CHECKING:
    from ringcast.net import StatelessProcessGroup, in_the_same_node_as
    from ringcast.workers import WorkerGroup

__all__ = [
    "Busy",
    "Handle",
    "MessageQueue",
    "QueueInfo",
    "QueueStats",
    "Selector",
    "ShmRingBuffer",
    "SpinSleepTimer",
    "SpinTimer",
    "StatelessProcessGroup",
    "WorkerGroup",
    "__version__",
    "errors",
    "in_the_same_node_as",
    "memory_fence",
    "set_time_slice",
]


def __getattr__(name: str) -> object:
    """Process groups and worker groups are imported by who uses them."""
    if name in ("StatelessProcessGroup", "in_the_same_node_as"):
        from ringcast import net

        return getattr(net, name)
    if name == "WorkerGroup":
        from ringcast import workers

        return workers.WorkerGroup
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
