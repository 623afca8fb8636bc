"""What notebooks show: tables of readers, ranks and clients, well-formed whatever the names, and never an exception."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest

from ringcast import MessageQueue, WorkerGroup
from ringcast.pool import PoolClient, PoolServer
from tests.support import broadcast, unique_name


class Cells(HTMLParser):
    """The text of each cell, and whether what was opened was closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(html)
        assert self.opened == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.opened.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.opened[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def shown(thing: Any) -> str:
    html = thing._repr_html_()
    assert isinstance(html, str)
    return html


def test_a_queue_shows_who_reads_and_who_is_behind() -> None:
    with broadcast(2) as (writer, readers):
        writer.enqueue("one")
        readers[1].dequeue()
        heads, *rows = Cells(shown(writer)).rows
        behind = heads.index("behind")
        assert [(row[0], row[behind]) for row in rows] == [("0", "1"), ("1", "0")]
        assert "queued: <b>1 of 10</b>" in shown(writer)
        assert "reader of rank 1" in shown(readers[1])
        assert Cells(shown(writer.stats())).rows == Cells(shown(writer)).rows


def test_an_end_that_is_closed_or_was_never_made_shows_that() -> None:
    writer = MessageQueue(1)
    writer.close()
    assert "closed" in shown(writer)
    assert "not initialised" in shown(MessageQueue.__new__(MessageQueue))


def test_statistics_are_dicts_as_ever() -> None:
    with broadcast() as (writer, _):
        stats = writer.stats()
        assert isinstance(stats, dict)
        assert stats == dict(stats)
        assert pickle.loads(pickle.dumps(stats)) == stats
        assert json.loads(json.dumps(stats))["depth"] == 10
        writer.enqueue(stats)


def test_statistics_travel_as_messagepack() -> None:
    pytest.importorskip("msgspec")
    with broadcast(codec="msgpack") as (writer, readers):
        writer.enqueue(dict(writer.stats(), missed={}))
        writer.enqueue(writer.stats())
        assert readers[0].dequeue().keys() == readers[0].dequeue().keys()


@pytest.fixture(scope="module")
def group() -> Iterator[WorkerGroup]:
    with WorkerGroup(dict, 2) as group:
        group.call("get", "step")
        yield group


def test_a_worker_group_shows_its_ranks(group: WorkerGroup) -> None:
    for thing in (group, group.stats()):
        heads, *rows = Cells(shown(thing)).rows
        assert [row[0] for row in rows] == ["0", "1"]
        assert [row[heads.index("answers")] for row in rows] == ["1", "1"]
    assert [row[1] for row in Cells(shown(group)).rows[1:]] == [str(pid) for pid in group.pids]


def test_a_pools_client_shows_its_server() -> None:
    name = unique_name("p")
    with PoolServer(name, "1MiB"):
        with PoolClient.connect(name, "<b>&worker", layout=4096) as client:
            html = shown(client)
            Cells(html)
            assert "capacity: <b>1 MiB</b>" in html
            assert "living" in html
            assert "<b>&worker" not in html
        assert "closed" in shown(client)
