"""What `ringcast ls --all` says of segments that it cannot read is what `ringcast clean` does with them."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from ringcast import MessageQueue
from tests.support import run_python, unique_name

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="segments are files in /dev/shm only there"
)

RINGCAST = "import sys; from ringcast.cli import main; sys.exit(main(sys.argv[1:]))"
DIES = """
import os, sys
from ringcast import MessageQueue
queue = MessageQueue(1, name=sys.argv[1])
print(queue.segment, flush=True)
os._exit(0)
"""
MAGIC, VERSION = 0, 8
"""Where they are in a segment."""
ANOTHER_VERSION = struct.pack("<I", 3)


def overwrite(segment: str, at: int, content: bytes) -> None:
    with Path("/dev/shm", segment).open("r+b") as file:
        file.seek(at)
        file.write(content)


@pytest.fixture
def of_the_dead() -> Iterator[Callable[[], str]]:
    made: list[str] = []

    def make() -> str:
        made.append(run_python(DIES, unique_name()).stdout.strip())
        return made[-1]

    yield make
    for segment in made:
        Path("/dev/shm", segment).unlink(missing_ok=True)


def said_of(segment: str, *command: str) -> str:
    done = run_python(RINGCAST, *command)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if segment in line]
    return lines[0] if lines else ""


def test_of_a_foreign_form_it_says_that_clean_leaves_it(of_the_dead: Callable[[], str]) -> None:
    segment = of_the_dead()
    overwrite(segment, MAGIC, b"NOT OURS")
    assert "it was not made by ringcast; it is not ringcast's to remove, and ringcast clean leaves it" in said_of(
        segment, "ls", "--all"
    )
    assert "left alone" in said_of(segment, "clean")
    assert Path("/dev/shm", segment).exists()


def test_of_another_release_s_dead_writer_it_says_that_clean_removes_it(of_the_dead: Callable[[], str]) -> None:
    segment = of_the_dead()
    overwrite(segment, VERSION, ANOTHER_VERSION)
    said = said_of(segment, "ls", "--all")
    assert "its layout is version 3" in said
    assert said.endswith("its writer is gone: ringcast clean removes it")
    assert "removed" in said_of(segment, "clean")
    assert not Path("/dev/shm", segment).exists()


def test_of_another_release_s_living_writer_it_says_who_can_look(of_the_dead: Callable[[], str]) -> None:
    with MessageQueue[object](1, name=unique_name()) as queue:
        assert queue.segment is not None
        overwrite(queue.segment, VERSION, ANOTHER_VERSION)
        said = said_of(queue.segment, "ls", "--all")
        assert said.endswith("its writer lives: look at it with the release that made it")
        assert said_of(queue.segment, "clean") == ""
        assert Path("/dev/shm", queue.segment).exists()


def test_without_all_what_is_left_over_and_what_cannot_be_read_are_counted_apart(
    of_the_dead: Callable[[], str],
) -> None:
    overwrite(of_the_dead(), MAGIC, b"NOT OURS")
    of_the_dead()
    done = run_python(RINGCAST, "ls")
    assert "1 left over by writers that are gone, 1 that cannot be read: ringcast ls --all" in done.stdout, done.stdout
