"""Ranks of process groups, and machines, as real processes."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest

from tests.network import machines


@pytest.fixture(scope="session")
def machine_server() -> Iterator[None]:
    """For tests that make machines."""
    yield from _machines("numpy", "ringcast", "pytest")


if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = [
        "test_queues.py", "test_security.py", "test_stateless.py", "test_groups_*.py", "test_foreign_*.py",
    ]  # fmt: skip
else:
    from tests.network.ranks import PRELOADED, Starter, server

    @pytest.fixture(scope="session")
    def rank_server() -> Iterator[None]:
        with server():
            yield

    @pytest.fixture
    def ranks(rank_server: None) -> Iterator[Starter]:
        starter = Starter()
        yield starter
        starter.end()

    @pytest.fixture(scope="module")
    def torch_machine_server() -> Iterator[None]:
        """For tests that make machines with ranks of groups."""
        yield from _machines(*PRELOADED, "pytest")


def _machines(*preloaded: str) -> Iterator[None]:
    reason = machines.why_not()
    if reason is not None:
        assert not os.environ.get("CI"), f"CI needs networks of its own: {reason}"
        pytest.skip(reason)
    with machines.server(*preloaded):
        yield
