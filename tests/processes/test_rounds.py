"""A run: the subjects take turns in every round, one that fails is not tried for ever, and what is lacking is named."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from ringcast import MessageQueue
from ringcast.cli.lab.bench import Settings
from ringcast.cli.lab.latency import Latency
from ringcast.cli.lab.mp_queue import MP_QUEUE
from ringcast.cli.lab.placement import Placement
from ringcast.cli.lab.progress import Progress
from ringcast.cli.lab.results import Results
from ringcast.cli.lab.ringcast_queue import RINGCAST, Ringcast
from ringcast.cli.lab.run import measured
from ringcast.cli.lab.subject import Subject

ROUNDS = 3


@dataclass(frozen=True)
class Broken(Ringcast):
    """Cannot send."""

    def send_with(self, queue: MessageQueue) -> Callable[[Any], object]:
        raise OSError("out of order")


def run(*subjects: Subject) -> tuple[Results, list[tuple[int, str]]]:
    """The results of a tiny run, and in which round who had his turn."""
    shown = io.StringIO()
    settings = Settings(ROUNDS, effort=0.01)
    results = measured([Latency()], subjects, settings, Placement.here(pinned=False), Progress(shown))
    turns = re.findall(r"round (\d)/3: latency: (.*)", shown.getvalue())
    return results, [(int(number), label) for number, label in turns]


def test_the_subjects_take_turns_and_another_begins_each_round() -> None:
    results, turns = run(RINGCAST, MP_QUEUE)
    ours, theirs = RINGCAST.label, MP_QUEUE.label
    assert turns == [(1, ours), (1, theirs), (2, theirs), (2, ours), (3, ours), (3, theirs)]
    assert [len(results.of("latency", "", key).rounds) for key in ("ringcast", "mp.Queue")] == [ROUNDS, ROUNDS]
    assert results.rounds_done == ROUNDS


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    results, _ = run(RINGCAST, MP_QUEUE)
    ((workload, (case,)),) = results.workloads
    pairs = zip(results.of("latency", "", "ringcast").rounds, results.of("latency", "", "mp.Queue").rounds, strict=True)
    ratios = sorted(ours["p50"] / theirs["p50"] for ours, theirs in pairs)
    assert results.ratio(workload, case, "ringcast", "mp.Queue", workload.metrics[0]) == ratios[1]


def test_who_fails_is_tried_twice_and_keeps_nobody_from_being_measured() -> None:
    broken = Broken("broken", "broken", "ringcast", "ringcast")
    results, _ = run(broken, RINGCAST)
    errors = results.of("latency", "", "broken").errors
    assert len(errors) == 2
    assert all("out of order" in error for error in errors)
    assert len(results.of("latency", "", "ringcast").rounds) == ROUNDS


def test_a_library_that_is_not_installed_is_named() -> None:
    absent: Subject = replace(RINGCAST, key="absent", module="no_such_module", package="no-such-package")
    results, _ = run(RINGCAST, absent)
    assert list(results.missing) == ["no-such-package"]
    assert "no_such_module" in results.missing["no-such-package"]
    assert [subject.key for subject in results.subjects] == ["ringcast"]


@pytest.mark.parametrize("pinned", [True, False])
def test_a_run_says_where_its_processes_ran(pinned: bool) -> None:
    said = Placement.here(pinned).describe()
    assert said.startswith("pinned: writer on CPU " if pinned and Placement.here().pinned else "not pinned, ")
