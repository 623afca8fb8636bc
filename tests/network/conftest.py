"""Ranks of process groups, as real processes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from tests.network.ranks import Starter, server

    @pytest.fixture(scope="session", autouse=True)
    def _server() -> Iterator[None]:
        with server():
            yield

    @pytest.fixture
    def ranks() -> Iterator[Starter]:
        starter = Starter()
        yield starter
        for rank in starter.started:
            rank.discard()
