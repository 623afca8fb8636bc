"""A group that tests of a module share, and leave as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ringcast import WorkerGroup
from ringcast.workers import _worker
from tests.support import eventually
from tests.workers.objects import LONG_S, Gate, Model


@pytest.fixture(scope="module")
def shared() -> Iterator[WorkerGroup]:
    """For tests that leave the workers as they are."""
    with WorkerGroup(Model, 2) as group:
        yield group


@pytest.fixture
def group(shared: WorkerGroup) -> Iterator[WorkerGroup]:
    yield shared
    assert shared.call("echo_only", "still well", deadline=LONG_S) == ["still well"] * 2
    eventually(lambda: not shared._calls.under_way, "an end of all calls")


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Open at the end of the test; to be asked for after `group`, which waits for all calls then."""
    with Gate() as one:
        yield one


@pytest.fixture
def whole_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers get all the time that they need to write down what they do."""
    monkeypatch.setattr(_worker, "_STACKS_WITHIN_S", LONG_S)
    monkeypatch.setattr(_worker, "_STACKS_PAUSE_S", 0.2)
