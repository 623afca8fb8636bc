"""`ringcast sub`: writes the messages of the queue of that name to the standard output.

Promises that what a message holds is written before the command waits for the next one, that it ends with 0 when the
publisher closes, and quietly when nobody reads its output any more, even while no message comes.
"""

from __future__ import annotations

import os
import select
import stat
import threading
from typing import IO, Any

import click

from ringcast import MessageQueue
from ringcast._arguments import INT64_MAX
from ringcast.cli import common
from ringcast.cli.framing import FRAME_HEADER, frame
from ringcast.cli.ls import complete_names
from ringcast.errors import QueueClosedError, QueueTimeoutError, SegmentNotFoundError, WaitCancelledError

BATCH_BYTES = 1 << 20  # taken at a time: bounds what this process holds when messages are large
BATCH_MESSAGES = 1024
COPY_BYTES = 64 << 10  # messages up to here are joined to one write

HELP = """Write the messages of the queue NAME to the standard output.

Waits for the queue to appear, takes a free rank (or --rank), and ends when the publisher closes. Messages of `bytes`
are written as they are; any other object, sent by a Python program, as its repr and a newline. Messages are unpickled:
read queues of your own only.

With --frames each message is preceded by its length: 4 bytes, unsigned, little-endian. Only `bytes` can be framed.
"""

EPILOG = f"""\b
Example: the first line that is published
  ringcast sub news --count 1

{common.EXIT_CODES}
"""


@click.command("sub", help=HELP, epilog=EPILOG, short_help="Write a queue's messages to the standard output.")
@click.argument("name", shell_complete=lambda context, parameter, start: complete_names(start))
@click.option("--rank", type=common.Whole(0), metavar="RANK", show_default="a free one", help="The rank to take.")
@click.option("--frames", is_flag=True, help="Precede each message with its length.")
@click.option(
    "--timeout", type=common.Seconds(), show_default="never",
    help="Give up when the queue, or the next message, is awaited for longer.",
)  # fmt: skip
@click.option("--count", type=common.Whole(1, INT64_MAX), show_default="all", help="End after so many messages.")
def command(name: str, *, rank: int | None, frames: bool, timeout: float | None, count: int | None) -> None:
    out = common.binary_stdout()
    unread = threading.Event()
    _watch_output(out, unread)
    queue = _attach(name, rank, timeout)
    try:
        _copy(queue, out, frames=frames, timeout=timeout, count=count, unread=unread)
    except WaitCancelledError:
        raise BrokenPipeError from None
    except QueueClosedError:
        out.flush()
    finally:
        queue.close()


def _attach(name: str, rank: int | None, timeout: float | None) -> MessageQueue:
    if common.on_terminal():
        try:
            return MessageQueue.attach(name, rank, timeout=0)
        except SegmentNotFoundError:
            common.note(f"waiting for a publisher: ringcast pub {name}")
    try:
        return MessageQueue.attach(name, rank, timeout=timeout)
    except SegmentNotFoundError as error:
        if timeout is None:
            raise
        raise QueueTimeoutError(str(error)) from error


def _copy(
    queue: MessageQueue,
    out: IO[bytes],
    *,
    frames: bool,
    timeout: float | None,
    count: int | None,
    unread: threading.Event,
) -> None:
    batch = 1
    left = count
    while left is None or left > 0:
        messages = queue.dequeue_many(batch if left is None else min(batch, left), timeout, unread, indefinite=True)
        size = _write(out, messages, frames)
        if queue.qsize() == 0:
            out.flush()
        if left is not None:
            left -= len(messages)
        batch = max(1, min(BATCH_MESSAGES, BATCH_BYTES * len(messages) // max(1, size)))
    out.flush()


def _write(out: IO[bytes], messages: list[Any], frames: bool) -> int:
    if frames:
        pieces = [_framed(message) for message in messages]
    elif all(type(message) is bytes for message in messages):
        pieces = messages
    else:
        pieces = [message if type(message) is bytes else _shown(message) for message in messages]
    size = sum(map(len, pieces))
    if size > COPY_BYTES * len(pieces):
        out.writelines(pieces)
    else:
        out.write(b"".join(pieces))
    return size


def _framed(message: Any) -> bytes:
    if type(message) is not bytes:
        raise common.CommandError(f"a {type(message).__name__} was published, and --frames writes only bytes")
    if len(message) >> (8 * FRAME_HEADER.size):
        raise common.CommandError(f"a message of {len(message)} bytes does not fit the length of a frame")
    return frame(message)


def _shown(message: Any) -> bytes:
    return repr(message).encode(errors="backslashreplace") + b"\n"


def _watch_output(out: IO[bytes], unread: threading.Event) -> None:
    """Set `unread` once the other end of the pipe that `out` writes to is closed, so that no wait outlives it."""
    descriptor = out.fileno()
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISFIFO(mode) and not stat.S_ISSOCK(mode):
        return

    def watch() -> None:
        poll = select.poll()
        poll.register(descriptor, 0)  # errors and hang-ups are always reported
        poll.poll()
        unread.set()

    threading.Thread(target=watch, name="ringcast-sub-output", daemon=True).start()
