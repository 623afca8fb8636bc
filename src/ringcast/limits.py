"""What a control group (a container) lets this process use of memory. Advisory: it tunes messages, never behaviour."""

from __future__ import annotations

import functools
from pathlib import Path


@functools.cache
def _limit_files() -> tuple[tuple[Path, Path], ...]:
    """(limit, usage) files of this process's memory group and its ancestors, for both versions of control groups."""
    files: list[tuple[Path, Path]] = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ()
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mount, limit, usage = Path("/sys/fs/cgroup"), "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            mount, limit, usage = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        path = Path(group)
        for ancestor in (path, *path.parents):
            directory = mount / ancestor.relative_to("/") if ancestor.is_absolute() else mount
            if (directory / limit).exists():
                files.append((directory / limit, directory / usage))
    return tuple(files)


def memory_headroom() -> int | None:
    """Bytes left under the tightest limit, or None without one. Page cache counts as used, so it is a lower bound."""
    least: int | None = None
    for limit_file, usage_file in _limit_files():
        try:
            limit, usage = limit_file.read_text().strip(), int(usage_file.read_text())
        except (OSError, ValueError):
            continue
        if limit == "max" or int(limit) >= 1 << 60:
            continue
        left = max(0, int(limit) - usage)
        least = left if least is None else min(least, left)
    return least
