"""However a process ends, and whatever of a queue is still open then, nothing is printed but its own words."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from ringcast.instruments import sweep
from tests.support import Child, Link, run_python, segments

STRICT = ("-W", "error", "-X", "dev")
HEAD = """
import os, sys, threading
import numpy as np
import ringcast._at_exit, ringcast.errors
from ringcast import MessageQueue, ShmRingBuffer
writer = MessageQueue(2, max_chunks=8)
handle = writer.export_handle()
first, second = (MessageQueue.create_from_handle(handle, rank, zero_copy=rank == 1) for rank in (0, 1))
writer.wait_until_ready(10)
large = np.arange(100_000)
"""

QUIET = {
    "nothing is closed": "writer.enqueue(b'unread')",
    "views are alive in the module": """
writer.enqueue(large)
kept = [first.dequeue(1), memoryview(second.dequeue(1))]""",
    "views are alive in a cycle with their queue": """
class Node: pass
node = Node(); node.self = node; node.queue = first
writer.enqueue([large, large]); node.view = first.dequeue(1)
first.node = node
del node, first, writer""",
    "a private view is alive and was changed": """
writer.enqueue(large)
private = second.dequeue(1); private[:5] = 7""",
    "views outlive their closed queue": """
writer.enqueue(large); view, other = first.dequeue(1), second.dequeue(1)
for end in (first, second, writer): end.close()""",
    "chunks are open": """
chunk = writer.acquire_write(nbytes=100_000); view = chunk.__enter__()
other = MessageQueue(1); loan = other.loan_array(50_000, 'f8'); array = loan.__enter__()""",
    "a chunk is being read": """
writer.enqueue(large)
chunk = first.acquire_read(1); view = chunk.__enter__()""",
    "threads wait": """
for end in (first, second): threading.Thread(target=lambda end=end: list(end), daemon=True).start()
while writer.stats()['readers'][0]['behind']: pass""",
    "a thread calls next": """
import atexit
thread = threading.Thread(target=lambda: [next(first) for _ in range(9)], daemon=True)
atexit.unregister(ringcast._at_exit._close_all)
atexit.register(thread.join)
atexit.register(ringcast._at_exit._close_all)
ringcast._at_exit._open.discard(first)  # it is not closed before the thread has heard of its writer's end
thread.start()
while not first._is_waiting(thread.ident): pass""",
    "a generator reads": """
def messages():
    with first:
        yield from first
writer.enqueue_many([b'1', b'2']); reading = messages(); next(reading)""",
    "a queue that could not be made": """
for wrong in (lambda: MessageQueue(0), lambda: MessageQueue.attach('no-such', timeout=0),
              lambda: MessageQueue.create_from_handle(handle, 7)):
    try: wrong()
    except ringcast.errors.RingcastError as error: kept = error""",
    "a ring is forgotten": "ring = ShmRingBuffer(1, 1000, 4)",
    "everything is deleted by a finalizer at exit": """
import atexit, gc
writer.enqueue(large); view = first.dequeue(1)
def drop():
    global view, first
    del view, first; gc.collect()
atexit.register(drop)""",
    "finalizers use closed ends when the interpreter's modules are gone": """
from ringcast.errors import QueueClosedError
class Last:
    def __del__(self):
        for call in (lambda: writer.enqueue({}), lambda: writer.enqueue_many([b'1']), lambda: writer.try_enqueue(b'2'),
                     lambda: writer.loan(1).__enter__(), writer.stats, writer.export_handle, writer.qsize,
                     lambda: first.dequeue(1), lambda: first.dequeue_many(2), lambda: first.acquire_read().__enter__()):
            try: call()
            except QueueClosedError: continue
            print('no error')
        writer.close()
import builtins
builtins.last = Last(); builtins.last.self = Last()""",
}


@pytest.mark.parametrize("what", QUIET)
def test_nothing_is_printed_at_exit_when(what: str) -> None:
    before = segments()
    result = run_python(HEAD + QUIET[what], flags=STRICT)
    assert (result.returncode, result.stderr, result.stdout) == (0, "", "")
    assert segments() <= before


def test_leaving_a_block_by_sys_exit_ends_with_its_code_and_in_silence() -> None:
    result = run_python(HEAD + "with first, second, writer:\n    writer.enqueue(large)\n    sys.exit(3)", flags=STRICT)
    assert (result.returncode, result.stderr) == (3, "")


@pytest.mark.parametrize(
    "block", ["with writer, first, second:", "with writer.acquire_write(nbytes=100_000) as view:", "if True:"]
)
def test_an_exception_prints_its_own_traceback_and_nothing_else(block: str) -> None:
    result = run_python(HEAD + f"{block}\n    writer.qsize()\n    raise ValueError('mine')", flags=STRICT)
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "ValueError: mine"
    assert not any("ignored" in line or "Warning" in line or "ringcast" in line for line in lines), result.stderr


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("os._exit(5)", 5),
        ("import signal; os.kill(os.getpid(), signal.SIGTERM); signal.pause()", -signal.SIGTERM),
        ("import signal; os.kill(os.getpid(), signal.SIGINT); first.dequeue(10)", -signal.SIGINT),
    ],
)
def test_a_process_that_is_ended_says_nothing_of_its_queues(end: str, code: int) -> None:
    before = segments()
    result = run_python(HEAD + "writer.enqueue(large); view = first.dequeue(1)\n" + end, flags=STRICT)
    assert result.returncode == code
    own = [line for line in result.stderr.splitlines() if "Traceback" in line or line == "KeyboardInterrupt"]
    assert len(own) == (2 if code == -signal.SIGINT else 0)
    assert "ignored" not in result.stderr
    assert own or result.stderr == ""
    sweep()  # as the next queue that is made does
    assert segments() <= before


def _hold(link: Link) -> None:
    from ringcast import MessageQueue

    writer = MessageQueue(1)
    link.send(writer.export_handle())
    writer.wait_until_ready(60)
    link.recv()


def test_a_reader_whose_writer_was_killed_exits_in_silence(start: Callable[..., Child]) -> None:
    writer = start(_hold)
    handle = writer.receive()
    script = """
import pickle, sys
from ringcast import MessageQueue
from ringcast.errors import WriterDiedError
reader = MessageQueue.create_from_handle(pickle.loads(bytes.fromhex(sys.argv[1])), 0)
import os
os.kill(int(sys.argv[2]), 9)
try:
    reader.dequeue(30)
except WriterDiedError:
    print("told")
"""
    import pickle

    result = run_python(script, pickle.dumps(handle).hex(), str(writer.pid), flags=STRICT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "told\n", "")
