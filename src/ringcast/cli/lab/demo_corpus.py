"""The demo's real input: the source files of the running Python's standard library."""

import os
import sysconfig
from dataclasses import dataclass

LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True)
class SourceFile:
    """One file: its path in the library, and its bytes."""

    path: str
    data: bytes


def standard_library(limit: int | None = None) -> list[SourceFile]:
    """Every `.py` file of the standard library but its tests, in the order of their paths; only the first `limit`."""
    root = sysconfig.get_path("stdlib")
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    files.append(SourceFile(os.path.relpath(path, root), file.read()))
    files.sort(key=lambda file: file.path)
    return files[:limit]
