"""Process groups: who is there, who shares memory with whom, and queues that a whole group makes together.

    _addresses    where a group's store is, and where a link listens
    _deadline     one deadline for a whole collective
    _client       a store, by our own connection, whose calls end
    _members      what a rank says of itself, and whether it lives
    _records      what ranks say, told apart from what others put there
    _sealing      how it travels through a store
    _group        ranks that have met, and their collectives
    _leaving      how a process leaves a group
    _stateless    a group without torch.distributed
    _any_group    ours or torch's, as ranks that have met
    _same_node    who shares memory with a rank
    _queues       a queue that a group makes

Importing this imports no third-party package; making a group imports torch.
"""

from ringcast.net._same_node import in_the_same_node_as
from ringcast.net._stateless import StatelessProcessGroup

__all__ = ["StatelessProcessGroup", "in_the_same_node_as"]
