"""What killed servers left is removed as users have it removed, by a sweep; a kept pool is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ringcast.instruments.looking import sweep


@pytest.fixture(autouse=True)
def _sweeps_what_killed_servers_left() -> Iterator[None]:
    yield
    sweep()
