"""The handshake Noise_NNpsk0_25519_AESGCM_SHA256, and the ciphers that it leaves behind.

By "The Noise Protocol Framework", revision 34 (https://noiseprotocol.org/noise.html), over primitives of the package
cryptography. NNpsk0: two messages, new keys for each connection, both sides proven by one secret of 32 bytes.

    -> psk, e
    <- e, ee

What the listening side has read then may still be a recording of an earlier connection. It knows that the other side
has the secret once the first thing sealed by the ciphers has come.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ringcast._core import Cipher

PROTOCOL = b"Noise_NNpsk0_25519_AESGCM_SHA256"
KEY_BYTES = 32
TAG_BYTES = 16
DH_BYTES = 32

_NONCE = struct.Struct(">IQ")


class NoiseError(Exception):
    """What came was not made with the same secret, in this place."""


class Handshake:
    """One side of it. The side that dials writes first; `prologue` is what both sides must have seen alike before."""

    def __init__(self, dials: bool, prologue: bytes, secret: bytes, own: X25519PrivateKey | None = None) -> None:
        self._dials = dials
        self._own = own or X25519PrivateKey.generate()
        self._psk = secret
        self._chain = self.hash = PROTOCOL  # of 32 bytes, as they are
        self._mix_hash(prologue)
        self._aead: AESGCM
        self._counter = 0

    def write(self, payload: bytes) -> bytes:
        """This side's message."""
        if self._dials:
            self._mix_key_and_hash(self._psk)
        public = self._own.public_key().public_bytes_raw()
        self._mix_ephemeral(public)
        if not self._dials:
            self._mix_key(self._agreed())
        sealed = self._aead.encrypt(self._nonce(), payload, self.hash)
        self._mix_hash(sealed)
        return public + sealed

    def read(self, message: bytes) -> bytes:
        """The payload of the other side's message. Raises NoiseError."""
        if not self._dials:
            self._mix_key_and_hash(self._psk)
        self._other = message[:DH_BYTES]
        self._mix_ephemeral(self._other)
        if self._dials:
            self._mix_key(self._agreed())
        sealed = message[DH_BYTES:]
        try:
            payload = self._aead.decrypt(self._nonce(), sealed, self.hash)
        except (InvalidTag, ValueError) as error:  # it is too short for a tag
            raise NoiseError from error
        self._mix_hash(sealed)
        return payload

    def split(self) -> tuple[Cipher, Cipher]:
        """What this side sends by, and what it receives by."""
        first, second = _derived(self._chain, b"", 2)
        return (Cipher(first), Cipher(second)) if self._dials else (Cipher(second), Cipher(first))

    def _agreed(self) -> bytes:
        try:
            return self._own.exchange(X25519PublicKey.from_public_bytes(self._other))
        except ValueError as error:  # a point of low order, or no point
            raise NoiseError from error

    def _mix_ephemeral(self, public: bytes) -> None:
        """With a psk, an ephemeral key goes into the keys, too."""
        self._mix_hash(public)
        self._mix_key(public)

    def _mix_hash(self, data: bytes) -> None:
        self.hash = sha256(self.hash + data).digest()

    def _mix_key(self, material: bytes) -> None:
        self._chain, key = _derived(self._chain, material, 2)
        self._use(key)

    def _mix_key_and_hash(self, material: bytes) -> None:
        self._chain, mixed, key = _derived(self._chain, material, 3)
        self._mix_hash(mixed)
        self._use(key)

    def _use(self, key: bytes) -> None:
        self._aead, self._counter = AESGCM(key), 0

    def _nonce(self) -> bytes:
        self._counter += 1
        return _NONCE.pack(0, self._counter - 1)


def _derived(chain: bytes, material: bytes, count: int) -> Sequence[bytes]:
    """Noise's HKDF."""
    key = hmac.digest(chain, material, "sha256")
    found: list[bytes] = []
    last = b""
    for n in range(1, count + 1):
        last = hmac.digest(key, last + bytes([n]), "sha256")
        found.append(last)
    return found
