"""A job's link process: started by who needs it first, outliving whatever happens to its ends, and leaving nothing."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ringcast import MessageQueue, __version__, _core
from ringcast.errors import (
    ArgumentError,
    BusyError,
    CapacityError,
    ForkedError,
    LinkDiedError,
    LinkError,
    QueueClosedError,
    QueueTimeoutError,
    SegmentExistsError,
    SegmentMismatchError,
    SegmentNotFoundError,
)
from ringcast.instruments import list_queues, sweep
from ringcast.net._deadline import Deadline
from ringcast.net.link import _launch, _process
from ringcast.net.link._desk import MAX_BYTES, Desk, Place, Request, desk_name, new_job
from ringcast.net.link._launch import link_of
from ringcast.net.link._process import LATER, Link
from tests.interrupts import Interrupt
from tests.support import DEADLINE_S, ROOT, SHM, Background, Child, eventually, run_python, runs, stop
from tests.support import Link as Line

PING = {"op": "ping"}
SECOND_S = 1.0
SLACK_S = 19.0
"""For a machine that does other things besides; each would wait for three times as long."""


def link_processes(job: str) -> list[int]:
    """The link processes of this job, also those that have not made a desk."""
    found = []
    for path in (folder / "cmdline" for folder in Path("/proc").glob("[0-9]*")):
        with suppress(OSError):
            words = path.read_bytes().rstrip(b"\0").split(b"\0")
            if words[-1] == job.encode() and b"-I" in words and runs(int(path.parent.name)):
                found.append(int(path.parent.name))
    return found


def only_link(job: str, pid: int) -> bool:
    return link_processes(job) == [pid]


@pytest.fixture
def job() -> Iterator[str]:
    """A job, whose link ends by itself when the test has closed its places."""
    name = new_job()
    yield name
    eventually(lambda: not link_processes(name), "the end of the link")
    eventually(lambda: not (SHM / desk_name(name)).exists(), "the removal of the desk")


def soon() -> Deadline:
    return Deadline(DEADLINE_S)


def ping(job: str) -> int:
    """The pid of the job's link, by its own word."""
    with link_of(job, soon()) as place:
        return int(place.ask(PING, soon())["pid"])


def test_the_first_end_starts_the_link_and_the_others_find_it(job: str) -> None:
    first = link_of(job, soon())
    second = link_of(job, soon())
    pids = {place.ask(PING, soon())["pid"] for place in (first, second)}
    assert pids == {first.link_pid} == {second.link_pid}
    assert f"job '{job}' (pid {first.link_pid})" in first.link
    first.close()
    assert second.ask(PING, soon())["pid"] == second.link_pid
    second.close()
    second.close()
    with pytest.raises(QueueClosedError):
        second.ask(PING, soon())
    assert ping(job) == second.link_pid  # it stays for a while


def test_a_link_ends_when_nobody_is_left_and_the_next_end_starts_another(job: str) -> None:
    first = ping(job)
    eventually(lambda: not runs(first), "its end")
    with pytest.raises(SegmentNotFoundError):
        Place.take(job)
    assert ping(job) != first


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


STARTER = """
import json, os, signal, sys
from ringcast.net._deadline import Deadline
from ringcast.net.link._launch import link_of
{before}
place = link_of(sys.argv[1], Deadline(60))
with open(sys.argv[2], "w") as said:
    json.dump(place.ask({{"op": "ping"}}, Deadline(60)), said)
{after}
"""


def started_by(job: str, tmp_path: Path, before: str = "", after: str = "", **options: Any) -> int:
    """The pid of the link that this program starts."""
    said = tmp_path / "said"
    script = STARTER.format(before=before, after=after)
    done = run_python(script, job, str(said), **options)
    assert done.returncode == 0, done.stderr
    return int(json.loads(said.read_text())["pid"])


def test_a_link_takes_nothing_over_from_its_starter(job: str, tmp_path: Path) -> None:
    before = """
file = os.open("/etc/passwd", os.O_RDONLY)
for number in (file, *os.pipe()): os.set_inheritable(number, True)
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD})
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR2): signal.signal(number, signal.SIG_IGN)
os.environ["RINGCAST_SECRET"] = "a secret of at least sixteen characters"
"""
    pid = started_by(job, tmp_path, before)
    descriptors = {path.name: os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    standard = {descriptors.pop(number) for number in "012"}
    assert standard == {"/dev/null"}
    assert all("/dev/shm" in target for target in descriptors.values()), descriptors
    status = status_of(pid)
    assert status["Cpus_allowed"] == status_of(os.getpid())["Cpus_allowed"]
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert int(status["SigBlk"], 16) == 0
    # Without those that the C library keeps for itself, which nobody can set.
    ignored = {number for number in signal.valid_signals() if int(status["SigIgn"], 16) >> (number - 1) & 1}
    assert ignored == {signal.SIGPIPE, signal.SIGXFSZ}
    assert os.getsid(pid) not in (pid, os.getsid(0))
    assert os.getpgid(pid) != os.getpgid(0)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    for part in ("environ", "cmdline"):
        assert b"SECRET" not in Path(f"/proc/{pid}/{part}").read_bytes()


@pytest.mark.parametrize(
    ("before", "options"),
    [
        ("for number in (0, 1, 2): os.close(number)", {}),
        ("os.makedirs(d := sys.argv[2] + '.d'); os.chdir(d); os.rmdir(d)", {}),
        ("os.environ['PYTHONPATH'] = os.environ['PYTHONHOME'] = '/nowhere'", {}),
        ("os.environ.clear()", {}),
        ("signal.signal(signal.SIGCHLD, signal.SIG_IGN)", {}),
        ("sys.path.insert(0, sys.argv[2] + '.d'); open(sys.argv[2] + '.py', 'w').write('1/0')", {"flags": ("-I",)}),
        ("import threading; threading.Thread(target=signal.pause, daemon=True).start()", {}),
    ],
    ids=["no standard files", "no folder", "another path", "no environment", "no children", "isolated", "threads"],
)
def test_a_link_starts_from_whatever_program(job: str, tmp_path: Path, before: str, options: Any) -> None:
    assert started_by(job, tmp_path, before, "os._exit(0)", **options) == ping(job)


def test_a_link_uses_the_package_that_its_starter_uses_whatever_else_has_its_name(job: str, tmp_path: Path) -> None:
    fake = tmp_path / "ringcast"
    fake.mkdir()
    (fake / "__init__.py").write_text("raise ImportError('the wrong one')")
    (tmp_path / "json.py").write_text("raise ImportError('the wrong one')")
    before = f"sys.path.insert(0, {str(tmp_path)!r}); os.chdir(sys.path[0]); os.environ['PYTHONPATH'] = sys.path[0]"
    assert started_by(job, tmp_path, before) == ping(job)


def _start_and_wait(line: Line, job: str) -> None:
    place = link_of(job, soon())
    line.send(place.ask(PING, soon())["pid"])
    line.recv()


@pytest.mark.parametrize("what", ["SIGINT", "SIGHUP", "SIGTERM", "SIGKILL"])
def test_what_ends_the_starter_and_its_group_leaves_the_link_to_the_others(
    job: str, start: Callable[..., Child], what: str
) -> None:
    starter = start(_start_and_wait, job, wrapper=("setsid",))
    pid = starter.receive()
    place = link_of(job, soon())
    os.killpg(starter.pid, getattr(signal, what))
    with suppress(AssertionError):  # it may say that it was interrupted
        starter.join()
    assert place.ask(PING, soon())["pid"] == pid
    place.close()


def test_a_link_whose_starter_is_killed_while_it_starts_ends_by_itself(job: str) -> None:
    script = f"from ringcast.net.link._launch import *; print(flush=True); link_of({job!r}, Deadline(60)); input()"
    for pause_s in (0.0, 0.02, 0.05, 0.1, 0.2):
        starter = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.PIPE, cwd=ROOT
        )
        assert starter.stdout is not None
        starter.stdout.readline()
        time.sleep(pause_s)  # no synchronisation: so far it has come
        starter.kill()
        starter.communicate()
    assert ping(job) > 0  # by whatever link is there, or by a new one


def _meet(line: Line, job: str) -> None:
    line.send("here")
    line.recv()
    place = link_of(job, soon())
    line.send(place.ask(PING, soon())["pid"])
    line.recv()
    place.close()


def test_of_links_that_are_started_at_once_one_stays(start: Callable[..., Child]) -> None:
    jobs = [new_job() for _ in range(8)]
    starters = [start(_meet_often, jobs) for _ in range(2)]
    for job in jobs:
        for starter in starters:
            assert starter.receive() == "here"
        for starter in starters:
            starter.send("go")
        pids = [starter.receive() for starter in starters]
        assert pids[0] == pids[1]
        eventually(partial(only_link, job, pids[0]), "one link")
        for starter in starters:
            starter.send("leave")
    for starter in starters:
        assert starter.join() == 0
    eventually(lambda: not any(map(link_processes, jobs)), "the end of all links")


def _meet_often(line: Line, jobs: list[str]) -> None:
    for job in jobs:
        _meet(line, job)


def _ask_for_ever(line: Line, job: str) -> None:
    place = link_of(job, soon())
    line.send("asking")
    while True:
        place.ask({"op": "ping", "what": "x" * 5000}, soon())


def test_a_long_answer_that_is_late_is_not_put_over_that_of_the_next_one_at_the_place(job: str) -> None:
    desk = Desk.create(job)

    def asked() -> Request:
        while True:
            desk.wait(DEADLINE_S)
            if found := desk.requests():
                return found[0]

    try:
        first = Place.take(job)
        given_up = Background(first.ask, PING, soon())
        late = asked()
        first.close()
        with pytest.raises(QueueClosedError):
            given_up.result()
        with Place.take(job) as second:
            asking = Background(second.ask, PING, soon())
            request = asked()
            assert request.place % _core.DESK_PLACES == late.place % _core.DESK_PLACES
            desk.answer(request, "x" * 5000)
            desk.answer(late, "y" * 5000)
            while asking.running:
                desk.wait(0.01)
                assert not desk.requests(), "all but the rest of the answer has been asked"
            assert asking.result() == "x" * 5000
    finally:
        desk.close()


def test_askers_that_are_killed_leave_the_link_to_the_others(job: str, start: Callable[..., Child]) -> None:
    place = link_of(job, soon())
    for _ in range(5):
        asker = start(_ask_for_ever, job)
        assert asker.receive() == "asking"
        asker.kill()
        assert place.ask(PING, soon())["pid"] == place.link_pid
    place.close()


def test_a_killed_link_ends_every_wait_within_a_second_and_has_a_successor(job: str) -> None:
    places = [link_of(job, soon()) for _ in range(8)]
    pid = places[0].link_pid
    stop(pid)  # so that nobody is answered
    asking = [Background(place.ask, PING, soon()) for place in places]
    with pytest.raises(QueueTimeoutError, match=r"stopped\) has not answered within 0\.2 s"):
        with Place.take(job) as place:
            place.ask(PING, Deadline(0.2))
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not runs(pid))
    died = time.monotonic()
    for one in asking:
        with pytest.raises(LinkDiedError, match=f"pid {pid}"):
            one.result()
    assert time.monotonic() - died < SECOND_S + SLACK_S
    (left,) = [one for one in sweep(dry_run=True) if one.segment == desk_name(job)]
    assert (left.kind, left.fate, left.name, left.writer_pid) == ("link", "dead", job, pid)
    for place in places:
        place.close()
    assert not [one for one in sweep(dry_run=True) if one.segment == desk_name(job)], "survivors remove it"
    assert ping(job) != pid


def test_three_hundred_ends_are_served(job: str) -> None:
    places = [link_of(job, soon()) for _ in range(300)]
    assert len({place.number for place in places}) == 300
    assert {place.ask(PING, soon())["pid"] for place in places} == {places[0].link_pid}
    for place in places:
        place.close()


def test_a_handler_of_signals_runs_while_an_end_waits(job: str) -> None:
    place = link_of(job, soon())
    stop(place.link_pid)
    seen: list[BaseException] = []

    def handler(*_: object) -> None:
        try:
            place.ask(PING, Deadline(0.5))
        except BusyError as error:
            seen.append(error)
        except QueueTimeoutError:  # the end is not in its call yet
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            return
        os.kill(place.link_pid, signal.SIGCONT)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        assert place.ask(PING, soon())["pid"] == place.link_pid
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(seen) == 1
    place.close()


def test_a_place_is_not_a_forked_child_s(job: str) -> None:
    place = link_of(job, soon())
    child = os.fork()
    if child == 0:
        try:
            place.ask(PING, soon())
        except ForkedError:
            place.close()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert place.ask(PING, soon())["pid"] == place.link_pid
    place.close()


@pytest.mark.parametrize("executable", ["", "/bin/true", "/nowhere/python3"])
def test_where_no_link_can_be_started_the_error_says_what_to_run(
    monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    job = new_job()
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(LinkError, match=f"run `ringcast link {job}`"):
        link_of(job, soon())


def test_what_a_link_that_fails_to_start_says_is_in_the_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    silent = tmp_path / "python3"
    silent.write_text("#!/bin/sh\nexit 1\n")
    silent.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(silent))
    with pytest.raises(LinkError, match="ended without a word"):
        link_of(new_job(), soon())
    monkeypatch.undo()
    monkeypatch.setattr(_launch, "_BOOT", "import nothing_of_this_name")
    with pytest.raises(LinkError, match="nothing_of_this_name"):
        link_of(new_job(), soon())
    monkeypatch.setattr(_launch, "_BOOT", "import time; time.sleep(1000)")
    with pytest.raises(LinkError, match=r"not come up within 0\.2 s"):
        link_of(new_job(), Deadline(0.2))
    name = new_job()
    (SHM / desk_name(name)).write_bytes(bytes(100))
    (SHM / desk_name(name)).chmod(0o600)
    try:
        with pytest.raises(SegmentMismatchError):
            link_of(name, soon())
    finally:
        (SHM / desk_name(name)).unlink()


def test_a_link_by_hand_serves_until_its_last_end_has_left(job: str) -> None:
    pytest.importorskip("click")
    command = [sys.executable, "-m", "ringcast", "link", job]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        eventually((SHM / desk_name(job)).exists)
        with link_of(job, soon()) as place:  # held, or it might end before the second one begins
            assert place.ask(PING, soon())["pid"] == process.pid
            second = subprocess.run(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
        assert second.returncode == 1
        assert f"living link of process {process.pid}" in second.stderr
        _, log = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0
        assert f"the link of job '{job}'" in log


def test_a_link_by_hand_ends_by_ctrl_c_and_frees_its_ends(job: str) -> None:
    pytest.importorskip("click")
    with subprocess.Popen([sys.executable, "-m", "ringcast", "link", job], stderr=subprocess.DEVNULL) as process:
        eventually((SHM / desk_name(job)).exists)
        place = link_of(job, soon())
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
    with pytest.raises(LinkDiedError):
        place.ask(PING, soon())
    place.close()


class Served:
    """A link in this process, on a thread of its own."""

    def __init__(self) -> None:
        self.job = new_job()
        self.desk = Desk.create(self.job)
        self.link = Link(self.desk)
        self.thread = Background(self.link.run)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(_process, "LINGER_S", 0.0)
    one = Served()
    with Place.take(one.job) as place:  # held, or the link might end before the test is over
        place.ask(PING, soon())
        yield one
    one.thread.result()


def test_long_requests_and_answers_arrive_whole(served: Served) -> None:
    served.link.handlers["echo"] = lambda request: request.what["text"]
    place = Place.take(served.job)
    for size in (0, 900, 981, 982, 983, 984, 985, 2000, 100_000):
        text = "".join(chr(32 + (i * 7) % 95) for i in range(size))
        assert place.ask({"op": "echo", "text": text}, soon()) == text
    with pytest.raises(ArgumentError, match=str(MAX_BYTES)):
        place.ask({"op": "echo", "text": "x" * MAX_BYTES}, soon())
    place.close()


def test_what_a_handler_raises_is_raised_where_it_was_asked(served: Served) -> None:
    def fail(error: BaseException) -> Callable[[Request], Any]:
        def handler(request: Request) -> Any:
            raise error

        return handler

    served.link.handlers |= {
        "refuse": fail(LinkError("no route to 10.0.0.9")),
        "capacity": fail(CapacityError("full")),
        "bug": fail(ZeroDivisionError("of the link")),
    }
    place = Place.take(served.job)
    with pytest.raises(LinkError, match=r"^no route to 10\.0\.0\.9$"):
        place.ask({"op": "refuse"}, soon())
    with pytest.raises(CapacityError, match="full"):
        place.ask({"op": "capacity"}, soon())
    with pytest.raises(LinkError, match="ZeroDivisionError: of the link"):
        place.ask({"op": "bug"}, soon())
    for wrong in ({"op": "unknown"}, {"op": ["ping"]}, {}, None, 3):
        with pytest.raises(ArgumentError, match="knows no request"):
            place.ask(wrong, soon())
    assert place.ask(PING, soon())["pid"] == os.getpid()
    place.close()


def test_a_late_answer_to_what_was_given_up_is_not_taken_for_the_next_one(served: Served) -> None:
    slow: list[Request] = []

    def remember(request: Request) -> Any:
        slow.append(request)
        return LATER

    served.link.handlers["slow"] = remember
    place = Place.take(served.job)
    with pytest.raises(QueueTimeoutError):
        place.ask({"op": "slow"}, Deadline(0.1))
    asking = Background(place.ask, {"op": "slow"}, soon())
    eventually(lambda: len(slow) == 2)
    served.desk.answer(slow[0], "late " * 1000)
    assert slow[0].place == slow[1].place == place.number
    assert served.desk.held(place.number)
    served.desk.answer(slow[1], "right " * 1000)
    assert asking.result() == "right " * 1000
    asking = Background(place.ask, {"op": "slow"}, soon())
    eventually(lambda: len(slow) == 3)
    place.close()
    with pytest.raises(QueueClosedError):
        asking.result()
    assert not served.desk.held(place.number)
    served.desk.answer(slow[2], "to nobody")


def test_a_request_that_is_not_json_is_refused(served: Served) -> None:
    core = _core.Place.take(desk_name(served.job), __version__)
    for text in (b"\x02", b"\x03", b"\x03{", b"\x03\xff"):
        assert b'"error"' in core.ask(text, 10**10, 10.0)
    for text in (b"", b"\x00", b"\x04"):  # parts of nothing
        assert len(core.ask(text, 10**10, 10.0)) == 1
    core.close()


def test_sweeps_and_lists_of_queues_leave_a_living_desk_alone(served: Served) -> None:
    with pytest.raises(SegmentExistsError) as taken:
        Desk.create(served.job)
    assert taken.value.pid == os.getpid()
    with MessageQueue(1) as queue:
        queue.close(0)
    found = {one.segment: (one.kind, one.fate, one.name) for one in sweep()}
    assert found[desk_name(served.job)] == ("link", "alive", served.job)
    assert all(one["segment"] != desk_name(served.job) for one in list_queues().unreadable)
    assert (SHM / desk_name(served.job)).exists()


def test_the_next_queue_removes_a_dead_link_s_desk() -> None:
    name = new_job()
    script = "import os, sys; from ringcast.net.link._desk import *; d = Desk.create(sys.argv[1]); os.abort()"
    assert run_python(script, name).returncode == -signal.SIGABRT
    assert (SHM / desk_name(name)).exists()
    MessageQueue(1).close(0)
    assert not (SHM / desk_name(name)).exists()


@pytest.mark.parametrize("wrong", ["", "x" * 12, "a.b", "a/b", "A", "-a", None, 7])
def test_a_job_s_name_is_checked(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match="1 to 11 of the characters"):
        link_of(wrong, soon())


def test_the_longest_job_has_a_name_that_every_system_takes() -> None:
    assert len(new_job()) == 11
    assert len("ringcast_-" + new_job() + ".1z141z3") == _core.MAX_SEGMENT_NAME_BYTES


def test_an_interrupted_request_leaves_the_place_to_the_next(job: str) -> None:
    with link_of(job, soon()) as place:
        for n in itertools.count():
            request = Interrupt([Place.ask, Place._exchange, Place._say], n)
            if not request.run(lambda: place.ask({**PING, "padding": "x" * 200}, soon())):
                break
            assert place.ask(PING, soon())["pid"] == place.link_pid
        assert n > 5
