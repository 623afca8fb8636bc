"""What importing costs, where it is refused, and that nothing is said or left at the interpreter's exit."""

from __future__ import annotations

import sys

import pytest

from tests.support import run_python, segments

FOREIGN = ["numpy", "torch", "zmq", "rich", "click", "msgspec", "logging", "asyncio", "multiprocessing"]

LEAVES_QUEUES_OPEN = """
import sys, threading
from ringcast import MessageQueue, ShmRingBuffer
queue = MessageQueue(2)
named = MessageQueue(1, name=sys.argv[1])
queue.enqueue(b"x" * 100_000)
named.enqueue({"a": 1})
first, reader = (MessageQueue.create_from_handle(queue.export_handle(), rank) for rank in (0, 1))
other = MessageQueue.attach(sys.argv[1])
ring = ShmRingBuffer(1, 1000, 4)
view = ring.acquire_write().__enter__()
kept = memoryview(view)
chunk = reader.acquire_read().__enter__()
iterator = iter(reader)
cycle = [queue]; cycle.append(cycle)
class Closes:
    def __init__(self, queue): self.queue = queue
    def __del__(self): self.queue.close(0)
closes = Closes(named)
"""


def test_importing_ringcast_imports_no_third_party_package() -> None:
    result = run_python(
        "import sys, ringcast\n"
        f"print([name for name in {FOREIGN!r} if name in sys.modules])\n"
        "queue = ringcast.MessageQueue(1); queue.enqueue(b'x'); queue.close(0) if 0 else queue.shutdown()\n"
        f"print([name for name in {FOREIGN[:6]!r} if name in sys.modules])"
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split("\n")[:2] == ["[]", "[]"]


def test_importing_a_submodule_directly_works() -> None:
    for module in ("errors", "codec", "_segment", "waiting", "_end", "queue", "ring", "net", "instruments", "_core"):
        result = run_python(f"import ringcast.{module}")
        assert (result.returncode, result.stderr) == (0, ""), module


SUB_INTERPRETER = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
import ringcast  # the main interpreter has it; a second one cannot
code = '''
try:
    import ringcast
except ImportError as error:
    text = str(error)
else:
    text = "imported"
with open({!r}, "w") as file:
    file.write(text)
'''.format(sys.argv[1])
modern = hasattr(interpreters, "set___main___attrs")
other = interpreters.create("legacy") if modern else interpreters.create(isolated=False)
interpreters.run_string(other, code)
interpreters.destroy(other)
queue = ringcast.MessageQueue(1)
queue.enqueue(b"the main interpreter works on")
queue.close(0) if queue.evict(0) else None
"""


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason="3.12 makes every import of such a module an ImportError itself"
)
def test_a_sub_interpreter_is_refused_with_the_reason(tmp_path_factory: pytest.TempPathFactory) -> None:
    answer = tmp_path_factory.mktemp("interpreter") / "answer"
    result = run_python(SUB_INTERPRETER, str(answer))
    assert (result.returncode, result.stderr) == (0, "")
    assert "cannot be imported in a sub-interpreter" in answer.read_text()


@pytest.mark.parametrize("ending", ["", "sys.exit(0)", "del queue, named, reader, other, ring, view, kept, chunk"])
def test_nothing_is_printed_or_left_at_exit_with_queues_open(ending: str) -> None:
    before = segments()
    result = run_python(LEAVES_QUEUES_OPEN + ending, "exit-test-queue", flags=("-W", "error", "-X", "dev"))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert not [name for name in segments() - before if "exit-test" in name]


def test_nothing_is_printed_or_left_at_exit_while_a_thread_waits() -> None:
    script = """
import threading, sys, os
from ringcast import MessageQueue
queue = MessageQueue(1, name=sys.argv[1])
reader = MessageQueue.attach(sys.argv[1])
def wait():
    try:
        reader.dequeue()
    except RuntimeError:
        pass
threading.Thread(target=wait, daemon=True).start()
while reader.stats()["parks"] == 0:
    pass
"""
    before = segments()
    result = run_python(script, "exit-test-thread", flags=("-W", "error", "-X", "dev"))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert not [name for name in segments() - before if "exit-test" in name]


def test_an_uncaught_exception_is_shown_once_and_the_queue_is_gone() -> None:
    script = "import sys\nfrom ringcast import MessageQueue\nq = MessageQueue(1, name=sys.argv[1])\nq.enqueue(1)\n1 / 0"
    before = segments()
    result = run_python(script, "exit-test-error", flags=("-W", "error", "-X", "dev"))
    assert result.returncode == 1
    assert result.stderr.count("Error") == 1
    assert "ZeroDivisionError" in result.stderr
    assert not [name for name in segments() - before if "exit-test" in name]
