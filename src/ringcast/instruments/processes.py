"""What the kernel says of processes: CPU, memory and state, from one short file each.

Only files that are answered without that process are read (`/proc/PID/stat` and `status`; not `cmdline`, which reads
its memory), so that a stopped or hung process holds nobody up. Where there is no /proc, nothing is known.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import NamedTuple, TypedDict

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class ProcessStats(TypedDict):
    """A process that has an end of a queue, or a place in a pool. None is what is not known, or not yet.

    `cpu` is a part of one core since the last look: 1.0 is all of it. `cpu_s` is what it has used since it began;
    `resident_bytes` what it has in memory, shared memory that it has touched included; `sleeps` how often per second
    its main thread gave up its core to wait, since the last look. `roles` says what it is here for.
    """

    pid: int
    name: str
    state: str
    cpu: float | None
    cpu_s: float | None
    resident_bytes: int | None
    sleeps: float | None
    roles: list[str]


class _Seen(NamedTuple):
    at: float
    started: int
    cpu_s: float
    sleeps: int | None


_SLEEPS = re.compile(r"^voluntary_ctxt_switches:\s*(\d+)$", re.MULTILINE)
_STATES = {
    "R": "running", "S": "sleeping", "D": "in the kernel", "T": "stopped", "t": "traced", "Z": "dead", "X": "dead",
    "I": "idle",
}  # fmt: skip


class Processes:
    """Looks at processes again and again."""

    def __init__(self) -> None:
        self._last: dict[int, _Seen] = {}

    def look(self, roles: dict[int, list[str]]) -> list[ProcessStats]:
        """Those of `roles`, which says what each is there for."""
        seen: dict[int, _Seen] = {}
        found = [self._one(pid, what, seen) for pid, what in sorted(roles.items())]
        self._last = seen
        return found

    def _one(self, pid: int, roles: list[str], seen: dict[int, _Seen]) -> ProcessStats:
        nothing: ProcessStats = {
            "pid": pid, "name": "", "state": "unknown", "cpu": None, "cpu_s": None, "resident_bytes": None,
            "sleeps": None, "roles": roles,
        }  # fmt: skip
        try:
            stat = (_PROC / str(pid) / "stat").read_text()
            status = (_PROC / str(pid) / "status").read_text()
        except FileNotFoundError:
            return {**nothing, "state": "gone" if _PROC.joinpath("self").exists() else "unknown"}
        except OSError:
            return nothing
        name, _, rest = stat.partition("(")[2].rpartition(")")
        fields = rest.split()
        found = _SLEEPS.search(status)
        now = _Seen(
            time.monotonic(),
            int(fields[19]),
            (int(fields[11]) + int(fields[12])) / _TICKS,
            int(found[1]) if found else None,
        )
        seen[pid] = now
        before = self._last.get(pid)
        rates: tuple[float | None, float | None] = (None, None)
        if before is not None and before.started == now.started and now.at > before.at:
            spent = now.at - before.at
            slept = None if now.sleeps is None or before.sleeps is None else (now.sleeps - before.sleeps) / spent
            rates = (now.cpu_s - before.cpu_s) / spent, slept
        return {
            "pid": pid, "name": name, "state": _STATES.get(fields[0], fields[0]), "cpu": rates[0],
            "cpu_s": now.cpu_s, "resident_bytes": int(fields[21]) * _PAGE, "sleeps": rates[1], "roles": roles,
        }  # fmt: skip
