"""The pages of the documentation as tests read them: headings, and blocks of code with their titles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

from tests.support import ROOT

DOCS = ROOT / "docs"
_FENCE = re.compile(r'^(?P<indent> *)```(?P<language>\w*)(?: title="(?P<title>[^"]*)")? *$')
_HEADING = re.compile(r"^#{1,4} (?P<text>.+)$")


@dataclass
class Block:
    """A fenced block: what it is written in, what stands above it, and where it begins."""

    language: str
    title: str
    text: str
    path: Path
    line: int

    @property
    def where(self) -> str:
        return f"{self.path.relative_to(ROOT)}, line {self.line}"


@dataclass
class Section:
    """A heading, what is written below it, and its blocks."""

    heading: str
    text: str = ""
    blocks: list[Block] = field(default_factory=list)


def sections(path: Path) -> Iterator[Section]:
    """All of a page, in order. What stands before the first heading is a section without one."""
    section, block = Section(""), list[str]()
    opened: tuple[str, str, int] | None = None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if opened is not None:
            if line.strip() == "```":
                language, title, start = opened
                section.blocks.append(Block(language, title, dedent("\n".join(block)) + "\n", path, start))
                opened, block = None, []
            else:
                block.append(line)
        elif found := _FENCE.match(line):
            opened = found["language"], found["title"] or "", number + 1
        elif found := _HEADING.match(line):
            yield section
            section = Section(found["text"])
        else:
            section.text += line + "\n"
    assert opened is None, f"{path}: a block is not closed"
    yield section


def blocks(path: Path) -> list[Block]:
    """All blocks of a page."""
    return [block for section in sections(path) for block in section.blocks]
