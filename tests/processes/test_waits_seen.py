"""How an end's waits have ended, as other processes see it, of ends that were killed too."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from ringcast import MessageQueue
from ringcast.instruments import Observer, list_queues
from tests.support import FORGIVEN_RESCUES, Child, Link, eventually, run_python, unique_name, until_asleep

RINGCAST = "import sys; from ringcast.cli import main; sys.exit(main(sys.argv[1:]))"
KINDS = {"brief", "awake", "parked", "parks", "rescued_wakes", "long_waits", "vain_s", "wakeup_s", "penalties"}


def _read_on_order(link: Link, name: str) -> None:
    """Reads one message for each order, asleep until it comes, and says how its waits have ended."""
    queue = MessageQueue.attach(name, 0, wait="park")
    link.send("attached")
    while True:
        link.recv()
        queue.dequeue()
        link.send(queue.stats()["waits"])


def _write_on_order(link: Link, name: str) -> None:
    """Writes so many messages, asleep where there is no room."""
    with MessageQueue(1, max_chunks=2, name=name, wait="park") as queue:
        link.send("made")
        while count := link.recv():
            queue.enqueue_many([b"x"] * count)
            link.send(queue.stats()["waits"])


def _observe(link: Link, name: str) -> None:
    """What another process sees of the queue, whenever it is asked."""
    observer = Observer()
    while True:
        link.recv()
        (queue,) = [one for one in observer.look()["queues"] if one["name"] == name]
        link.send((queue["writer"], queue["readers"]))


def _info(name: str) -> Any:
    (queue,) = [one for one in list_queues().queues if one["name"] == name]
    return queue


def test_a_third_process_sees_a_reader_park_and_no_wake_up_lost(start: Callable[..., Child]) -> None:
    name = unique_name("waits")
    with MessageQueue(1, name=name) as writer:
        reader, observer = start(_read_on_order, name), start(_observe, name)
        reader.receive()
        writer.wait_until_ready()

        def seen() -> Any:
            _, (one,) = observer.ask()
            assert one["pid"] == reader.pid
            assert one["waits"].keys() == KINDS
            return one["waits"]

        assert [seen()[kind] for kind in ("brief", "awake", "parked", "parks", "wakeup_s")] == [0, 0, 0, 0, None]
        for number in range(1, 4):
            before = seen()["parks"]
            reader.send("read")
            # It is seen to sleep before anything wakes it up.
            eventually(lambda parks=before: seen()["parks"] > parks)  # type: ignore[misc]
            writer.enqueue(number)
            own = reader.receive()
            assert seen() == own
            assert own["parked"] == number
            assert own["rescued_wakes"] <= FORGIVEN_RESCUES
            assert own["wakeup_s"] > 0


def test_other_processes_see_how_a_writer_waits_for_room(start: Callable[..., Child]) -> None:
    name = unique_name("waits")
    writer = start(_write_on_order, name)
    writer.receive()
    with MessageQueue.attach(name, 0) as reader:
        assert _info(name)["writer"]["waits"]["parks"] == 0
        writer.send(3)
        eventually(lambda: _info(name)["writer"]["waits"]["parks"])
        for _ in range(3):
            reader.dequeue()
        own = writer.receive()
        waits = _info(name)["writer"]["waits"]
        assert waits == own
        assert waits["parked"] >= 1
        assert waits["rescued_wakes"] <= FORGIVEN_RESCUES
        assert reader.stats()["writer"]["waits"] == waits
        writer.send(0)
        writer.join()


def test_a_killed_reader_s_last_counts_are_seen_until_its_rank_comes_again_and_begins_at_0(
    start: Callable[..., Child],
) -> None:
    name = unique_name("waits")
    with MessageQueue(1, name=name) as writer:
        killed = start(_read_on_order, name)
        killed.receive()
        writer.wait_until_ready()
        killed.send("read")
        eventually(lambda: _info(name)["readers"][0]["waits"]["parks"])
        writer.enqueue(b"x")
        last = killed.receive()
        assert last["parks"] > 0
        killed.kill()
        (dead,) = _info(name)["readers"]
        assert (dead["pid"], dead["process"], dead["waits"]) == (killed.pid, "gone", last)

        following = start(_read_on_order, name)
        following.receive()
        (living,) = _info(name)["readers"]
        assert (living["seat"], living["pid"], living["process"]) == (dead["seat"], following.pid, "running")
        assert (living["waits"]["parks"], living["waits"]["parked"], living["waits"]["wakeup_s"]) == (0, 0, None)


def test_seats_without_a_reader_tell_of_no_waits() -> None:
    with MessageQueue(2, name=unique_name("waits")) as writer:
        writer.export_handle()
        assert writer.name is not None
        assert [one["waits"] for one in _info(writer.name)["readers"]] == [None, None]
        reader = MessageQueue.attach(writer.name, 1, wait="park")
        until_asleep(reader.dequeue, reader)
        assert [one["waits"] is None for one in _info(writer.name)["readers"]] == [True, False]
        own = reader.stats()["waits"]
        assert own["parks"] > 0
        reader.shutdown()
        assert _info(writer.name)["readers"][0]["waits"] is None
        assert reader.stats()["waits"] == own  # it knows what it had counted


def test_ls_and_top_tell_the_waits_of_other_processes(start: Callable[..., Child]) -> None:
    name = unique_name("waits")
    with MessageQueue(1, name=name) as writer:
        reader = start(_read_on_order, name)
        reader.receive()
        writer.wait_until_ready()
        reader.send("read")
        eventually(lambda: _info(name)["readers"][0]["waits"]["parks"])
        writer.enqueue(b"x")
        own = reader.receive()
        result = run_python(RINGCAST, "ls", name, "--json")
        assert json.loads(result.stdout)["readers"][0]["waits"] == own
        result = run_python(RINGCAST, "top", "--once", "--json", "--interval", "0.1")
        overview = json.loads(result.stdout)
        assert overview["rescued_wakes"] <= FORGIVEN_RESCUES
        (queue,) = [one for one in overview["queues"] if one["name"] == name]
        assert queue["readers"][0]["waits"] == own
        lines = run_python(RINGCAST, "ls", name).stdout.splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith("RANK"))
        heading, row = (re.split(r" {2,}", line.strip()) for line in lines[at : at + 2])
        told = dict(zip(heading, row, strict=True))
        assert (told["PID"], told["PARKS"], told["RESCUED"]) == (
            str(reader.pid),
            str(own["parks"]),
            str(own["rescued_wakes"]),
        )
