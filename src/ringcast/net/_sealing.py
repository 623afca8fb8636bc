"""How what ranks say travels through a store that anybody may write to: no stranger's pickle is ever read.

With `RINGCAST_SECRET`, the same on all ranks, all that they say is sealed, of themselves and in users' objects, by
AES-256-GCM, under a key made of the secret, the group's generation and the name of the value, so that a value that is
captured fits nowhere else. Objects that JSON holds go as JSON; without a secret, pickles go only where none but this
machine's processes reach the store, or where the user trusts all who do (`trust_store=True`).
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from functools import partial
from typing import Any

from ringcast._extras import needed
from ringcast._interruptions import NotRebuilt, Tries
from ringcast.codec import ENVIRONMENT, codec
from ringcast.errors import ArgumentError, DecodeError, EncodeError, GroupSecurityError, PickleRefusedError
from ringcast.net._records import foreign, parsed

SECRET = "RINGCAST_SECRET"
_LEAST_SECRET_CHARS = 22  # 128 bits in base64
_NONCE_BYTES = 12
_JSON, _PICKLE, _SEALED = b"j", b"p", b"s"


class Sealer:
    """How what one group's ranks say travels. `trusted`: pickles may go unsealed."""

    def __init__(self, group: str, trusted: bool) -> None:
        self._secret = secret()
        self._trusted = trusted
        self._group = group
        if self._secret is not None:
            needed("cryptography", f"sealing what ranks say under {SECRET}")

    def seal(self, plain: bytes, key: str) -> bytes:
        """For this place in the store; as it is, without a secret."""
        if self._secret is None:
            return plain
        nonce = os.urandom(_NONCE_BYTES)
        sealed: bytes = self._cipher(key).encrypt(nonce, plain, key.encode())
        return _SEALED + nonce + sealed

    def unseal(self, data: bytes, key: str, sender: str) -> bytes:
        """Raises GroupSecurityError."""
        if self._secret is None:
            if data[:1] == _SEALED:
                raise GroupSecurityError(f"what came from {sender} is sealed, and {SECRET} is not set here")
            return data
        if data[:1] != _SEALED:
            raise GroupSecurityError(f"what came from {sender} is not sealed, though {SECRET} is set here")
        return self._unsealed(data[1:], key, sender)

    def pack(self, obj: Any) -> bytes:
        """An object, for `seal`. Raises EncodeError, GroupSecurityError."""
        return _JSON + json.dumps(obj).encode() if _is_json(obj) else self._pickled(obj)

    def unpack(self, data: bytes, sender: str, tries: Tries | None = None) -> Any:
        """An object, from `unseal`. Raises DecodeError, PickleRefusedError, GroupSecurityError, GroupError."""
        kind, body = data[:1], data[1:]
        if kind == _JSON:
            return parsed(body, f"what came from {sender}")
        if kind != _PICKLE:
            raise foreign(f"what came from {sender}", data)
        self._check_pickle(sender)
        try:
            return (tries or Tries()).rebuilt(partial(pickle.loads, body))
        except NotRebuilt as error:
            raise DecodeError(f"what {sender} sent cannot be rebuilt ({error}); it is consumed") from error.__cause__

    def encode(self, obj: Any, key: str) -> bytes:
        return self.seal(self.pack(obj), key)

    def decode(self, data: bytes, key: str, sender: str) -> Any:
        return self.unpack(self.unseal(data, key, sender), sender)

    def _pickled(self, obj: Any) -> bytes:
        if self._secret is None and not self._trusted:
            raise GroupSecurityError(
                f"an object of {type(obj).__qualname__} is no JSON, and pickles are not sent through a store that "
                f"others can reach: set {SECRET} on all ranks, or pass trust_store=True if all who reach it are trusted"
            )
        try:
            return _PICKLE + pickle.dumps(obj, pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise EncodeError(f"an object of {type(obj).__qualname__} cannot be pickled: {error}") from error

    def _check_pickle(self, sender: str) -> None:
        if self._secret is None and not self._trusted:
            raise GroupSecurityError(
                f"a pickle came from {sender}, and the store can be reached by others: it was not read. "
                f"Set {SECRET} on all ranks, or pass trust_store=True where all who reach it are trusted"
            )
        if codec("pickle").loads is None:
            raise PickleRefusedError(f"{sender} sent a pickle, which {ENVIRONMENT}=0 refuses here")

    def _unsealed(self, body: bytes, key: str, sender: str) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            opened: bytes = self._cipher(key).decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], key.encode())
        except (InvalidTag, ValueError) as error:
            raise GroupSecurityError(
                f"what came from {sender} is not sealed under this rank's {SECRET}, or was changed on its way"
            ) from error
        return opened

    def _cipher(self, key: str) -> Any:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        assert self._secret is not None
        info = b"ringcast group " + hashlib.sha256(key.encode()).digest()
        return AESGCM(HKDF(SHA256(), 32, salt=self._group.encode(), info=info).derive(self._secret))


def secret() -> bytes | None:
    """What `RINGCAST_SECRET` says, if it is set. Raises ArgumentError."""
    text = os.environ.get(SECRET)
    if not text:
        return None
    if len(text) < _LEAST_SECRET_CHARS:
        raise ArgumentError(
            f"{SECRET} has {len(text)} characters; it must have {_LEAST_SECRET_CHARS} at least, and be random: "
            "`ringcast secret` makes one"
        )
    return text.encode()


def _is_json(obj: Any) -> bool:
    """Does it come out of JSON as exactly what it was?"""
    kind = type(obj)
    if obj is None or kind in (bool, int, str, float):
        return True
    if kind is list:
        return all(map(_is_json, obj))
    if kind is dict:
        return all(type(key) is str for key in obj) and all(map(_is_json, obj.values()))
    return False
