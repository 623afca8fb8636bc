"""What needs an optional package says so, with the extra that brings it, where it is not installed; the rest works."""

from __future__ import annotations

import pytest

from tests.support import ROOT, run_python

HIDDEN = """
import sys
for package in {hidden!r}:
    sys.modules[package] = None  # an import of it fails
import ringcast
from ringcast import MessageQueue
from ringcast.errors import DecodeError, EncodeError, MissingPackageError
"""
BOTH = """
queue = MessageQueue(1)
reader = MessageQueue.create_from_handle(queue.export_handle(), 0)
def refused(kind, what, extra):
    try:
        what()
    except kind as error:
        assert f'pip install "ringcast[{extra}]"' in str(error), error
        missing = error if kind is MissingPackageError else error.__cause__
        assert isinstance(missing, MissingPackageError) and isinstance(missing, ImportError), missing
        return missing.name
    raise AssertionError("nothing was raised")
"""


def run(script: str, *hidden: str) -> None:
    result = run_python(HIDDEN.format(hidden=hidden) + BOTH + script)
    assert (result.returncode, result.stderr) == (0, "")


def test_objects_travel_without_any_other_package() -> None:
    run(
        """
for message in (b"bytes", {"a": [1, 2.0, None]}, "x" * 1_000_000, bytearray(200_000), {1, 2}):
    queue.enqueue(message)
    assert reader.dequeue(1) == message
with queue.loan(100_000) as memory:
    memory[:5] = b"hello"
assert reader.dequeue(1)[:5] == b"hello"
raw = MessageQueue(1, codec="raw")
other = MessageQueue.create_from_handle(raw.export_handle(), 0)
raw.enqueue(bytearray(b"raw"))
assert other.dequeue(1) == b"raw"
""",
        "numpy", "msgspec", "torch", "pyarrow", "cloudpickle",
    )  # fmt: skip


def test_an_array_cannot_be_loaned_without_numpy() -> None:
    run("""assert refused(MissingPackageError, lambda: queue.loan_array(3, "f4"), "numpy") == "numpy" """, "numpy")


def test_the_msgpack_codec_and_message_types_need_msgspec() -> None:
    run(
        """
assert refused(MissingPackageError, lambda: MessageQueue(1, codec="msgpack"), "msgpack") == "msgspec"
of = lambda: MessageQueue.create_from_handle(queue.export_handle(), 0, message_type=dict)
assert refused(MissingPackageError, of, "msgpack") == "msgspec"
""",
        "msgspec",
    )


@pytest.mark.parametrize(
    ("codec", "message", "hide", "extra"),
    [
        ("pickle", "numpy.ones(10)", "numpy", "numpy"),
        ("msgpack", "numpy.ones(10)", "numpy", "numpy"),
        ("msgpack", "{'a': numpy.ones(10)}", "numpy", "numpy"),
        ("msgpack", "numpy.float32(1)", "numpy", "numpy"),
        ("msgpack", "{'a': 1}", "msgspec", "msgpack"),
    ],
)
def test_a_message_that_needs_a_missing_package_is_consumed_and_the_error_names_the_extra(
    codec: str, message: str, hide: str, extra: str
) -> None:
    """The reader is in a forked child, which cannot import the package."""
    script = f"""
import os, sys
there, handle = os.pipe()
answer, here = os.pipe()
child = os.fork()
if child == 0:
    os.close(handle)
    sys.modules[{hide!r}] = None
    from ringcast import MessageQueue, errors
    with MessageQueue.create_from_handle(eval(os.read(there, 100_000)), 0) as reader:
        try:
            reader.dequeue(10)
        except errors.DecodeError as error:
            assert 'pip install "ringcast[{extra}]"' in str(error), error
            assert isinstance(error.__cause__, errors.MissingPackageError)
            assert reader.dequeue(10) == b"next"
            os.write(here, b"ok")
    os._exit(0)
os.close(here)
import numpy
from ringcast import MessageQueue
with MessageQueue(1, codec={codec!r}) as queue:
    queue.enqueue({message})
    queue.enqueue(b"next")
    os.write(handle, repr(tuple(queue.export_handle())).encode())
    assert os.read(answer, 10) == b"ok"
os.waitpid(child, 0)
"""
    result = run_python(script)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_tensor_cannot_be_sent_without_numpy() -> None:
    script = """
try:
    import torch
except ImportError:
    sys.exit(77)
for message in (torch.ones(100_000), {"a": torch.ones(3)}):
    assert refused(EncodeError, lambda: queue.enqueue(message), "numpy") == "numpy"
"""
    result = run_python(
        "import warnings; warnings.simplefilter('ignore')" + HIDDEN.format(hidden=("numpy",)) + BOTH + script
    )
    if result.returncode == 77:
        pytest.skip("needs torch")
    assert (result.returncode, result.stderr) == (0, "")


def test_the_benchmarks_say_what_they_need_in_a_sentence() -> None:
    script = f"""
import sys
sys.modules["numpy"] = None
sys.path.insert(0, {str(ROOT)!r})
from benchmarks.__main__ import main
sys.exit(main(["--list"]))
"""
    done = run_python(script)
    assert (done.returncode, done.stdout) == (2, "")
    said = 'the benchmarks need the package numpy: make bench, or pip install --editable ".[bench]"\n'
    assert done.stderr == said
