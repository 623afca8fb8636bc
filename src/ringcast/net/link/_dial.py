"""How a link connects to another one: with one deadline, and errors that say what is wrong and what to do."""

from __future__ import annotations

import errno
import socket
import time

from ringcast._refusals import named
from ringcast.errors import LinkError
from ringcast.net._addresses import Address, shown
from ringcast.net._deadline import Deadline
from ringcast.net.link._channel import Channel
from ringcast.net.link._hello import (
    ANSWER_BYTES,
    SECOND_BYTES,
    VERSION,
    Hello,
    Release,
    Why,
    understood,
)
from ringcast.net.link._log import log
from ringcast.net.link._noise import Handshake, NoiseError

_LEAST_WAIT_S = 0.001
_MAY_PASS = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN}
"""What a machine says whose network, or whose peer's, is just coming up."""
_AGAIN_S = 0.2


class DialError(LinkError):
    """A connection to another link could not be made. `why` says why; the message, what to do."""

    def __init__(self, message: str, why: Why = Why.CLOSED) -> None:  # which a pickle sets after it
        super().__init__(message)
        self.why = why


def dial(address: Address, queue: int, key: bytes, encrypt: bool, deadline: Deadline, *, control: bool) -> Channel:
    """A connection to the link that listens at an address, for one queue, which both sides know by its epoch and key.

    Raises DialError.
    """
    where = shown(address)
    sock = _connected(address, deadline)
    try:
        hello = Hello(queue, encrypt, control).packed()
        handshake = Handshake(True, hello, key)
        _within(sock, deadline)
        sock.sendall(hello + handshake.write(b""))
        version, refusal = understood(_received(sock, ANSWER_BYTES, deadline))
        if refusal is not None:
            raise DialError(_refused(where, refusal, version, encrypt), refusal)
        release = Release.of(handshake.read(_received(sock, SECOND_BYTES, deadline)))
        channel = Channel(sock, handshake.split(), encrypt, where, release)
        channel.prove()
        return channel
    except BaseException as error:
        sock.close()
        if isinstance(error, NoiseError):
            message = (
                f"what listens at {where} has not this queue's key: it is no link of this job, or stands in its way"
            )
            raise DialError(message, Why.WRONG_KEY) from error
        if isinstance(error, TimeoutError):
            raise DialError(_silent(where, deadline), Why.TIMED_OUT) from error
        if isinstance(error, (OSError, EOFError)) and not isinstance(error, DialError):
            message = f"{where} closed the connection before it had answered ({error or 'end of file'}): try again"
            raise DialError(message, Why.CLOSED) from error
        raise


def _connected(address: Address, deadline: Deadline) -> socket.socket:
    where = shown(address)
    pauses = 0
    while True:
        try:
            sock = socket.create_connection(address, timeout=max(deadline.left, _LEAST_WAIT_S))
            break
        except TimeoutError as error:
            raise DialError(_silent(where, deadline), Why.TIMED_OUT) from error
        except ConnectionRefusedError as error:
            raise DialError(_nobody(where), Why.REFUSED) from error
        except OSError as error:
            refused = named(error, f"a socket to {where}")
            if refused is not error:
                raise DialError(str(refused), Why.NO_ROUTE) from error
            if error.errno not in _MAY_PASS or deadline.left <= _AGAIN_S:
                raise DialError(_unreachable(where, error, deadline, tried_again=pauses > 0), Why.NO_ROUTE) from error
            if pauses == 0:
                log.info("there is no way to %s yet (%s)", where, error)
            pauses += 1
            time.sleep(_AGAIN_S)  # nothing tells that there is one
    if (
        sock.getsockname() == sock.getpeername()
    ):  # a port of our own, which the system had chosen for this very dialling
        sock.close()
        raise DialError(_nobody(where), Why.REFUSED)
    return sock


def _received(sock: socket.socket, nbytes: int, deadline: Deadline) -> bytes:
    data = b""
    while len(data) < nbytes:
        _within(sock, deadline)
        part = sock.recv(nbytes - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _within(sock: socket.socket, deadline: Deadline) -> None:
    sock.settimeout(max(deadline.left, _LEAST_WAIT_S))


def _unreachable(where: str, error: OSError, deadline: Deadline, *, tried_again: bool) -> str:
    for_so_long = f", and has been none for {deadline.seconds:g} s" if tried_again else ""
    return (
        f"there is no way to {where} from here ({error}){for_so_long}. Where the writer's machine has several "
        "addresses, its connect_ip, RINGCAST_HOST_IP or RINGCAST_ADVERTISE says which one is told"
    )


def _silent(where: str, deadline: Deadline) -> str:
    return (
        f"{where} has not answered within {deadline.seconds} s: its machine is down or cut off, a firewall drops what "
        "is sent there, or its link is stopped"
    )


def _nobody(where: str) -> str:
    return f"nothing listens at {where}: the link of the writer's machine has ended"


def _refused(where: str, why: Why, version: int, encrypt: bool) -> str:
    messages = {
        Why.UNKNOWN_QUEUE: f"the link at {where} has no such queue: its writer has closed it, or has ended",
        Why.OTHER_VERSION: f"the link at {where} speaks version {version}, this one {VERSION}: "
        "both machines need the same release of ringcast",
        Why.OTHER_BYTE_ORDER: f"the machine at {where} has another byte order: queues cannot be shared with it",
        Why.OTHER_ENCRYPTION: f"this side said encrypt={encrypt}, and the writer at {where} encrypt={not encrypt}: "
        "both have to say the same",
        Why.WRONG_KEY: f"the link at {where} does not know this key: the handle is another queue's, or RINGCAST_SECRET "
        "is not the same on both machines",
        Why.NOT_A_LINK: f"what listens at {where} is no link of ringcast's",
    }
    return messages[why]
