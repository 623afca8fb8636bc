"""The native floor program of the benchmarks uses the core as it is now, and its ring delivers."""

from __future__ import annotations

from benchmarks.floor import Floor
from ringcast.cli.lab.placement import Placement


def test_the_floor_program_is_built_and_measures() -> None:
    floor = Floor(Placement.here(pinned=False))
    assert floor.ring(2, messages=20_000, message_bytes=64, depth=64) > 0
    assert floor.ping_pong(blocks=2) > 0
