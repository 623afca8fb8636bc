"""Looking at queues and at the machine from outside: what `ringcast ls`, `clean` and `doctor` show.

from ringcast.instruments import examine, list_queues, sweep

for queue in list_queues().queues:
    print(queue["name"], queue["queued"], [reader["pid"] for reader in queue["readers"]])
"""

from ringcast.instruments.doctor import Check, examine
from ringcast.instruments.looking import Found, SweptSegment, UnreadableSegment, list_queues, sweep

__all__ = ["Check", "Found", "SweptSegment", "UnreadableSegment", "examine", "list_queues", "sweep"]
