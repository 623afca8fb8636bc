"""What an observer concludes from what it sees, with queues whose words the test chooses."""

from __future__ import annotations

import os
from typing import Any

import pytest

from ringcast import MessageQueue
from ringcast.cli import top_view
from ringcast.instruments import Observer
from ringcast.instruments.blocking import in_pool
from ringcast.instruments.processes import Processes
from ringcast.instruments.watched import Watched
from tests.support import broadcast, run_python, unique_name, until_asleep

SECOND = 10**9


class Scene:
    """A segment that says what the test wants."""

    def __init__(self) -> None:
        self.now_ns = SECOND
        self.head = 5
        self.waits_for: int | None = None
        self.seats: list[tuple[Any, ...]] = []

    def look(self) -> Any:
        return self.now_ns, self.head, self.waits_for, 0, self.seats, self.now_ns + 1000


def seat(cursor: int, sleep: str, woken_ns: int = 7, pid: int = 1) -> tuple[Any, ...]:
    return 0, 0, 0, pid, 0, cursor, sleep, woken_ns


def watched(scene: Any) -> Watched:
    return Watched(scene)


def test_a_reader_that_sleeps_beside_a_message_for_long_counts_once() -> None:
    scene = Scene()
    queue = watched(scene)
    scene.seats = [seat(3, "asleep")]
    queue.glance()
    scene.now_ns += SECOND // 20
    queue.glance()
    assert queue.lost == 0  # a waker may still be on its way
    for _ in range(3):
        scene.now_ns += SECOND
        queue.glance()
    assert queue.lost == 1
    scene.seats = [seat(4, "asleep")]  # it has read one, and sleeps again beside another
    for _ in range(2):
        queue.glance()
        scene.now_ns += SECOND
    assert queue.lost == 2


@pytest.mark.parametrize(
    "seats",
    [
        [seat(5, "asleep")],
        [seat(3, "awake")],
        [seat(3, "armed")],
        [seat(3, "asleep"), seat(0, "awake", pid=0)],
    ],
    ids=["nothing to read", "awake", "waits for many", "waits for other readers to come"],
)
def test_no_other_sleep_is_a_lost_wake_up(seats: list[tuple[Any, ...]]) -> None:
    scene = Scene()
    scene.seats = seats
    queue = watched(scene)
    for _ in range(3):
        queue.glance()
        scene.now_ns += SECOND
    assert queue.lost == 0


def test_waits_are_counted_by_cause_also_of_those_who_have_left() -> None:
    scene = Scene()
    scene.seats = [seat(5, "asleep")]
    scene.waits_for = 0
    queue = watched(scene)
    for _ in range(3):
        queue.glance()
        scene.now_ns += SECOND
    scene.seats = []
    scene.waits_for = None
    queue.glance()
    assert dict(queue.totals["reader"].waits) == {"message": 2.0}
    assert dict(queue.totals["writer"].waits) == {"room": 3.0}


def test_wake_ups_are_counted_as_far_as_they_are_seen() -> None:
    scene = Scene()
    queue = watched(scene)
    for woken_ns in (0, 10, 10, 20):
        scene.seats = [seat(5, "awake", woken_ns)]
        queue.glance()
    assert queue.totals["reader"].wakes == 1  # the first that is seen may be an old one


def test_the_native_look_says_who_is_there() -> None:
    with broadcast(2) as (writer, readers):
        writer.enqueue_many([b"x"] * 3)
        readers[0].dequeue(1)
        from ringcast._segment import attach

        began, head, waits_for, _, seats, ended = attach(writer.segment).look()
        assert (head, waits_for) == (3, None)
        assert began <= ended
        assert [(one[2], one[3], one[5], one[6]) for one in seats] == [
            (0, os.getpid(), 1, "awake"),
            (1, os.getpid(), 0, "awake"),
        ]


def test_processes_that_are_gone_are_said_to_be() -> None:
    gone = run_python("import os; print(os.getpid())").stdout
    (found,) = Processes().look({int(gone): ["was here"]})
    assert (found["state"], found["cpu"], found["roles"]) == ("gone", None, ["was here"])


def test_clients_of_a_stopped_server_wait_for_it() -> None:
    client = {"alive": True, "forked": False, "pid": 7}
    pool: Any = {"name": "kv", "server": "stopped", "server_pid": 8, "closed": False, "clients": [client, client]}
    (found,) = in_pool(pool)
    assert (found["waiter"], found["holder_pid"], found["cause"]) == ("2 clients", 8, "server")
    pool["clients"] = []
    assert in_pool(pool) == []
    pool |= {"clients": [client], "server": "living"}
    assert in_pool(pool) == []


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_line_is_wider_than_the_screen_and_no_number_is_cut(width: int) -> None:
    name = unique_name("top") + "-" + "n" * 60
    with MessageQueue(1, name=name) as writer:
        writer.enqueue_many([b"x"] * 7)
        lines = top_view.rows(Observer().look(), width, "", "name", False)
    assert max(len(line.text) for line in lines) <= width
    (row,) = [line.text for line in lines if line.text.startswith(name[:10]) and "\N{HORIZONTAL ELLIPSIS}" in line.text]
    assert row.split()[1] == "-"


def test_an_opened_queue_tells_each_end_s_waits_and_a_rescued_wake_up_is_red() -> None:
    name = unique_name("top")
    with MessageQueue(1, name=name) as writer, MessageQueue.attach(name, 0, wait="park") as reader:
        until_asleep(reader.dequeue, reader)
        overview = Observer().look()
        (queue,) = [one for one in overview["queues"] if one["name"] == name]
        parks = reader.stats()["parks"]
        writer.enqueue(b"x")

    def told() -> tuple[top_view.Line, top_view.Line]:
        lines = top_view.opened(overview, f"queue {queue['epoch']}", 110)
        assert lines is not None
        at = next(i for i, line in enumerate(lines) if line.text.startswith("WAITS OF"))
        assert lines[at].text.split()[2:8] == ["BRIEF", "AWAKE", "PARKED", "PARKS", "RESCUED", "LONG"]
        return lines[at + 1], lines[at + 2]

    first, second = told()
    assert (first.text.split()[:4], first.style) == (["writer", "0", "0", "0"], top_view.PLAIN)
    assert (second.text.split()[:8], second.style) == (
        ["rank", "0", "0", "0", "0", str(parks), "0", "0"], top_view.PLAIN,
    )  # fmt: skip
    assert "rescued" not in top_view.summary(overview)
    assert top_view.summary_style(overview) == top_view.BOLD
    waits = queue["readers"][0]["waits"]
    assert waits is not None
    waits["rescued_wakes"] = overview["rescued_wakes"] = 2
    assert [line.style for line in told()] == [top_view.PLAIN, top_view.BAD]
    assert top_view.summary(overview).endswith(" lost wake-ups, 2 rescued")
    assert top_view.summary_style(overview) == top_view.ALARM
    (row,) = [line for line in top_view.rows(overview, None, name, "name", False) if line.key]
    assert row.style == top_view.BAD


def test_numbers_are_short() -> None:
    assert [top_view.number(one) for one in (0, 12, 999, 1234, 56_789, 1_234_567, 2e9)] == [
        "0", "12", "999", "1.23 k", "56.8 k", "1.23 M", "2 G",
    ]  # fmt: skip
