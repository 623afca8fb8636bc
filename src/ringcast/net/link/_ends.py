"""What the ends of a queue ask of their machine's link: to take it to other machines, or to bring it here."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from typing import Any, NamedTuple

from ringcast import _core, _segment
from ringcast._extras import needed
from ringcast._handle import Handle
from ringcast.errors import LinkDiedError, LinkError, QueueTimeoutError, RankError, RingcastError
from ringcast.net._addresses import with_a_way
from ringcast.net._deadline import Deadline
from ringcast.net.link import _keys
from ringcast.net.link._desk import Place, leave_nothing_of_the_dead, new_job
from ringcast.net.link._launch import link_of
from ringcast.net.link._log import VARIABLE, path_wanted

ENVIRONMENT = ("RINGCAST_HOST_IP", "RINGCAST_BIND_IP", "RINGCAST_ADVERTISE", "RINGCAST_PORT_RANGE")
"""What a link is told of the environment of who asks: where to listen, and what others are to be told of that."""
LINKED_WITHIN_S = JOINED_WITHIN_S = 10.0
_TO_TELL_S = 1.0
"""What the link has tried in vain it tells before who asked gives up."""

_job: str | None = None
_lock = threading.Lock()


def job(given: str | None = None) -> str:
    """The job of this process: that of the first handle from elsewhere that it opened, or a new one."""
    global _job
    with _lock:
        if _job is None:
            _job = given or new_job()
        return _job


class Export(NamedTuple):
    """A queue that the link takes to other machines, for as long as `place` is held."""

    place: Place
    address: tuple[str, int]
    job: str
    key: bytes | None
    encrypt: bool


def export(
    segment: _core.Segment,
    *,
    connect_ip: str | None,
    towards: str | None,
    link_timeout: float,
    encrypt: bool,
    policy: tuple[int, int, int, int],
) -> Export:
    """Ask the link to take this queue to other machines. Raises LinkError, ArgumentError."""
    needed("cryptography", "readers on other machines")
    deadline = Deadline(LINKED_WITHIN_S)
    mine = job()
    travelling = _keys.to_travel()
    key = _keys.key_of(segment.epoch, travelling)
    place = link_of(mine, deadline)
    try:
        answer = _asked(
            place,
            {
                "op": "write", "segment": segment.name, "epoch": segment.epoch, "key": key.hex(), "encrypt": encrypt,
                "connect_ip": connect_ip, "towards": towards and with_a_way(towards), "link_timeout": link_timeout,
                "policy": list(policy),
                "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
            },
            deadline,
        )  # fmt: skip
    except BaseException:
        place.close()
        raise
    _see_log(place, answer["log"])
    return Export(place, (answer["address"][0], answer["address"][1]), mine, travelling, encrypt)


def _asked(place: Place, request: dict[str, Any], deadline: Deadline) -> Any:
    """As `place.ask`; that the link is silent is what is in the way, and no time-out of the caller's."""
    try:
        return place.ask(request, deadline)
    except QueueTimeoutError as error:
        raise LinkError(str(error)) from error


def _see_log(place: Place, path: str | None) -> None:
    """A link has one log, that of whoever started it: who wants another one is told so."""
    wanted = path_wanted()
    if wanted is not None and wanted != path:
        logging.getLogger("ringcast.link").warning(
            "%s runs already, and its log goes to %s: %s=%s has no effect. Set it for all processes of the job",
            place.link, path or "no file", VARIABLE, wanted,
        )  # fmt: skip


def attached(place: Place) -> None:
    """The link need not find out by itself that a reader has come."""
    with suppress(RingcastError):  # it would
        place.ask({"op": "look"}, Deadline(1.0))


def join(handle: Handle, rank: int, deadline: Deadline, *, zero_copy: bool) -> tuple[Place, _core.Segment, int]:
    """A place for a reader of a queue that another machine writes: the ring of this machine, and its rank."""
    if handle.remote_address is None or handle.job is None:
        ranks = ", ".join(map(str, handle.local_reader_ranks)) or "none"
        raise RankError(
            f"{_core.queue_label('', handle.segment)}: rank {rank} is not one of its local ranks: {ranks}; its writer "
            "has said n_local_reader=n_reader, so that no other machine can read it"
        )
    needed("cryptography", "reading a queue of another machine")
    ip, _, port = handle.remote_address.removeprefix("tcp://").rpartition(":")
    if not port.isdigit():
        raise LinkError(f"the handle's remote address {handle.remote_address!r} is none")
    key = _keys.key_of(handle.epoch, bytes.fromhex(handle.key) if handle.key else None)
    job(handle.job)
    place = link_of(handle.job, deadline)
    try:
        answer = _asked(
            place,
            {
                "op": "read", "epoch": handle.epoch, "address": [ip.strip("[]"), int(port)], "key": key.hex(),
                "encrypt": handle.encrypt, "rank": rank, "pid": os.getpid(),
                "within": max(deadline.left - _TO_TELL_S, deadline.left / 2),
                "local_ranks": list(handle.local_reader_ranks), "shape": list(handle.ring[:3]),
            },
            deadline,
        )  # fmt: skip
        segment = _segment.attach(answer["segment"], zero_copy=zero_copy)
        if segment.epoch != answer["epoch"]:
            raise LinkError("the ring that the link has made here is gone already")
        _see_log(place, answer["log"])
    except BaseException as error:
        place.close()
        if isinstance(error, LinkDiedError):
            leave_nothing_of_the_dead()  # a ring that it had made, and that no reader has seen
        raise
    return place, segment, int(answer["rank"])
