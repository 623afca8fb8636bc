"""What a control group (a container) lets this process use of memory. Advisory: it tunes messages, never behaviour."""

from __future__ import annotations

import functools
import os


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None


@functools.cache
def _limit_files() -> tuple[tuple[str, str], ...]:
    """(limit, usage) files of this process's memory group and its ancestors, for both versions of control groups."""
    files: list[tuple[str, str]] = []
    for line in (_read("/proc/self/cgroup") or "").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mount, limit, usage = "/sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            mount, limit, usage = "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        while True:
            directory = mount + group.rstrip("/")
            if os.path.exists(f"{directory}/{limit}"):
                files.append((f"{directory}/{limit}", f"{directory}/{usage}"))
            if group in ("", "/"):
                break
            group = os.path.dirname(group)
    return tuple(files)


def memory_headroom() -> int | None:
    """Bytes left under the tightest limit, or None without one. Page cache counts as used, so it is a lower bound."""
    least: int | None = None
    for limit_file, usage_file in _limit_files():
        limit, usage = _read(limit_file), _read(usage_file)
        if not limit or not usage or limit == "max" or int(limit) >= 1 << 60:
            continue
        left = max(0, int(limit) - int(usage))
        least = left if least is None else min(least, left)
    return least
