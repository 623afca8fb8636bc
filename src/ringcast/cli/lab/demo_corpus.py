"""The demo's real input: the source files of the running Python's standard library, and what is counted in them."""

from __future__ import annotations

import io
import os
import sysconfig
import tokenize
from dataclasses import dataclass
from typing import BinaryIO, cast

LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True)
class SourceFile:
    """One file: its path in the library, and its bytes."""

    path: str
    data: bytes


def standard_library(limit: int | None = None) -> list[SourceFile]:
    """Every `.py` file of the standard library but its tests, the largest first; the `limit` largest if given."""
    root = sysconfig.get_path("stdlib")
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    files.append(SourceFile(os.path.relpath(path, root), file.read()))
    # The largest first, so that the workers' shares come out even at the end.
    files.sort(key=lambda file: (-len(file.data), file.path))
    return files[:limit]


def count_tokens(data: bytes | memoryview) -> int:
    """How many tokens `tokenize` finds; up to the first that is none, if the file is no valid Python."""
    tokens = 0
    try:
        for _ in tokenize.tokenize(cast(BinaryIO, io.BytesIO(data)).readline):
            tokens += 1
    except (tokenize.TokenError, SyntaxError):
        pass
    return tokens


class Shares:
    """Who counts which file. Every worker sees every file in the same order, so all come to the same answer."""

    def __init__(self, workers: int) -> None:
        self._loads = [0] * workers

    def owner(self, size: int) -> int:
        """The rank that counts the next file: the one that has had the fewest bytes so far."""
        rank = min(range(len(self._loads)), key=self._loads.__getitem__)
        self._loads[rank] += size
        return rank
