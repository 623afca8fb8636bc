"""Workers that end, or do not start: whoever waits for them is told, and nothing of them is left."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest

from ringcast import MessageQueue, WorkerGroup
from ringcast.errors import ArgumentError, CallTimeoutError, QueueClosedError, WorkerDiedError
from ringcast.workers import _starting
from tests.support import ROOT, Background, Child, Link, eventually, runs, segments
from tests.workers.objects import LONG_S, Broken, Gate, Model, NotThere

PROMPT_S = 30.0
"""Well above the second that is promised, for busy machines, and well below what any of these would take otherwise."""


@pytest.mark.parametrize(
    ("how", "said", "code"),
    [
        ("exit", "exit code 7", 7),
        ("_exit", "exit code 7", 7),
        ("kill", "SIGKILL", -signal.SIGKILL),
    ],
)
def test_a_worker_that_ends_in_a_call_fails_it_and_says_how(how: str, said: str, code: int) -> None:
    with WorkerGroup(Model, 2) as group:
        with pytest.raises(WorkerDiedError, match=said) as caught:
            group.call("end", how, 1)
        assert (caught.value.rank, caught.value.pid, caught.value.exitcode) == (1, group.pids[1], code)
        assert "'end'" in str(caught.value)
        with pytest.raises(WorkerDiedError, match="nothing was sent"):
            group.call("rank")
        assert group.call("rank", ranks=[0]) == [0]


def test_a_death_is_logged_with_how_it_came(caplog: pytest.LogCaptureFixture) -> None:
    with WorkerGroup(Model, 2) as group:
        first, second = group.pids
        with pytest.raises(WorkerDiedError) as caught:
            group.call("end", "exit in order", 1)
        assert caught.value.exitcode == 0
        os.kill(first, signal.SIGKILL)
        eventually(lambda: "[0, 1] have ended" in repr(group))
    told = [record.getMessage() for record in caplog.records if "WorkerGroup(Model, 2): rank" in record.getMessage()]
    assert len(told) == 2
    assert f"pid {second}) ended with exit code 0, in call 0, 'end'" in told[0]
    assert f"pid {first}) was ended by SIGKILL, and it had no call" in told[1]


def test_a_death_fails_all_that_the_worker_had_to_do_and_nothing_else() -> None:
    with WorkerGroup(Model, 2) as group:
        busy = group[1].submit("nap", 600)
        behind = group[1].submit("rank")
        other = group[0].submit("rank")
        asking = Background(group[1].call, "rank")
        os.kill(group.pids[1], signal.SIGKILL)
        for future in (busy, behind):
            with pytest.raises(WorkerDiedError, match="SIGKILL"):
                future.result(PROMPT_S)
        with pytest.raises(WorkerDiedError):
            asking.result(PROMPT_S)
        assert other.result(PROMPT_S) == 0
        assert group[0].call("rank") == 0


def test_an_idle_worker_s_death_is_known_to_the_next_call() -> None:
    with WorkerGroup(Model, 1) as group:
        os.kill(group.pids[0], signal.SIGKILL)
        eventually(lambda: "[0] have ended" in repr(group))
        with pytest.raises(WorkerDiedError, match="before this call"):
            group.call("rank")


def test_a_worker_that_serves_no_more_but_does_not_end_is_ended() -> None:
    with WorkerGroup(Model, 1) as group:
        with pytest.raises(WorkerDiedError):
            group[0].submit("linger").result(PROMPT_S)
        assert not runs(group.pids[0])


def test_a_rank_can_be_brought_back() -> None:
    with WorkerGroup(Model, 2, args=(5,)) as group:
        with pytest.raises(ArgumentError, match="has not ended"):
            group.respawn(1)
        for _ in range(3):
            first = group.pids[1]
            with pytest.raises(WorkerDiedError):
                group.call("end", "kill", 1)
            for number in range(200):  # more than the ring holds
                assert group[0].call("echo", number) == number
            group.respawn(1)
            assert group.pids[1] != first
            assert group.call("add", 1) == [6, 6]
            assert group[1].call("seen") == []


def test_what_a_worker_answered_before_it_ended_has_been_answered() -> None:
    with WorkerGroup(Model, 1) as group:
        answered = [group[0].submit("echo", number) for number in range(20)]
        last = group[0].submit("end", "_exit")
        with pytest.raises(WorkerDiedError):
            last.result(PROMPT_S)
        assert [future.result(PROMPT_S) for future in answered] == list(range(20))


@pytest.mark.parametrize("rank", [None, 1])
def test_an_exception_while_an_object_is_made_is_raised(rank: int | None) -> None:
    with pytest.raises(KeyError):
        WorkerGroup(Broken, 2, args=("raise", rank))


@pytest.mark.parametrize(("how", "said"), [("exit", "exit code 7"), ("_exit", "exit code 7"), ("kill", "SIGKILL")])
def test_a_worker_that_ends_while_its_object_is_made_is_an_error(how: str, said: str) -> None:
    with pytest.raises(WorkerDiedError, match=f"{said} before it was ready"):
        WorkerGroup(Broken, 2, args=(how, 1))


def test_a_class_that_cannot_be_imported_there_is_an_error() -> None:
    with pytest.raises(ImportError, match="no such module"):
        WorkerGroup(NotThere(), 1)


@contextmanager
def _over_when(monkeypatch: pytest.MonkeyPatch, enough: Callable[[], bool] = lambda: True) -> Iterator[str]:
    """How an object of rank 1 hangs; a start is not over before that one does, alone, and `enough` is true."""
    over = _starting.Patience.over

    def over_then(patience: _starting.Patience, late: Sequence[int], doing: str) -> bool:
        given, patience.timeout = patience.timeout, None
        try:
            if over(patience, late, doing) or list(late) != [1] or not gate.reached(1) or not enough():
                return False
        finally:
            patience.timeout = given
        return over(patience, late, doing)

    with Gate() as gate:
        monkeypatch.setattr(_starting.Patience, "over", over_then)
        yield f"wait at {gate.path}"


@pytest.mark.usefixtures("whole_stacks")
def test_a_worker_that_is_never_ready_is_named_with_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    with _over_when(monkeypatch) as hang:
        with pytest.raises(CallTimeoutError, match=r"rank 1 not ready within 0\.5 s, ") as caught:
            WorkerGroup(Broken, 2, args=(hang, 1), start_timeout=0.5)
    assert "objects.py" in caught.value.stacks[1]


def test_who_is_not_ready_yet_is_logged_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_starting, "_TELL_EVERY_S", 0.1)

    def told_of_rank_1() -> list[logging.LogRecord]:
        said = [record for record in caplog.records if "not ready after" in record.getMessage()]
        return [record for record in said if vars(record)["ringcast"]["waiting_for"] == [1]]

    with _over_when(monkeypatch, lambda: len(told_of_rank_1()) > 1) as hang:
        with pytest.raises(CallTimeoutError, match=r"rank 1 not ready within 0\.5 s, while its object was made"):
            WorkerGroup(Broken, 2, args=(hang, 1), start_timeout=0.5)
    told = told_of_rank_1()
    assert len(told) > 1
    assert "WorkerGroup(Broken, 2): " in told[-1].getMessage()


def test_a_close_fails_what_is_under_way_and_ends_who_does_not_hear(caplog: pytest.LogCaptureFixture) -> None:
    group = WorkerGroup(Model, 2)
    pids = group.pids
    future = group.submit("nap", 600)
    calling = Background(group.call, "rank")
    group[0].cast("hold_the_lock_for_ever")
    group.close(0.1)
    with pytest.raises(QueueClosedError):
        future.result(PROMPT_S)
    with pytest.raises(QueueClosedError):
        calling.result(PROMPT_S)
    assert not any(map(runs, pids))
    assert [record.getMessage() for record in caplog.records if record.name == "ringcast.loss"] == []


def test_a_close_lets_calls_end_that_nobody_waits_for(capfd: pytest.CaptureFixture[str]) -> None:
    group = WorkerGroup(Model, 1)
    group.cast("nap", 0.3)
    for number in range(100):  # more than the ring holds
        group.cast("say", f"words {number}")
    never = group.submit("say", "never begun")
    group.close(60)
    out = capfd.readouterr().out
    assert all(f"[Model rank 0] words {number}\n" in out for number in range(100))
    assert isinstance(never.exception(), QueueClosedError)
    assert "never begun" not in out


def test_a_group_that_is_dropped_ends_its_workers() -> None:
    group = WorkerGroup(Model, 1)
    (pid,) = group.pids
    del group
    eventually(lambda: not os.path.exists(f"/proc/{pid}") and not segments(), "the end of all of it")


def leave_workers(link: Link, how: str) -> None:
    group = WorkerGroup(Model, 2)
    link.send(group.pids)
    if how in ("busy", "forked"):
        group.cast("nap", 600)
        group.cast("echo", "behind")
    elif how == "holding":
        group.cast("hold_the_lock_for_ever")
    if how == "forked":
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
        link.send(pid)
    elif how == "exit":
        return
    elif how == "raise":
        raise KeyError("of the test")
    else:
        link.send(0)
    link.recv()


@pytest.mark.parametrize("how", ["idle", "busy", "holding", "forked"])
def test_no_worker_outlives_a_group_s_process_that_is_killed(start: Callable[..., Child], how: str) -> None:
    child = start(leave_workers, how)
    pids = child.receive()
    forked = child.receive()
    if how == "holding":
        time.sleep(0.2)  # until it does, so that the test is of what it says
    child.kill()
    eventually(lambda: not any(map(runs, pids)), "the end of the workers", PROMPT_S)
    if how in ("idle", "busy"):
        assert segments() == set()
    else:
        from ringcast.instruments import sweep

        sweep()
    if forked:
        os.kill(forked, signal.SIGKILL)


@pytest.mark.parametrize("how", ["exit", "raise"])
def test_no_worker_outlives_a_group_s_process_that_ends(start: Callable[..., Child], how: str) -> None:
    child = start(leave_workers, how)
    pids = child.receive()
    if how == "raise":
        with pytest.raises(AssertionError, match="of the test"):
            child.receive()
    child.join()
    assert not any(map(runs, pids))
    assert segments() == set()


def test_what_a_group_leaves_whose_processes_are_all_killed_goes_with_the_next_queue(
    start: Callable[..., Child],
) -> None:
    child = start(leave_workers, "idle")
    pids = child.receive()
    child.receive()
    child.signal(signal.SIGSTOP)  # so that no worker hears of its end first
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    child.kill()
    eventually(lambda: not any(map(runs, pids)), "the end of the workers")
    MessageQueue(1).close(0)
    assert segments() == set()


def run_out_of_memory(link: Link, cgroup: str) -> None:
    with open(f"{cgroup}/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
    with WorkerGroup(Model, 1) as group:
        try:
            group.call("eat", 1 << 30)
        except WorkerDiedError as error:
            link.send((error.exitcode, str(error)))


@pytest.fixture
def small_cgroup() -> Iterator[str]:
    """A control group with 256 MiB of memory."""
    own = {}
    with open("/proc/self/cgroup") as file:
        for line in file.read().splitlines():
            _, controllers, path = line.split(":", 2)
            own.update(dict.fromkeys(controllers.split(","), path.rstrip("/")))
    root, limit = (
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes") if "memory" in own else ("/sys/fs/cgroup", "memory.max")
    )
    made = f"{root}{own.get('memory', own.get('', ''))}/ringcast-test-{os.getpid()}"
    try:
        os.mkdir(made)
        with open(f"{made}/{limit}", "w") as file:
            file.write(str(256 << 20))
    except OSError as error:
        with suppress(OSError):
            os.rmdir(made)
        pytest.skip(f"no control group with a memory limit can be made: {error}")
    yield made
    eventually(lambda: _removed(made), "the end of the control group")


def _removed(cgroup: str) -> bool:
    try:
        os.rmdir(cgroup)
    except OSError:
        return not os.path.exists(cgroup)
    return True


def test_a_worker_that_is_killed_for_memory_says_so(start: Callable[..., Child], small_cgroup: str) -> None:
    child = start(run_out_of_memory, small_cgroup)
    exitcode, told = child.receive()
    assert exitcode == -signal.SIGKILL
    assert "was ended by SIGKILL (its control group's memory ran out: 1 killed for that since it started)" in told
    child.join()


IN_THREADS = """
import threading
from ringcast import WorkerGroup
from ringcast.errors import QueueClosedError
from tests.workers.objects import Gate, Model

def wait_at(gate):
    try:
        group.call("wait_at", gate.path)
    except QueueClosedError:
        print("told")
        raise

if __name__ == "__main__":
    gate, group = Gate(), WorkerGroup(Model, 1)
    threads = [threading.Thread(target=wait_at, args=(gate,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    while not gate.reached(0):
        pass
    raise KeyboardInterrupt
"""


def test_a_program_that_has_failed_ends_the_calls_of_its_threads() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_THREADS], check=False, capture_output=True, text=True, cwd=ROOT, timeout=LONG_S
    )
    assert done.stdout.split() == ["told"] * 3, done.stderr
    assert done.stderr.count("Traceback") == 1, done.stderr
