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

PROTOCOL = b"Noise_NNpsk0_25519_AESGCM_SHA256"
KEY_BYTES = 32
TAG_BYTES = 16
DH_BYTES = 32
REKEY_BYTES = 64 << 30
"""After so many bytes a cipher changes its key: the bound of AES-GCM, which is 2^32 blocks of 16 bytes."""

_NONCE = struct.Struct(">IQ")
_REKEY_NONCE = _NONCE.pack(0, (1 << 64) - 1)


class NoiseError(Exception):
    """What came was not made with the same secret, in this place."""


class Cipher:
    """One direction of a connection, once the handshake is over.

    Noise's nonce is four zero bytes and a counter; here a record's kind, below 256, stands in the four bytes, so that
    it is proven with the record. The counter alone makes each nonce new.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._aead = AESGCM(key)
        self._counter = 0
        self._bytes = 0

    def seal(self, kind: int, plain: bytes | memoryview) -> bytes:
        """The ciphertext, and the tag behind it."""
        sealed = self._aead.encrypt(_NONCE.pack(kind, self._counter), plain, None)
        self._count(len(sealed))
        return sealed

    def open(self, kind: int, sealed: bytes | memoryview) -> bytes:
        """Raises NoiseError."""
        try:
            plain = self._aead.decrypt(_NONCE.pack(kind, self._counter), sealed, None)
        except InvalidTag as error:
            raise NoiseError from error
        self._count(len(sealed))
        return plain

    def sign(self, kind: int, clear: bytes | memoryview) -> bytes:
        """The tag of what goes in the clear."""
        tag = self._aead.encrypt(_NONCE.pack(kind, self._counter), b"", clear)
        self._count(len(clear) + TAG_BYTES)
        return tag

    def verify(self, kind: int, clear: bytes | memoryview, tag: bytes | memoryview) -> None:
        """Raises NoiseError."""
        try:
            self._aead.decrypt(_NONCE.pack(kind, self._counter), tag, clear)
        except InvalidTag as error:
            raise NoiseError from error
        self._count(len(clear) + TAG_BYTES)

    def _count(self, nbytes: int) -> None:
        self._counter += 1
        self._bytes += nbytes
        if self._bytes >= REKEY_BYTES:
            self._bytes = 0
            self._key = self._aead.encrypt(_REKEY_NONCE, bytes(KEY_BYTES), None)[:KEY_BYTES]
            self._aead = AESGCM(self._key)


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
