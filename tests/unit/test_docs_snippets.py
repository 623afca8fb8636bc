"""Whoever copies from the documentation gets what runs: programs as they stand, snippets of a page one after the other.

A block of Python whose title ends in .py is a whole program; those of one section run at the same time, and each prints
what the block "NAME.py prints" says. A block with another title shows another library, and is only compiled. All
others are one program, a page each.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringcast import MessageQueue
from tests.documentation import DOCS, Section, blocks, sections
from tests.support import ROOT, segments, started_pids

pytest.importorskip("numpy")

PAGES = [
    DOCS / "index.md", DOCS / "tutorial.md", DOCS / "errors.md", *sorted(DOCS.glob("howto/*.md")),
    *sorted(DOCS.glob("moving/*.md")),
]  # fmt: skip
LIMIT_S = 240.0


def titled(path: Path) -> str:
    return str(path.relative_to(DOCS))


def programs() -> list[Any]:
    return [
        pytest.param(section, id=f"{titled(path)}: {section.heading}")
        for path in PAGES
        for section in sections(path)
        if any(block.title.endswith(".py") for block in section.blocks)
    ]


def expected(section: Section) -> dict[str, tuple[str, bool]]:
    """What each program prints, and whether in this order."""
    told = {}
    for block in section.blocks:
        name, prints, order = block.title.partition(".py prints")
        if prints:
            told[f"{name}.py"] = block.text, not order
    return told


@pytest.mark.parametrize("section", programs())
def test_the_programs_of_a_section_print_what_it_says(section: Section, tmp_path: Path) -> None:
    names = [block.title for block in section.blocks if block.title.endswith(".py")]
    assert set(expected(section)) <= set(names)
    for block in section.blocks:
        if block.title.endswith(".py"):
            (tmp_path / block.title).write_text(block.text)
    # Without buffers, lines of two processes mix.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    running: dict[str, subprocess.Popen[str]] = {}
    for name in names:
        process = subprocess.Popen(
            [sys.executable, name], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        started_pids.add(process.pid)
        running[name] = process
    try:
        said = {name: process.communicate(timeout=LIMIT_S) for name, process in running.items()}
    finally:
        for process in running.values():
            process.kill()
    for name, (out, err) in said.items():
        assert running[name].returncode == 0, f"{name}: {err}"
        assert "Traceback" not in err
        if name in expected(section):
            text, in_order = expected(section)[name]
            lines, wanted = out.splitlines(), text.splitlines()
            assert lines == wanted if in_order else sorted(lines) == sorted(wanted), name
    assert segments() == set()


def test_there_are_programs_that_say_what_they_print() -> None:
    told = [name for parameter in programs() for name in expected(parameter.values[0])]
    assert {"reader.py", "first.py", "group.py", "failing.py", "pool.py"} <= set(told)


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """Undoes what snippets change in this process: signal handlers, and where the log goes."""
    handler = signal.getsignal(signal.SIGTERM)
    loggers = [logging.getLogger(name) for name in (None, "ringcast", "ringcast.wait", "ringcast.evict")]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        for logger, (level, handlers) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.handlers[:] = handlers


@pytest.mark.parametrize("path", [pytest.param(path, id=titled(path)) for path in PAGES])
def test_the_snippets_of_a_page_run_one_after_the_other(path: Path) -> None:
    if path.name == "torch.md":
        pytest.importorskip("torch")
    names: dict[str, Any] = {}
    with as_before(), contextlib.redirect_stdout(io.StringIO()):
        try:
            for block in blocks(path):
                if block.language != "python" or block.title:
                    continue
                tree = compile(block.text, block.where, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                running = eval(tree, names)
                if inspect.iscoroutine(running):
                    asyncio.run(running)
        finally:
            for value in list(names.values()):
                if isinstance(value, MessageQueue):
                    value.close(0)
            names.clear()


@pytest.mark.parametrize("path", [pytest.param(path, id=titled(path)) for path in PAGES])
def test_what_shows_another_library_is_python(path: Path) -> None:
    for block in blocks(path):
        if block.language == "python" and block.title:
            compile(block.text, block.where, "exec")


def test_the_readme_and_the_home_page_show_the_same_figures() -> None:
    def table(path: Path) -> list[str]:
        return [line for line in path.read_text().splitlines() if line.startswith("|") and " µs" in line]

    assert table(DOCS / "index.md")
    assert table(DOCS / "index.md") == table(ROOT / "README.md")[: len(table(DOCS / "index.md"))]
