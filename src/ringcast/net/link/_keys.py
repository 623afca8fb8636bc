"""What a queue's connections are proven by: 256 bits that its writer's and its readers' machines have in common.

They are random and travel in the queue's handle; or, where `RINGCAST_SECRET` is set, they are made of it and of the
queue's epoch on each side, and never travel.
"""

from __future__ import annotations

import hmac
import secrets

from ringcast.errors import LinkError
from ringcast.net._sealing import SECRET, secret
from ringcast.net.link._noise import KEY_BYTES

_LABEL = b"ringcast link"


def to_travel() -> bytes | None:
    """A new key, for a new queue's handle; None if it is to be made of the secret. Raises ArgumentError."""
    return None if secret() is not None else secrets.token_bytes(KEY_BYTES)


def key_of(epoch: int, travelled: bytes | None) -> bytes:
    """A queue's key, from what its handle carries. Raises ArgumentError, LinkError."""
    own = secret()
    if travelled is None:
        if own is None:
            raise LinkError(
                f"the writer's machine makes its queues' keys of {SECRET}, which is not set here: set it to the same"
            )
        extracted = hmac.digest(_LABEL, own, "sha256")  # HKDF (RFC 5869), of one block
        return hmac.digest(extracted, epoch.to_bytes(8, "little") + b"\1", "sha256")
    if own is not None:
        raise LinkError(
            f"{SECRET} is set here, and the queue's handle carries a key: set it on the writer's machine, too"
        )
    if len(travelled) != KEY_BYTES:
        raise LinkError(f"the key in the queue's handle has {len(travelled)} bytes, not {KEY_BYTES}")
    return travelled
