"""Looking at queues and at the machine from outside: what `ringcast ls`, `top`, `clean` and `doctor` show.

from ringcast.instruments import examine, list_queues, sweep

for queue in list_queues().queues:
    print(queue["name"], queue["queued"], [reader["pid"] for reader in queue["readers"]])
"""

from ringcast.instruments.blocking import Blocked
from ringcast.instruments.doctor import Check, examine
from ringcast.instruments.looking import Found, SweptSegment, UnreadableSegment, list_queues, sweep
from ringcast.instruments.overview import Observer, Overview

__all__ = [
    "Blocked",
    "Check",
    "Found",
    "Observer",
    "Overview",
    "SweptSegment",
    "UnreadableSegment",
    "examine",
    "list_queues",
    "sweep",
]
