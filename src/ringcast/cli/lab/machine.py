"""Where and with what a run was made: the facts without which its figures mean nothing."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


def facts() -> dict[str, str | int | float]:
    """The machine, its kernel, the interpreter and the date."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cpus": os.cpu_count() or 0,
        "architecture": platform.machine(),
        "virtual_machine": "hypervisor" in _cpu_flags(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": platform.python_compiler(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def cpu_model() -> str:
    """The CPU's own name for itself."""
    return _cpuinfo("model name") or _cpuinfo("Model") or platform.processor() or platform.machine()


def _cpu_flags() -> list[str]:
    return _cpuinfo("flags").split()


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


class Disturbance:
    """How much of the machine others used while this run went on, from its making to `seen`.

    Others are processes that are not ours, and, on a virtual machine, the host (steal). Both in percent of all CPUs'
    time; empty where the system does not say.
    """

    def __init__(self) -> None:
        """The run begins."""
        self._before = (time.monotonic(), _busy_and_stolen(), _ours())

    def seen(self) -> dict[str, float]:
        """What there was so far. Children that have not been waited for count as others."""
        began, before, ours_before = self._before
        now = _busy_and_stolen()
        if before is None or now is None:
            return {}
        whole = (time.monotonic() - began) * (os.cpu_count() or 1)
        busy, stolen = now[0] - before[0], now[1] - before[1]
        others = max(0.0, busy - (_ours() - ours_before))
        return {"others_percent": round(100 * others / whole, 1), "stolen_percent": round(100 * stolen / whole, 1)}


def _ours() -> float:
    """CPU seconds of this process and of its children that it has waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def _busy_and_stolen() -> tuple[float, float] | None:
    """Seconds that all CPUs together have worked, and seconds that the host took away."""
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(word) for word in first[1:9])
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / tick, steal / tick


#: Of all CPUs' time, in percent: from here on others' work shows in the figures.
BUSY_PERCENT = 10.0


def busy(facts: Mapping[str, Any]) -> str:
    """What others did to a run that had these facts, if that was so much that its figures should not be believed."""
    if "others_percent" in facts:
        others, stolen = facts["others_percent"], facts["stolen_percent"]
        if others + stolen < BUSY_PERCENT:
            return ""
        host = f" and its host {stolen:g} %" if stolen >= 1 else ""
        return f"other processes used {others:g} % of the machine{host} meanwhile"
    if facts["load_before"] < facts["cpus"] * BUSY_PERCENT / 100:
        return ""
    return f"the load of the machine was {facts['load_before']:g} before"
