"""The link: a process of its own on each machine and job, through which queues reach other machines.

    _noise        the handshake and the ciphers of a connection
    _hello        what two links say before they trust each other
    _channel      one connection between two links: records, each of them proven
    _dial         how a link connects to another one
    _listener     where a link is connected to, and how it keeps strangers out
    _keys         what a queue's connections are proven by
    _desk         how the ends of a machine talk to their link
    _launch       finds the job's link, or starts it
    _process      the link process: its life and end, and who does what is asked

All of it needs the package cryptography, which is said where it is first imported.
"""

from ringcast._extras import needed

needed("cryptography", "a link between machines")
