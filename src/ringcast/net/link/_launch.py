"""Finds the link process of a job, or starts it.

A link belongs to nobody: it outlives whoever started it, and whatever is done to the starter or its terminal. So it is
started by a fresh interpreter that forks once more and ends, in a session of its own, with nothing of the starter's but
the environment, and of that no variable of ringcast's but the log's file: no descriptor, no blocked or ignored signal,
no CPU pin, no folder, no limit on open files that may be raised. Only its standard error leads back, until its desk is
there, and tells the starter that, or why not. Two that are started at once both want the desk's name: one gets it, the
other ends.
"""

from __future__ import annotations

import os
import re
import resource
import select
import signal
import subprocess
import sys
from contextlib import suppress

from ringcast import _version
from ringcast._refusals import named
from ringcast.errors import LinkError, RingcastError, SegmentExistsError, SegmentNotFoundError
from ringcast.net._deadline import Deadline
from ringcast.net.link._desk import Place, desk_name
from ringcast.net.link._log import VARIABLE, path_wanted

FIRST_END_S = 5.0
"""So long a link that was started waits for its first end: the starter may have been killed meanwhile."""
_READY, _TAKEN = b"ringcast link: ready\n", b"ringcast link: another has the desk\n"
_CPUS = 4096
"""More than a machine has: the system takes of them those that this process's control group allows."""

# The package is loaded from its place, and not by name, so that the path's order decides nothing.
_BOOT = """
import os, sys
if os.fork(): os._exit(0)
folder, job = sys.argv[1:]
sys.path.append(folder)
from importlib import util
spec = util.spec_from_file_location("ringcast", os.path.join(folder, "ringcast", "__init__.py"))
sys.modules["ringcast"] = package = util.module_from_spec(spec)
spec.loader.exec_module(package)
from ringcast.net.link._launch import born
born(job)
"""


def link_of(job: str, deadline: Deadline) -> Place:
    """A place at the desk of the job's link, which is started if there is none.

    Raises LinkError if it cannot be started, or not before the deadline, and what `Place.take` raises.
    """
    desk_name(job)
    while True:
        with suppress(SegmentNotFoundError):
            return Place.take(job)
        _start(job, deadline)


def _start(job: str, deadline: Deadline) -> None:
    """Start a link, and wait until it, or another one, has made the desk."""
    command = [_interpreter(job), "-I", "-c", _BOOT, os.path.dirname(os.path.dirname(_version.__file__)), job]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RINGCAST_")}
    if (path := path_wanted()) is not None:
        environment[VARIABLE] = path
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        refused = named(error, "starting a process")
        raise _not_started(job, str(error) if refused is error else str(refused)) from error
    assert process.stderr is not None
    try:
        said = _all_said(process.stderr.fileno(), deadline)
    finally:
        process.stderr.close()
        process.kill()  # ended long ago, unless the time is over
        process.wait()
    if said is None:
        raise _not_started(job, f"it has not come up within {deadline.seconds:g} s")
    if not said.endswith((_READY, _TAKEN)):
        lines = said.decode(errors="replace").strip().splitlines()
        raise _not_started(job, lines[-1] if lines else f"{command[0]} ended without a word")


def _all_said(descriptor: int, deadline: Deadline) -> bytes | None:
    """All that comes until its end; None if that does not come in time."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    said = b""
    while poll.poll(deadline.left * 1000):
        part = os.read(descriptor, 65536)
        if not part:
            return said
        said = (said + part)[-65536:]
    return None


def _interpreter(job: str) -> str:
    path = sys.executable
    if not path or getattr(sys, "frozen", False) or not re.match(r"python|pypy", os.path.basename(path), re.IGNORECASE):
        raise _not_started(job, f"this program's sys.executable, {path!r}, is no Python interpreter")
    return path


def _not_started(job: str, why: str) -> LinkError:
    return LinkError(
        f"the link process of job '{job}' could not be started: {why}. To see more, or where programs cannot start it, "
        f"run `ringcast link {job}` on this machine before"
    )


def born(job: str) -> None:
    """The link process, from its first line of Python on: become nobody's, and be the link."""
    _take_nothing_over()
    from ringcast.net.link._process import main

    def ready() -> None:
        _say(_READY)
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 2)
        os.close(nowhere)

    try:
        main(job, on_ready=ready, first_end_s=FIRST_END_S)
    except SegmentExistsError as error:
        _say(_TAKEN if error.pid else f"{error}\n".encode())
    except RingcastError as error:
        _say(f"{error}\n".encode())


def _take_nothing_over() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # which Python itself ignores
        with suppress(OSError, ValueError):  # those that cannot be handled
            signal.signal(number, signal.SIG_DFL)
    if hasattr(os, "sched_setaffinity"):
        with suppress(OSError):
            os.sched_setaffinity(0, range(_CPUS))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(OSError, ValueError):  # a starter's limit is not meant for who serves all ends of the job
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with suppress(OSError), open("/proc/self/comm", "w") as name:
        name.write("ringcast-link")


def _say(text: bytes) -> None:
    """To the starter, if it is still there."""
    with suppress(OSError):
        os.write(2, text)
