"""The link: a process on each machine of a job that carries queues between machines.

    _noise        the handshake and the ciphers of a connection
    _hello        what two links say before they trust each other
    _channel      one connection between two links: records, each of them proven
    _dial         how a link connects to another one
    _listener     where a link is connected to, and how it keeps strangers out
    _keys         what a queue's connections are proven by

All of it needs the package cryptography, which is said where it is first imported.
"""

from ringcast._extras import needed

needed("cryptography", "a link between machines")
