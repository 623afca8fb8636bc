"""A process ends as it should while its daemon threads are inside calls of the library, wherever in them.

Until Python 3.13 the interpreter ends a thread that asks for its lock after the exit handlers have run, by unwinding
its stack; from 3.14 on such a thread sleeps.
"""

from __future__ import annotations

import pytest

from ringcast.instruments import sweep
from tests.support import run_python

# A daemon thread stops in Python code that runs below a call of the library, and is let go by a finalizer of the main
# module, when the interpreter is on its way out: the thread then asks for the lock. The finalizer goes on once the
# thread has ended or sleeps again.
HEAD = """
import logging, os, threading
from ringcast import MessageQueue
from ringcast.instruments import list_queues, sweep

def is_over(thread, before, open=open):
    try:
        with open(f'/proc/self/task/{thread}/status') as file:
            fields = dict(line.split(':', 1) for line in file)
    except FileNotFoundError:
        return True
    return 'S' in fields['State'] and int(fields['voluntary_ctxt_switches']) > before

def switches(thread, open=open, int=int):
    with open(f'/proc/self/task/{thread}/status') as file:
        return int(dict(line.split(':', 1) for line in file)['voluntary_ctxt_switches'])

class Last:
    def __del__(self, write=os.write, is_over=is_over, switches=switches):
        before = switches(self.thread)
        write(to_thread[1], b'.')
        while not is_over(self.thread, before):
            pass

to_thread, to_main = os.pipe(), os.pipe()
last = Last()

def stop(*arguments):
    last.thread = threading.get_native_id()
    os.write(to_main[1], b'.')
    os.read(to_thread[0], 1)
    return False

class Stops:
    is_set = __float__ = __reduce__ = stop
    def __iter__(self):
        yield b'1'
        stop()

class Made:
    def __reduce__(self): return stop, ()

class Dropped:
    __del__ = stop
    def __reduce__(self): return Dropped, (), None, iter([1])  # has no append

writer = MessageQueue(1, max_chunks=2, on_full='evict', full_deadline=0)
reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
def call():
    %s
threading.Thread(target=call, daemon=True).start()
os.read(to_main[0], 1)
print('ends', flush=True)
"""

CALLS = {
    "a look at the cancel event": "reader.dequeue(cancel=Stops())",
    "the reduction of an object": "writer.enqueue(Stops())",
    "the reduction of one of many": "writer.enqueue_many([b'1', Stops()])",
    "an iterator of messages": "writer.enqueue_many(Stops())",
    "the making of a received object": "writer.enqueue(Made()); reader.dequeue()",
    "the making of one of many": "writer.enqueue(Made()); reader.dequeue_many(9)",
    "the finalizer of what could not be made": "writer.enqueue(Dropped()); reader.dequeue()",
    "the conversion of a time-out": "reader.dequeue(Stops())",
    "a call of the binding library": "reader.wait_until_ready(Stops())",
    "the iteration": "writer.enqueue(Made()); next(reader)",
    "the filter of a log line": """
    logging.getLogger('ringcast.evict').addFilter(stop)
    writer.enqueue_many([b'1', b'2', b'3'])""",
}


@pytest.mark.parametrize("what", CALLS)
def test_a_thread_that_the_interpreter_ends_inside_a_call_does_not_end_the_process_during(what: str) -> None:
    result = run_python(HEAD % CALLS[what])
    assert (result.returncode, result.stdout, result.stderr) == (0, "ends\n", "")


LOOPS = {
    "makes queues": "MessageQueue(1).close()",
    "attaches": "MessageQueue.attach(named.name).close()",
    "sweeps": "sweep(True)",
    "sends and receives large messages": "writer.enqueue(large); reader.dequeue()",
    "waits for moments": "with suppress(TimeoutError): reader.dequeue(timeout=0.0003)",
}


@pytest.mark.parametrize("what", LOOPS)
def test_a_process_ends_with_0_while_threads_do_nothing_but(what: str) -> None:
    script = f"""
import os, threading
from contextlib import suppress
from ringcast import MessageQueue
from ringcast.instruments import list_queues, sweep
writer = MessageQueue(1); reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
named = MessageQueue(1, name='exits%d' % os.getpid())
large = bytes(8 << 20)
rounds = [0] * 4
def loop(which):
    try:
        while True:
            {LOOPS[what]}
            rounds[which] += 1
    except BaseException: pass
for which in range(4): threading.Thread(target=loop, args=(which,), daemon=True).start()
while not sum(rounds) > 20: pass
"""
    for _ in range(4):
        result = run_python(script)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    sweep()  # a queue that was being made is left behind, as by a killed process


def test_an_exit_waits_for_objects_that_are_being_rebuilt_by_other_code() -> None:
    """That code may be C++, whose frames the interpreter's way of ending a daemon thread does not survive."""
    result = run_python(
        """
import threading, time
from ringcast import MessageQueue
begun = threading.Event()
class Slow:
    def __reduce__(self): return rebuild, ()
def rebuild():
    begun.set()
    time.sleep(0.2)  # what is awaited
    print("rebuilt", flush=True)
writer = MessageQueue(1)
reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
writer.enqueue(Slow())
threading.Thread(target=reader.dequeue, daemon=True).start()
begun.wait()
"""
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "rebuilt\n", "")
