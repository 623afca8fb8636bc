"""Looking at queues and at the machine from outside: what `ringcast ls`, `top`, `trace`, `clean` and `doctor` show.

from ringcast.instruments import examine, list_queues, sweep

for queue in list_queues().queues:
    print(queue["name"], queue["queued"], [reader["pid"] for reader in queue["readers"]])
"""

from ringcast.instruments.blocking import Blocked
from ringcast.instruments.doctor import Check, examine
from ringcast.instruments.looking import Found, SweptSegment, UnreadableSegment, list_queues, sweep
from ringcast.instruments.overview import Observer, Overview
from ringcast.instruments.recorder import record
from ringcast.instruments.trace import Trace

__all__ = [
    "Blocked",
    "Check",
    "Found",
    "Observer",
    "Overview",
    "SweptSegment",
    "Trace",
    "UnreadableSegment",
    "examine",
    "list_queues",
    "record",
    "sweep",
]
