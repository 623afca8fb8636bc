"""Other code of the process closes descriptors that it did not open, as daemonizers do, and opens files of its own."""

from __future__ import annotations

import pytest

from tests.support import run_python

AFTERWARDS = """
import errno, os, sys, tempfile
from ringcast import MessageQueue
from ringcast.errors import SystemCallError

queue = MessageQueue(1, max_chunks=2, **QUEUE)
reader = MessageQueue.create_from_handle(queue.export_handle(), 0)
queue.enqueue(b"x" * 1_000_000)
assert len(reader.dequeue()) == 1_000_000
os.closerange(3, 64)
files = [tempfile.TemporaryFile(buffering=0) for _ in range(8)]
for file in files:
    file.write(b"precious")

def refused(call):
    try:
        call()
    except SystemCallError as error:
        text = str(error)
        assert error.errno == errno.EBADF, repr(error)
        assert queue.segment in text and "was closed by other code" in text and "aemonize" in text, text
    else:
        raise AssertionError("it went on with a descriptor that is not its own")

def untouched():
    for file in files:
        assert os.fstat(file.fileno()).st_size == 8
        file.seek(0)
        assert file.read() == b"precious"
"""


def script(body: str, **queue: object) -> None:
    result = run_python(f"QUEUE = {queue!r}\n{AFTERWARDS}\n{body}\nprint('done')")
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", ""), result


@pytest.mark.parametrize("end", ["writer", "reader"])
def test_no_file_of_the_user_is_changed_asked_or_closed_in_place_of_the_lock_descriptor(end: str) -> None:
    use = {
        "writer": "refused(lambda: queue.enqueue(bytes(8 << 20), timeout=60))",
        "reader": "refused(lambda: reader.dequeue(timeout=60))",
    }
    script(f"{use[end]}\nrefused(queue.stats)\nreader.close()\nqueue.close(0)\nuntouched()")


def test_a_full_queue_of_which_no_lock_can_be_asked_is_an_error_and_not_a_dead_reader() -> None:
    script("queue.enqueue(1)\nqueue.enqueue(2)\nrefused(lambda: queue.enqueue(3, timeout=60))\nuntouched()")


def test_a_forked_child_keeps_files_that_have_the_numbers_of_lost_descriptors() -> None:
    script("""
pid = os.fork()
if pid == 0:
    untouched()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
untouched()""")


def test_the_name_is_removed_although_the_descriptor_is_lost() -> None:
    script(
        """
path = "/dev/shm/" + queue.segment
assert os.path.exists(path)
queue.close(0)
assert not os.path.exists(path)""",
        name="lost",
    )


def test_a_new_queue_that_gets_the_number_works_and_is_not_disturbed_by_the_end_of_the_old_one() -> None:
    script("""
for file in files:
    file.close()
again = MessageQueue(1)
attached = MessageQueue.create_from_handle(again.export_handle(), 0)
refused(queue.stats)
reader.close()
queue.close(0)
again.enqueue(bytes(1 << 20))
assert len(attached.dequeue(60)) == 1 << 20
assert again.stats()["readers"][0]["alive"]""")
