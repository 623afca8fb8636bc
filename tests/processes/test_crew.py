"""The processes of a measurement: a crew gives every member's result or names who failed, and nothing stays behind."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import pytest

from ringcast import MessageQueue
from ringcast.cli.lab import crew
from ringcast.cli.lab.bench import Bench, Settings
from ringcast.cli.lab.crew import CrewError, Member, run_crew
from ringcast.cli.lab.mp_queue import MP_QUEUE
from ringcast.cli.lab.placement import Placement
from ringcast.cli.lab.ringcast_queue import RINGCAST, Ringcast
from ringcast.cli.lab.stream import Traffic, deliver
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.trips import echo_all, there_and_back
from tests.support import DEADLINE_S

FREE = Placement.here(pinned=False)
MESSAGES = [f"message {number}".encode() for number in range(8)]


@dataclass(frozen=True)
class Forgetful(Ringcast):
    """Does not send every 53rd message."""

    def send_with(self, queue: MessageQueue) -> Callable[[Any], object]:
        numbers = itertools.count(1)

        def send(message: Any) -> None:
            if next(numbers) % 53:
                queue.enqueue(message)

        return send


def nothing(member: Member) -> None:
    """A member's life."""


def for_ever(member: Member) -> None:
    while True:
        signal.pause()


def fail(member: Member) -> None:
    raise ValueError("no luck")


@pytest.fixture
def bench(tmp_path: Any) -> Bench:
    return Bench(Settings(rounds=1, timeout_seconds=DEADLINE_S), FREE, str(tmp_path))


def stream(bench: Bench, subject: Subject, look: Callable[[Any], Any], messages: list[bytes] = MESSAGES) -> Any:
    """A stream of a minute, if nobody ends it."""
    traffic = Traffic(messages, b"end", 64, look=look, every=True)
    return deliver(subject, bench.spec(2, 4, 64), traffic, DEADLINE_S, bench)


def test_every_member_gives_its_result_the_writer_s_first() -> None:
    def rank(member: Member) -> int:
        return member.rank

    assert run_crew(rank, [rank, rank], FREE, DEADLINE_S) == [-1, 0, 1]


def test_a_member_that_fails_says_why_and_who_it_is() -> None:
    with pytest.raises(CrewError, match=r"reader 1 \(pid \d+\) failed: ValueError\('no luck'\)"):
        run_crew(for_ever, [for_ever, fail], FREE, DEADLINE_S)


def test_a_member_that_leaves_early_is_missed() -> None:
    def leave(member: Member) -> None:
        os._exit(3)

    with pytest.raises(CrewError, match=r"reader 0 \(pid \d+\) ended with exit code 3"):
        run_crew(for_ever, [leave], FREE, DEADLINE_S)


def test_who_has_not_finished_in_time_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_longer_for_several(waiting: Sequence[Connection], seconds: float) -> Any:
        return wait(waiting, seconds if len(waiting) == 1 else DEADLINE_S)  # the time is over when the others are done

    monkeypatch.setattr(crew, "wait", wait_longer_for_several)
    with pytest.raises(CrewError, match="not finished in time: reader 1"):
        run_crew(nothing, [nothing, for_ever], FREE, 0.2)


def test_a_member_that_will_not_leave_is_killed() -> None:
    out, into = os.pipe()

    def stay(member: Member) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(into, b"%d" % os.getpid())
        member.meet()
        for_ever(member)

    def meet_and_fail(member: Member) -> None:
        member.meet()
        fail(member)

    with pytest.raises(CrewError, match=r"the writer \(pid \d+\) failed"):
        run_crew(meet_and_fail, [stay], FREE, DEADLINE_S)
    pid = int(os.read(out, 20))
    os.close(out)
    os.close(into)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("subject", [RINGCAST, MP_QUEUE], ids=["ringcast", "mp.Queue"])
def test_a_reader_killed_in_a_stream_is_named(bench: Bench, subject: Subject) -> None:
    seen = 0

    def look(message: bytes) -> bytes:
        nonlocal seen
        seen += 1
        if seen == 1000:
            os.kill(os.getpid(), signal.SIGKILL)
        return message

    with pytest.raises(CrewError, match=r"reader [01] \(pid \d+\) was killed by SIGKILL"):
        stream(bench, subject, look)


@pytest.mark.parametrize("every", [True, False], ids=["every message", "ends of passes"])
def test_a_message_that_is_lost_shows(bench: Bench, every: bool) -> None:
    forgetful = Forgetful("forgetful", "forgetful", "ringcast", "ringcast")
    messages = [b"message %d" % number for number in range(60)]  # so that the first pass lacks one
    with pytest.raises(CrewError, match="CheckError"):
        deliver(forgetful, bench.spec(1, 4, 64), Traffic(messages, b"end", 64, every=every), 0.2, bench)


@pytest.mark.parametrize("subject", [RINGCAST, MP_QUEUE], ids=["ringcast", "mp.Queue"])
def test_a_stream_reaches_every_reader_and_a_trip_comes_back_from_every_one(bench: Bench, subject: Subject) -> None:
    delivered = deliver(subject, bench.spec(2, 4, 64), Traffic(MESSAGES, b"end", 64), 0.0, bench)
    assert delivered.messages == len(MESSAGES) - 1
    assert delivered.seconds > 0

    def drive(sender: Any, receiver: Any) -> list[bytes]:
        got = []
        for message in MESSAGES:
            sender.send(message)
            got.append(receiver.recv())
        return got

    def answer(receiver: Any, sender: Any) -> None:
        echo_all(receiver, sender, len(MESSAGES))

    found, noted = there_and_back(subject, bench.spec(3, 4, 64), drive, answer, b"end", bench)
    assert (found, noted) == (MESSAGES, [None] * 3)
