"""Worker groups, told by their queues."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from ringcast.instruments.watched import QueueView


class WorkerView(TypedDict):
    """A worker of a group: how many calls it has not begun to read, and how many answers it has sent."""

    rank: int
    pid: int
    alive: bool
    process: str
    behind: int
    answers: int
    unread_answers: int


class GroupView(TypedDict):
    """A worker group of this machine, as its queues show it: one from its owner, `pid`, to all, one back from each."""

    pid: int
    epoch: int
    calls: int
    rate: float | None
    workers: list[WorkerView]
    segments: list[str]


def groups_of(queues: list[QueueView]) -> Iterable[GroupView]:
    """Worker groups, told by their queues: nameless ones from a process to others, each with one back from it."""
    back: dict[tuple[int, int], QueueView] = {}
    for queue in queues:
        if queue["name"] is None and queue["n_reader"] == 1 and len(queue["readers"]) == 1:
            back[queue["writer"]["pid"], queue["readers"][0]["pid"]] = queue
    for queue in queues:
        owner, readers = queue["writer"]["pid"], queue["readers"]
        answers = [back.get((reader["pid"], owner)) for reader in readers]
        if queue["name"] is not None or not readers or owner == 0 or not any(answers):
            continue
        # Of two queues between two processes, the one that was made first asks, and the other one answers.
        if queue["n_reader"] == 1 and answers[0] and queue["created_at_ns"] > answers[0]["created_at_ns"]:
            continue
        yield {
            "pid": owner, "epoch": queue["epoch"], "calls": queue["messages"], "rate": queue["rate"],
            "workers": [
                {
                    "rank": reader["rank"], "pid": reader["pid"], "alive": reader["alive"],
                    "process": reader["process"], "behind": reader["behind"],
                    "answers": answer["messages"] if answer else 0,
                    "unread_answers": answer["queued"] if answer else 0,
                }
                for reader, answer in zip(readers, answers, strict=True)
            ],
            "segments": [queue["segment"], *(answer["segment"] for answer in answers if answer)],
        }  # fmt: skip
