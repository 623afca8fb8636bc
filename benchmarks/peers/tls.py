"""TLS 1.3 by the standard library's ssl, over TCP, with a certificate made for the run.

A message is preceded by its length, an array by a header. The kernel bounds what is under way, not `depth`. Arrays are
received into one buffer, used again and again: in the library's favour, as its reader would have to be done with one
before it receives the next.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from io import BufferedReader
from ipaddress import ip_address
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import numpy as np

from ringcast.cli.lab.subject import QueueSpec, Receiver, Sender, SubjectBase

from . import arrays
from .ringcast_link import ACROSS, LOOPBACK

_LENGTH_BYTES = 4
_BUFFER_BYTES = 64 << 10


@dataclass(frozen=True)
class Tls(SubjectBase):
    """See the module."""

    def place(self, spec: QueueSpec) -> Any:
        """A socket that listens, and the certificate with its key."""
        certificate = Path(spec.workdir) / "certificate.pem"
        if not certificate.exists():
            certificate.write_bytes(_certificate())
        return socket.create_server((LOOPBACK, 0)), str(certificate)

    def sender(self, spec: QueueSpec, address: Any, links: Sequence[Connection]) -> Sender:
        """The writer's end: it accepts."""
        listening, certificate = address
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(certificate)
        accepted, _ = listening.accept()
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secure = context.wrap_socket(accepted, server_side=True)

        def send_bytes(message: bytes) -> None:
            secure.sendall(len(message).to_bytes(_LENGTH_BYTES, "little") + message)

        def send_array(array: arrays.Array) -> None:
            secure.sendall(arrays.header(array))
            secure.sendall(arrays.raw(array))

        return Sender(send_array if spec.payload == "array" else send_bytes, secure.close)

    def receiver(self, spec: QueueSpec, address: Any, rank: int, link: Connection) -> Receiver:
        """The reader's end: it connects."""
        listening, certificate = address
        context = ssl.create_default_context(cafile=certificate)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        plain = socket.create_connection(listening.getsockname())
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secure = context.wrap_socket(plain, server_hostname=LOOPBACK)
        stream = cast(BufferedReader, secure.makefile("rb", _BUFFER_BYTES))
        buffer = np.ones(spec.max_bytes, np.uint8)

        def recv_bytes() -> bytes:
            return stream.read(int.from_bytes(stream.read(_LENGTH_BYTES), "little"))

        def recv_array() -> arrays.Array:
            head = stream.read(arrays.HEADER_BYTES)
            array = arrays.restore(head, buffer[: arrays.nbytes(head)])
            stream.readinto(arrays.raw(array))
            return array

        def close() -> None:
            stream.close()
            secure.close()

        return Receiver(recv_array if spec.payload == "array" else recv_bytes, close)


def _certificate() -> bytes:
    """Of loopback, signed by itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ringcast benchmarks")])
    now = datetime.now(timezone.utc)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return built.public_bytes(serialization.Encoding.PEM) + private


SUBJECTS = (Tls("tls", "TLS 1.3, ssl module", "ssl", only=ACROSS),)
