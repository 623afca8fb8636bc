"""Every test runs in a /dev/shm of the run's own and leaves no segment and no process; `start` makes processes."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import active_children, resource_tracker
from pathlib import Path
from typing import Any

import pytest

from ringcast._names import LINK_PREFIX
from tests import own_shm
from tests.pool.mooncake import Mooncake
from tests.support import SHM, Child, creator_of, eventually, segments, started_pids

# Threads for linear algebra, which nothing here needs, spin when they start: two fifths of what importing NumPy costs.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so, and every program that a test starts would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # So does nohup; programs that are started from here are to be ended by it as usual, and this run is not.
    signal.signal(signal.SIGHUP, lambda *_: None)


RELAYS_GO_WITHIN_S = 30.0

_lasting: set[int] = set()
"""Processes that serve all tests of a run."""
_shared_because: str | None = "pytest has not been configured"
"""Why /dev/shm is not the tests' own; None if it is."""


def pytest_configure() -> None:
    global _shared_because
    _shared_because = own_shm.enter()
    if _shared_because is not None and os.environ.get("CI"):
        raise pytest.UsageError(f"the tests need a /dev/shm of their own: {_shared_because}")


def _is_ours(name: str) -> bool:
    """Was it left by this process or one that a test started? Of a /dev/shm of our own everything is."""
    if _shared_because is None:
        return True
    try:
        return creator_of(SHM / name) in {os.getpid(), *started_pids}
    except (OSError, ValueError):
        return f"{os.getpid()}-" in name  # made by a test, damaged on purpose


def _children() -> set[int]:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()  # as nearly always, and much sooner known than by looking at every process
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[1]) == os.getpid():
            found.add(int(name))
    tracker: Any = resource_tracker
    return found - {tracker._resource_tracker._pid}


def _links() -> set[str]:
    """The desks of link processes. A link ends by itself, a while after the last of its ends."""
    return {name for name in segments() if name.startswith(LINK_PREFIX)}


@pytest.fixture(autouse=True, scope="module")
def _leaves_no_links_behind() -> Iterator[None]:
    before = _links()
    yield
    eventually(lambda: _links() <= before, "the end of all links")


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nor a link, unless the tests of the module say by LINKS_STAY that they take that of the one before over."""
    segments_before = segments()
    children_before = _children()
    yield
    gc.collect()
    gc.freeze()  # what is left is no test's garbage; looking through it again after each would take most of the time
    active_children()  # reaps those of multiprocessing that have ended
    assert _children() - children_before - _lasting == set(), "child processes are left"
    links_stay = getattr(request.module, "LINKS_STAY", False)
    if not links_stay:
        eventually(lambda: _links() <= segments_before, "the end of all links")
    elif _links():  # which lets go of its rings a moment later
        with suppress(AssertionError):
            eventually(lambda: segments() - _links() <= segments_before, timeout=RELAYS_GO_WITHIN_S)
    left = {name for name in segments() - segments_before if _is_ours(name)}
    left -= _links() if links_stay else set()
    for name in left:  # so that one test's leak is one failure
        (SHM / name).unlink(missing_ok=True)
    assert left == set(), "segments are left in /dev/shm"


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    """Starts a Child, and kills it at the end of the test if it still runs."""
    children: list[Child] = []

    def start_child(function: Callable[..., None], *arguments: Any, **options: Any) -> Child:
        children.append(Child(function, *arguments, **options))
        return children[-1]

    yield start_child
    for child in children:
        child.discard()


@pytest.fixture(scope="session")
def mooncake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mooncake]:
    """A real Mooncake Store for all tests of this process, each with a prefix of its own."""
    found = Mooncake(tmp_path_factory.mktemp("mooncake") / "log")
    _lasting.update((found.master.pid, found.lender.pid))
    yield found
    found.close()


def pytest_report_header() -> str:
    import ringcast

    alone = _shared_because is None
    shm = "of this run alone" if alone else f"shared with this machine's other programs: {_shared_because}"
    package = f"ringcast {ringcast.__version__} from {Path(ringcast.__file__).parent}, {sys.implementation.cache_tag}"
    return f"{package}\n{SHM} is {shm}"
