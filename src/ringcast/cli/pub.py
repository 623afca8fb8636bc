"""`ringcast pub`: publishes the standard input, a message a line, to everyone who reads the queue of that name.

Promises that the messages, joined, are the input, byte for byte, and that a line goes out as soon as it has been read:
input is read as it arrives, never waited for while a complete line is at hand.
"""

from __future__ import annotations

import io
import os
import stat
import time

import click

from ringcast import MessageQueue
from ringcast._core import MAX_READERS
from ringcast.cli import common
from ringcast.cli.framing import FrameSplitter, LineSplitter, Splitter
from ringcast.errors import NotReadyError, QueueTimeoutError

BLOCK_BYTES = 256 << 10  # read at a time: large enough to pay, small enough that the bytes are still in the cache
NOTE_SECONDS = 0.5  # how often a person is told which readers are missing
DEFAULT_CHUNKS = 1024
DEFAULT_CHUNK_BYTES = 4 << 20

HELP = r"""Publish each line of the standard input as a message to the queue NAME.

A message is one line as `bytes`, its newline included; readers in Python get it from MessageQueue.attach(NAME). A line
longer than --max-chunk-bytes travels in pieces, so any input at all, binary too, arrives byte for byte.

With --frames a message is what follows its own length: 4 bytes, unsigned, little-endian. A frame longer than
--max-chunk-bytes and an input that ends inside a frame are errors; the frames before are published.

The input is read once --readers readers are there. Readers that come later, in place of others that left, get what is
sent from then on. A slow reader slows the publisher down, one that leaves does not, one that is killed is an error. The
command ends when all is published; what its readers have not read yet stays theirs.
"""

EPILOG = f"""\b
Example:
  ringcast sub news | tail -1 &
  ringcast pub news --readers 1 < /var/log/syslog

{common.EXIT_CODES}
"""


@click.command("pub", help=HELP, epilog=EPILOG, short_help="Publish the standard input, a message a line.")
@click.argument("name")
@click.option("--readers", type=common.Whole(1, MAX_READERS), default=1, show_default=True, help="Readers to wait for.")
@click.option("--frames", is_flag=True, help="The input is length-prefixed frames, not lines.")
@click.option(
    "--max-chunks", type=common.Whole(1), default=DEFAULT_CHUNKS, show_default=True,
    help="Messages that the slowest reader may lag behind.",
)  # fmt: skip
@click.option(
    "--max-chunk-bytes", type=common.byte_size, metavar="SIZE", default=DEFAULT_CHUNK_BYTES, show_default="4MiB",
    help="The largest message; 64KiB and 1MiB are understood.",
)  # fmt: skip
@click.option(
    "--timeout", type=common.Seconds(), show_default="never",
    help="Give up when readers are awaited for longer: to come, or to make room.",
)  # fmt: skip
def command(
    name: str, *, readers: int, frames: bool, max_chunks: int, max_chunk_bytes: int, timeout: float | None
) -> None:
    source = common.binary_stdin()
    splitter = FrameSplitter(max_chunk_bytes) if frames else LineSplitter(max_chunk_bytes)
    queue = MessageQueue(readers, max_chunks=max_chunks, max_chunk_bytes=max_chunk_bytes, name=name)
    try:
        _await_readers(queue, name, readers, timeout)
        if source.isatty():
            common.note("all readers are there: type lines, Ctrl-D ends")
        _publish(queue, source, splitter, timeout)
    finally:
        queue.close()  # waits for nobody: readers of a named queue keep what was published


def _await_readers(queue: MessageQueue, name: str, readers: int, timeout: float | None) -> None:
    """Wait for all; tell a person who watches, each time one comes, which are missing."""
    if not common.on_terminal():
        queue.wait_until_ready(timeout)
        return
    common.note(f"waiting for {readers} reader{'s' if readers > 1 else ''}: ringcast sub {name}")
    end = None if timeout is None else time.monotonic() + timeout
    told = readers
    while True:
        left = NOTE_SECONDS if end is None else min(NOTE_SECONDS, max(0.0, end - time.monotonic()))
        try:
            queue.wait_until_ready(left)
            return
        except NotReadyError as error:
            if end is not None and time.monotonic() >= end:
                ranks = ", ".join(map(str, error.missing))
                raise QueueTimeoutError(
                    f"queue {name!r}: waited {timeout} s for rank{'s' if len(error.missing) > 1 else ''} {ranks}; "
                    f"start a reader: ringcast sub {name}"
                ) from error
            if len(error.missing) < told:
                told = len(error.missing)
                common.note(f"still missing: rank{'s' if told > 1 else ''} {', '.join(map(str, error.missing))}")


def _publish(queue: MessageQueue, source: io.BufferedReader, splitter: Splitter, timeout: float | None) -> None:
    with common.progress("publishing", _bytes_left(source), unit="B") as advance:
        while block := source.read1(BLOCK_BYTES):
            _send(queue, splitter.feed(block), timeout)
            advance(len(block))
            _check(splitter)
        _send(queue, splitter.finish(), timeout)
        _check(splitter)


def _send(queue: MessageQueue, messages: list[bytes], timeout: float | None) -> None:
    if messages:
        queue.enqueue_many(messages, timeout)


def _check(splitter: Splitter) -> None:
    if splitter.error is not None:
        raise common.CommandError(splitter.error)


def _bytes_left(source: io.BufferedReader) -> int | None:
    """What a regular file still holds; None for pipes and terminals, which nobody knows the end of."""
    status = os.fstat(source.fileno())
    return status.st_size - source.tell() if stat.S_ISREG(status.st_mode) else None
