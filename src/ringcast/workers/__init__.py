"""Worker groups: N processes that each hold an object of the user's class, and calls of its methods.

    _records      what travels on the rings
    _failures     how an exception travels
    _rank         which worker this process is
    _serving      a worker's loop
    _program      the program that starts workers, as they find it
    _birth        a worker's process, before it serves
    _memory       processes killed because memory ran out
    _worker       a worker's process, as its group sees it
    _keeper       the thread that starts and reaps them
    _echo         what they print
    _call         a call under way
    _rings        all answers, as one thing to wait for
    _calls        the calls of a group, and who reads their answers
    _future       the future of a call
    _stats        how long ranks take
    _stream       the items of a generator
    _attendant    the thread for what nobody waits for
    _crew         all processes of a group
    _starting     how long a start may take
    _asking       what ranks are doing, where no pipe leads
    _guests       workers that others have started
    _adopted      ranks of a process group
    _actor        an actor of Ray's
    _on_ray       such actors as workers
    _given        what a group's user says, checked
    _group        WorkerGroup

Calls and answers are messages of our queues; a group adds numbers, and who waits for whom.
"""

from ringcast.workers._group import Member, WorkerGroup
from ringcast.workers._rank import rank
from ringcast.workers._stats import GroupStats, RankStats
from ringcast.workers._stream import Stream

__all__ = ["GroupStats", "Member", "RankStats", "Stream", "WorkerGroup", "rank"]
