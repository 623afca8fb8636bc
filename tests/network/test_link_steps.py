"""A link process that is killed at a step of its work: of its birth, of taking a queue elsewhere, of bringing one here.

It is started as every link is, by a program that first puts a kill into one function of it. Whoever asked is told by a
typed error, or finds a successor; who comes then is served; nothing is left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ringcast import MessageQueue
from ringcast.errors import LinkDiedError, LinkError, RingcastError
from ringcast.net._deadline import Deadline
from ringcast.net.link import _launch
from ringcast.net.link._desk import desk_name, new_job
from ringcast.net.link._launch import link_of
from tests.network import linked
from tests.network.linked import SLACK_S, TOLD_WITHIN_S, Failure, Reader, Writer
from tests.network.machines import visited
from tests.network.test_desk import link_processes
from tests.support import DEADLINE_S, SHM, Link, eventually

JOINED_WITHIN_S = 30.0

_KILL = """
import importlib, signal
def kill_at(module, name, before, nth, mark):
    owner = importlib.import_module("ringcast.net.link." + module)
    *of, name = name.split(".")
    for one in of: owner = getattr(owner, one)
    # Looked up so that a static or a class's method stays one.
    found = owner.__dict__[name]
    original = getattr(found, "__func__", found)
    times = 0
    def die():
        try: os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError: return  # another link has been, before this one
        os.kill(os.getpid(), signal.SIGKILL)
    def stand_in(*arguments, **options):
        nonlocal times
        times += 1
        if before and times == nth: die()
        result = original(*arguments, **options)
        if not before and times == nth: die()
        return result
    setattr(owner, name, type(found)(stand_in) if found is not original else stand_in)
kill_at({module!r}, {name!r}, {before!r}, {nth!r}, {mark!r})
"""


class Step(NamedTuple):
    """Before or after the nth call of a function of a module of the link's."""

    when: str
    what: str
    nth: int = 1

    def boot(self, mark: Path) -> str:
        """What starts such a link. It leaves the mark as it dies; who finds that lives."""
        module, _, name = self.what.partition(":")
        kill = _KILL.format(module=module, name=name, before=self.when == "before", nth=self.nth, mark=str(mark))
        return _launch._BOOT.replace("born(job)", f"{kill}\nborn(job)")

    def __str__(self) -> str:
        return f"{self.when} {self.what}, {self.nth}"


BIRTH = [
    Step("before", "_launch:_take_nothing_over"),
    Step("before", "_log:begin"),
    Step("after", "_log:begin"),
    Step("before", "_desk:Desk.create"),
    Step("after", "_desk:Desk.create"),
    Step("before", "_launch:_say"),
    Step("after", "_launch:_say"),
    Step("before", "_process:Link.run"),
    Step("before", "_desk:Desk.requests"),
    Step("before", "_desk:Desk.answer"),
]
AT_THE_WRITER = [
    Step("before", "_exported:Exported.welcome"),
    Step("before", "_exported:Exported._placed"),
    Step("after", "_exported:Exported._placed"),
    Step("after", "_outgoing:Outgoing.__init__"),
    Step("after", "_outgoing:Outgoing.connect"),
    Step("after", "_outgoing:Outgoing.control"),
]
AT_THE_EXPORT = [
    Step("before", "_service:Service.write"),
    Step("after", "_exported:Exported.__init__"),
    Step("after", "_service:Service.write"),
    Step("before", "_desk:Desk.answer"),
    Step("after", "_desk:Desk.answer"),
]
AT_THE_READERS = [
    Step("before", "_incoming:Incoming.join"),
    Step("after", "_incoming:dial"),
    Step("before", "_relay:Relay.__init__"),
    Step("after", "_relay:Relay.__init__"),
    Step("after", "_incoming:dial", 2),
    Step("after", "_incoming:Incoming._connected"),
    Step("before", "_relay:Relay.seat"),
    Step("after", "_relay:Relay.seat"),
    Step("after", "_service:Service.read"),
]


@pytest.fixture
def job() -> Iterator[str]:
    name = new_job()
    yield name
    eventually(lambda: not link_processes(name), "the end of the link")
    eventually(lambda: not (SHM / desk_name(name)).exists(), "the removal of the desk")


@pytest.mark.parametrize("step", BIRTH, ids=str)
def test_a_link_that_dies_as_it_is_born_is_an_error_or_has_a_successor(
    job: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: Step
) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setattr(_launch, "_BOOT", step.boot(mark))
    began = time.monotonic()
    with suppress(LinkError, LinkDiedError), link_of(job, Deadline(JOINED_WITHIN_S)) as place:
        place.ask({"op": "ping"}, Deadline(JOINED_WITHIN_S))
    assert mark.exists()
    assert time.monotonic() - began < JOINED_WITHIN_S, "told before its time was over"
    with link_of(job, Deadline(JOINED_WITHIN_S)) as place:
        assert place.ask({"op": "ping"}, Deadline(JOINED_WITHIN_S))["pid"] == place.link_pid


def _write(link: Link, boot: str, options: dict[str, Any]) -> None:
    _launch._BOOT = boot
    linked._write(link, options)


def _read(link: Link, boot: str, handle: Any, rank: int, options: dict[str, Any]) -> None:
    _launch._BOOT = boot
    linked._read(link, handle, rank, options)


def _export_twice(link: Link, boot: str, options: dict[str, Any]) -> None:
    """With a link that dies meanwhile, of which one of the calls tells."""
    _launch._BOOT = boot
    queue: MessageQueue[Any] = MessageQueue(**options)
    handle = None
    try:
        handle = queue.export_handle()
        queue.wait_until_ready(DEADLINE_S)
    except RingcastError as error:
        link.send(linked._failure(error))
    if handle is None:
        try:
            link.send(queue.export_handle())
        except RingcastError as error:
            link.send(linked._failure(error))
    linked._obey(link, queue)


@pytest.mark.usefixtures("machine_server")
@pytest.mark.parametrize("step", AT_THE_EXPORT, ids=str)
def test_a_writer_s_link_that_dies_at_the_export_is_told_to_it(tmp_path: Path, step: Step) -> None:
    """By the export, which may be tried again, or where that had its answer, by what waits for readers."""
    mark = tmp_path / "mark"
    with visited(2) as (a, b):
        options = {"n_reader": 1, "n_local_reader": 0, "max_chunks": 4, "connect_ip": a.ip}
        began = time.monotonic()
        worker = a.start(_export_twice, step.boot(mark), options)
        failure = worker.receive()
        assert mark.exists()
        assert failure.at - began < JOINED_WITHIN_S
        if step != AT_THE_EXPORT[-1]:
            assert failure.kind == "LinkDiedError", failure.text
            reader = Reader(b, worker.receive(), 0)
            worker.send(("send", (0, 20)))
            assert reader.does("take", 0, 20) == 20
            assert worker.receive() == 20
        elif failure.kind == "LinkDiedError":  # the export has had its answer, and seen the death
            again = worker.receive()
            assert (again.kind, failure.text) == ("LinkDiedError", again.text)
            assert "make the queue anew" in again.text
        else:
            assert failure.kind == "ReaderDiedError", failure.text
        worker.send(("close", (None,)))
        assert worker.receive() is None


@pytest.mark.usefixtures("machine_server")
@pytest.mark.parametrize("step", AT_THE_READERS, ids=str)
def test_a_readers_link_that_dies_is_told_to_the_reader_and_the_next_one_reads(tmp_path: Path, step: Step) -> None:
    mark = tmp_path / "mark"
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=1, on_reader_death="evict")
        began = time.monotonic()
        worker = b.start(_read, step.boot(mark), writer.handle, 0, {})
        found = worker.receive()
        assert mark.exists()
        if not isinstance(found, Failure):  # it was seated
            worker.send(("died", ()))
            found = worker.receive()
        assert isinstance(found, Failure)
        assert found.kind in ("LinkError", "LinkDiedError")
        assert found.at - began < TOLD_WITHIN_S + SLACK_S
        reader: list[Reader] = []

        def returns() -> bool:
            """The writer's link may not know yet that the one before is dead."""
            one = Reader(b, writer.handle, 0, wait=False)
            outcome = one.outcome()
            if isinstance(outcome, Failure):
                assert outcome.kind == "RankTakenError", outcome
                return False
            reader.append(one)
            return True

        eventually(returns, "the next reader has its rank")
        writer.does("wait_until_ready", DEADLINE_S)
        reader[0].tell("take_to_end", 0)
        writer.does("send", 0, 20)
        writer.does("close")
        assert reader[0].outcome()[0] == 20


@pytest.mark.usefixtures("machine_server")
@pytest.mark.parametrize("step", AT_THE_WRITER, ids=str)
def test_a_writer_s_link_that_dies_is_told_to_both_ends(tmp_path: Path, step: Step) -> None:
    mark = tmp_path / "mark"
    with visited(2) as (a, b):
        options = {"n_reader": 1, "n_local_reader": 0, "max_chunks": 4, "connect_ip": a.ip}
        worker = a.start(_write, step.boot(mark), options)
        handle = worker.receive()
        began = time.monotonic()
        reader = Reader(b, handle, 0, wait=False)
        found = reader.outcome()
        if not isinstance(found, Failure):  # it was seated, perhaps before the link has come so far
            reader.tell("died")
            found = reader.outcome()
        assert mark.exists()
        assert isinstance(found, Failure)
        assert found.kind in ("LinkError", "LinkDiedError")
        assert found.at - began < TOLD_WITHIN_S + SLACK_S
        worker.send(("send", (0, 20, 64)))
        failure = worker.receive()
        assert failure.kind == "ReaderDiedError", failure.text
        worker.send(("close", (0,)))
        worker.receive()
