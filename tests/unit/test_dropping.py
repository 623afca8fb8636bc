"""What is done in the background for an object that nobody has any more, when the process ends meanwhile."""

from __future__ import annotations

import sys

import pytest

from tests.support import run_python

needs_idle_threads = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has SCHED_IDLE")


@needs_idle_threads
def test_the_end_of_a_process_waits_for_threads_that_have_not_begun() -> None:
    """This one gets no turn while somebody else is on its CPU, so that the program is over before it has begun."""
    program = """
import atexit, os, signal
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
other = os.fork()
while other == 0: pass
atexit.register(os.kill, other, signal.SIGKILL)  # after our own handler, which was registered later
from ringcast._dropping import in_background
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
in_background(os.write, 1, b"begun")
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
"""
    done = run_python(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "begun", "")


def test_once_a_process_ends_nothing_is_begun() -> None:
    program = """
import atexit
begun = []
@atexit.register  # before our own handler, after which it comes
def late():
    _dropping.in_background(begun.append, 1)
    assert not _dropping._beginning and not begun
from ringcast import _dropping
"""
    done = run_python(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_forked_child_waits_for_none_of_its_parent_s_threads() -> None:
    program = """
import os
from ringcast import _dropping
_dropping._beginning[object()] = None
child = os.fork()
if child == 0:
    os._exit(len(_dropping._beginning))
assert os.waitpid(child, 0)[1] == 0
_dropping._beginning.clear()
"""
    done = run_python(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_where_no_thread_can_be_had_the_exit_handlers_see_to_it() -> None:
    program = """
from ringcast import _dropping
def none_left(*_): raise RuntimeError("can't start new thread")
_dropping.start_new_thread = none_left
_dropping.in_background(print, "begun")
"""
    done = run_python(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
