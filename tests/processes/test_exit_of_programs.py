"""A program that does not close its queue: however it ends and whoever joins its workers, they get all that was sent,
everybody ends, and nothing is printed but their own words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ringcast import MessageQueue
from ringcast.instruments import sweep
from tests.support import DEADLINE_S, unique_name

WORKER = """
import atexit, os, signal, subprocess, sys, threading
{before}
from ringcast import MessageQueue
def worker(handle):
    reader = MessageQueue.create_from_handle(handle, 0)
    print("got", list(reader), flush=True)
"""
MAIN = """
if __name__ == "__main__":
    queue = MessageQueue(1)
    {start}
    {ready}
    for i in range(5): queue.enqueue(i)
    {end}
"""
PROCESS = (
    "import {library}; {library}.get_context({method!r}).Process(target=worker, args=(queue.export_handle(),)).start()"
)
READY = "queue.wait_until_ready(60)"


def run(path: Path, source: str) -> tuple[int, str, str]:
    program = path / "program.py"
    program.write_text(source)
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "ignore::DeprecationWarning", str(program)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        out, error = process.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    finally:
        sweep()
    return process.returncode, out, "" if _POOL_S_RACE in error else error


_POOL_S_RACE = "thread_wakeup.wakeup()\n"
"""A pool of concurrent.futures whose last work ends while its interpreter does may wake a thread of its own that has
just closed the pipe for that: CPython's, until 3.12, with or without queues."""


def program(start: str, end: str = "", ready: str = READY, before: str = "") -> str:
    return (WORKER.replace("{before}", before) + MAIN).replace("{start}", start).replace("{end}", end).replace(
        "{ready}", ready
    )  # fmt: skip


def process(library: str = "multiprocessing", method: str = "spawn") -> str:
    return PROCESS.format(library=library, method=method)


GOT = "got [0, 1, 2, 3, 4]\n"


@pytest.mark.parametrize("ready", [READY, ""], ids=["attached", "not attached yet"])
@pytest.mark.parametrize("loaded", ["before", "after"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("library", ["multiprocessing", "multiprocess"])
def test_workers_get_all_and_end_when_main_returns(
    tmp_path: Path, library: str, method: str, loaded: str, ready: str
) -> None:
    pytest.importorskip(library)
    before = f"import {library}, {library}.util" if loaded == "before" else ""
    assert run(tmp_path, program(process(library, method), "", ready, before)) == (0, GOT, "")


ENDS = {
    "sys.exit": ("sys.exit(3)", 3),
    "an exception": ("raise ValueError('mine')", 1),
    "a handled SIGTERM": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(4)); os.kill(os.getpid(), signal.SIGTERM); signal.pause()",
        4,
    ),
    "sys.exit in its block": ("\n    with queue: sys.exit(3)", 3),
}


@pytest.mark.parametrize("ready", [READY, ""], ids=["attached", "not attached yet"])
@pytest.mark.parametrize("how", ENDS)
def test_workers_get_all_and_end_when_main_ends_by(tmp_path: Path, how: str, ready: str) -> None:
    end, code = ENDS[how]
    returncode, out, error = run(tmp_path, program(process(), end, ready))
    assert (returncode, out) == (code, GOT)
    assert [line for line in error.splitlines() if line[:1] != " "] == (
        ["Traceback (most recent call last):", "ValueError: mine"] if code == 1 else []
    )


JOINERS = {
    "a process pool, loaded late": """
    handle = queue.export_handle()
    from concurrent.futures import ProcessPoolExecutor
    pool = ProcessPoolExecutor(1); pool.submit(worker, handle)""",
    "a process pool, beside a thread that still sends": """
    from concurrent.futures import ProcessPoolExecutor
    pool = ProcessPoolExecutor(1); pool.submit(worker, queue.export_handle())
    queue.wait_until_ready(60)
    def late():
        threading.main_thread().join(0.3)
        for i in range(5): queue.enqueue(i)
    threading.Thread(target=late).start()
    sys.exit()""",
    "a thread that still sends": process()
    + """
    queue.wait_until_ready(60)
    def late():
        threading.main_thread().join()
        for i in range(5): queue.enqueue(i)
    threading.Thread(target=late).start()
    sys.exit()""",
    "a thread of the same process": """
    threading.Thread(target=worker, args=(queue.export_handle(),)).start()""",
    "a thread of the same process, which selects": """
    from ringcast import Selector, errors
    def select(handle):
        got, reader = [], MessageQueue.create_from_handle(handle, 0)
        selector = Selector(); selector.register(reader, 0)
        try:
            while selector.select(): got.append(reader.dequeue())
        except errors.QueueClosedError: print("got", got, flush=True)
    threading.Thread(target=select, args=(queue.export_handle(),)).start()""",
    "a thread of a pool": """
    from concurrent.futures import ThreadPoolExecutor
    ThreadPoolExecutor(2).submit(worker, queue.export_handle())""",
    "an exit handler that was registered later": """
    import pickle
    code = "import pickle, sys, runpy; runpy.run_path(sys.argv[1])['worker'](pickle.loads(bytes.fromhex(sys.argv[2])))"
    child = subprocess.Popen([sys.executable, "-c", code, __file__, pickle.dumps(queue.export_handle()).hex()])
    atexit.register(child.wait)""",
}


@pytest.mark.parametrize("who", JOINERS)
def test_workers_get_all_and_end_when_who_joins_them_is(tmp_path: Path, who: str) -> None:
    assert run(tmp_path, program(JOINERS[who])) == (0, GOT, "")


def test_a_child_that_has_a_queue_and_a_child_of_its_own_ends_as_main_does(tmp_path: Path) -> None:
    source = program(process(method="fork")).replace('if __name__ == "__main__":', "def parent():")
    source += """
if __name__ == "__main__":
    import multiprocessing
    multiprocessing.get_context("fork").Process(target=parent).start()
"""
    assert run(tmp_path, source) == (0, GOT, "")


def test_an_exit_handler_that_was_registered_later_can_send_last_words(tmp_path: Path) -> None:
    source = program(process(), "atexit.register(lambda: queue.enqueue('stopped'))")
    assert run(tmp_path, source) == (0, "got [0, 1, 2, 3, 4, 'stopped']\n", "")


def test_an_exit_handler_that_runs_after_ours_is_told_that_the_interpreter_is_exiting(tmp_path: Path) -> None:
    before = "atexit.register(lambda: queue.enqueue('stopped'))"
    returncode, out, error = run(tmp_path, program(process(), before=before))
    assert (returncode, out) == (0, GOT)
    assert error.splitlines()[-1].endswith("because the interpreter is exiting")


LATE = """
import atexit, threading
opened = threading.Event()
def opens():
    reader = MessageQueue.attach({name!r})
    print("attached", flush=True)
    opened.set()
    threading.Event().wait()
def by_thread():
    thread = threading.Thread(target=opens, daemon=True)
    thread.start()
    while thread.is_alive() and not opened.wait(0.01): pass
{before}
from ringcast import MessageQueue
{after}
own = MessageQueue(1)  # whose exit handler is registered last, and comes first
"""


@pytest.mark.parametrize(
    ("before", "after", "out"),
    [("", "atexit.register(by_thread)", "attached\n"), ("atexit.register(by_thread)", "", "")],
    ids=["meanwhile", "when all is over"],
)
def test_a_reader_that_a_thread_opens_when_the_program_has_ended_leaves_in_order(
    tmp_path: Path, before: str, after: str, out: str
) -> None:
    with MessageQueue[Any](1, name=unique_name(), max_chunks=2, on_reader_death="raise") as queue:
        source = LATE.format(name=queue.name, before=before, after=after)
        assert run(tmp_path, source) == (0, out, "")
        assert not queue.stats()["readers"]
        for number in range(3):
            queue.enqueue(number, timeout=DEADLINE_S)


def test_what_a_reader_that_never_came_misses_is_one_log_line(tmp_path: Path) -> None:
    returncode, out, error = run(tmp_path, program("queue.export_handle()", ready=""))
    assert (returncode, out, error.count("\n")) == (0, "", 1)
    assert "the process ends, and 5 messages did not reach readers that had not attached (rank 0: 5 messages)" in error


def test_a_queue_whose_handle_was_given_to_nobody_ends_in_silence(tmp_path: Path) -> None:
    assert run(tmp_path, program("", ready="")) == (0, "", "")


@pytest.mark.parametrize("library", ["multiprocessing", "multiprocess", "billiard"])
def test_a_worker_that_keeps_its_reader_in_a_global_leaves_in_order(tmp_path: Path, library: str) -> None:
    pytest.importorskip(library)
    source = f"""
import {library} as library
from ringcast import MessageQueue
def worker(handle):
    global reader
    reader = MessageQueue.create_from_handle(handle, 0)
    assert reader.dequeue(60) == 1
if __name__ == "__main__":
    queue = MessageQueue(1, max_chunks=4)
    process = library.Process(target=worker, args=(queue.export_handle(),)); process.start()
    queue.enqueue(1)
    process.join()
    for i in range(20): queue.enqueue(i, timeout=60)
    print("left in order", process.exitcode)
"""
    returncode, out, error = run(tmp_path, source)
    assert (returncode, out) == (0, "left in order 0\n")
    assert error.count("\n") == 1
    assert "has left; from message 1 on nobody reads for it" in error


ASYNCIO = {
    "timed out": "await asyncio.wait_for(asyncio.to_thread({call}), 0.1)",
    "still waits when main returns": "asyncio.create_task(asyncio.to_thread({call})); await asyncio.sleep(0.1)",
    "is awaited by nobody": "asyncio.get_running_loop().run_in_executor(None, {call}); await asyncio.sleep(0.1)",
}


@pytest.mark.parametrize(
    "call",
    [
        "reader.dequeue", "lambda: list(reader)", "lambda: full.enqueue(b'')", "selector.select",
        "lambda: client.retrieve(keys, wait=3600)",
    ],
)  # fmt: skip
@pytest.mark.parametrize("what", ASYNCIO)
def test_asyncio_run_ends_although_a_call_in_a_thread(tmp_path: Path, what: str, call: str) -> None:
    source = f"""
import asyncio, contextlib
from ringcast import MessageQueue, Selector
from ringcast.pool import Namespace, PoolClient, PoolServer, keys_from_hashes
queue = MessageQueue(1); reader = MessageQueue.create_from_handle(queue.export_handle(), 0)
full = MessageQueue(1, max_chunks=1); full.enqueue(b'')
other = MessageQueue(1); selector = Selector()
selector.register(MessageQueue.create_from_handle(other.export_handle(), 0), "other")
server = PoolServer("{unique_name("exit")}", "1MiB").start()
storing, client = (PoolClient.connect(server.name, layout=4096) for _ in range(2))
keys = keys_from_hashes([b"0"], Namespace("m", dtype="uint8", layout="bytes"))
lease = storing.prepare_store(keys)  # which never ends
async def main():
    with contextlib.suppress(asyncio.TimeoutError):
        {ASYNCIO[what].format(call=call)}
asyncio.run(main())
print("main ends", flush=True)
"""
    returncode, out, error = run(tmp_path, source)
    assert (returncode, out) == (0, "main ends\n")
    assert "Traceback" not in error or "future" in error


def test_a_call_in_a_thread_whose_result_is_awaited_goes_on_waiting(tmp_path: Path) -> None:
    # asyncio's debug mode warns of a step that took 0.1 s, which a busy machine makes of any
    source = """
import asyncio, logging
logging.getLogger("asyncio").setLevel(logging.ERROR)
from ringcast import MessageQueue
queue = MessageQueue(1); reader = MessageQueue.create_from_handle(queue.export_handle(), 0)
async def main():
    waiting = asyncio.create_task(asyncio.to_thread(reader.dequeue))
    while queue.stats()["readers"][0]["behind"] or reader.stats()["parks"] < 4: await asyncio.sleep(0.01)
    queue.enqueue("there")
    print(await waiting, flush=True)
asyncio.run(main())
"""
    assert run(tmp_path, source) == (0, "there\n", "")


def test_readers_that_have_not_come_are_waited_for_once_and_not_for_each_queue(tmp_path: Path) -> None:
    source = """
import itertools, logging
from ringcast import MessageQueue, _at_exit, _end
logging.disable()
class Promised(MessageQueue):
    def _close(self, linger):
        print(linger, all(each.closed for each in queues))
        return super()._close(0)
queues = [Promised(1) for _ in range(4)]
for queue in queues:
    queue.export_handle()
    queue.enqueue(b"nobody comes")
clock = itertools.count(100.0, 3.0)  # closing one takes 3 s
_end.time.monotonic = lambda: next(clock)
_at_exit._close(queues)
"""
    assert run(tmp_path, source) == (0, "2.0 True\n" + 3 * "0.0 True\n", "")


@pytest.mark.parametrize("cycle", [False, True])
def test_messages_of_a_queue_that_nobody_keeps_are_not_lost_in_silence(tmp_path: Path, cycle: bool) -> None:
    source = f"""
import gc, os
from ringcast import MessageQueue
def send():
    queue = MessageQueue(2)
    if {cycle}: queue.itself = queue
    handle = queue.export_handle()
    reader = MessageQueue.create_from_handle(handle, 0)
    queue.enqueue_many([b"1", b"2"])
    return handle, reader
handle, reader = send()
gc.collect()
if os.fork() == 0: os._exit(0)
print(list(reader))
"""
    code, out, error = run(tmp_path, source)
    assert (code, out) == (0, "[b'1', b'2']\n")
    assert error.count("\n") == 1
    assert (
        "nothing referred to it any more, and 2 messages did not reach readers that had not attached (rank 1: 2"
        in error
    )
