"""A process makes or attaches to a queue as root and becomes an ordinary user afterwards."""

from __future__ import annotations

import os
import sys

import pytest

from tests.support import SHM, run_python

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="needs root, to become somebody else"
)

DROPPED = """
import logging, os, sys  # logging: nobody may not be able to read the library
from ringcast import MessageQueue
from ringcast.errors import SegmentPermissionError

def drop():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)

queue = MessageQueue(2, name=sys.argv[1])
reader = MessageQueue.create_from_handle(queue.export_handle(), 0)
drop()
try:
    MessageQueue.create_from_handle(queue.export_handle(), 1)
except SegmentPermissionError as error:
    assert "belongs to uid 0" in str(error) and "attach before" in str(error), error
else:
    raise AssertionError("a foreign user attached")
queue.evict(1)
queue.enqueue(bytes(4 << 20), timeout=5)
path = "/dev/shm/" + queue.segment
assert os.stat(path).st_blocks * 512 > 4 << 20
"""


def after_dropping(name: str, body: str) -> tuple[str, str]:
    result = run_python(f"{DROPPED}\n{body}\nprint(queue.segment, os.stat(path).st_blocks * 512)", name)
    assert result.returncode == 0, result
    return result.stdout, result.stderr


@pytest.mark.parametrize("order", [("queue", "reader"), ("reader", "queue")])
def test_the_last_end_gives_the_memory_back_whose_name_it_may_not_remove(order: tuple[str, str]) -> None:
    closing = {"queue": "queue.close(0)", "reader": "assert len(reader.dequeue(5)) == 4 << 20\nreader.close()"}
    printed, logged = after_dropping(f"drop-{order[0]}", "\n".join(closing[end] for end in order))
    segment, left = printed.split()
    assert int(left) <= 16 << 10, left
    assert "uid 65534 may not remove the name" in logged
    assert logged.count("\n") == 1, logged
    assert (SHM / segment).exists()
    removed = run_python("from ringcast import MessageQueue; MessageQueue(1).close(0)")
    assert (removed.returncode, removed.stderr) == (0, "")
    assert not (SHM / segment).exists()


def test_a_view_keeps_its_memory_after_both_ends_have_closed() -> None:
    body = """
queue.close(0)
with reader.acquire_read(5) as view:
    kept = view
reader.close()
assert os.stat(path).st_blocks * 512 > 4 << 20
assert bytes(kept) == bytes(4 << 20)
del view, kept"""
    printed, _ = after_dropping("drop-view", body)
    assert int(printed.split()[1]) <= 16 << 10, printed
    run_python("from ringcast import MessageQueue; MessageQueue(1).close(0)")


def test_who_looks_for_a_name_as_another_user_is_told_whose_it_is() -> None:
    printed, _ = after_dropping(
        "drop-name",
        "try: MessageQueue.attach(sys.argv[1], timeout=0)\n"
        "except FileNotFoundError as error: print(error)\n"
        "for end in (reader, queue): end.close()",
    )
    assert "no queue has the name 'drop-name'" in printed
    assert "a queue of uid 0 has it" in printed
    segment = printed.split()[-2]
    assert run_python("from ringcast import MessageQueue; MessageQueue(1).close(0)").returncode == 0
    assert not (SHM / segment).exists()
