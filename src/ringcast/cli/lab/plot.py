"""A run's results as a picture: a panel a question, points on logarithmic axes, ringcast in colour, its peers muted.

Drawn from the JSON document of a run (`Results.as_json`), so that a saved one can be drawn again. Needs matplotlib.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from ringcast.cli.lab.results import FLOOR
from ringcast.cli.lab.text import figure

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Theme:
    """The colours of a picture."""

    paper: str
    ink: str
    muted: str
    grid: str
    ours: str
    ours_extra: str
    peers: tuple[str, ...]


_PEERS = ("#8b96a2", "#5f86a8", "#2f9e8f", "#9b7fc4", "#4f7fd6", "#8fb2ea", "#b79a45")
THEMES = {
    "light": Theme("#ffffff", "#1f2933", "#5d6b78", "#e2e7ec", "#e4572e", "#f0a58f", _PEERS),
    "dark": Theme("#0d1117", "#e6edf3", "#9aa7b4", "#2a323c", "#ff7a4d", "#b5614a", _PEERS),
}
_MARKERS = ("s", "^", "D", "v", "P", "X", "h")
_WIDTH, _HEIGHT, _HEAD, _EDGE = 6.6, 4.1, 0.95, 0.35  # inches, of a panel, of the title, of the margin
_NAME = 0.078  # of a panel's height, for the name of a line


@dataclass(frozen=True)
class Panel:
    """Cases of one workload: those that differ in size or in readers are lines over it, one case is a row a subject."""

    workload: str
    cases: tuple[str, ...]
    title: str
    explain: str
    extras: bool = True


def all_panels(document: Document) -> list[Panel]:
    """Everything that subjects took part in."""
    panels = []
    for key, workload in document["workloads"].items():
        groups: dict[str, list[str]] = {}
        for name, case in workload["cases"].items():
            if set(case["rows"]) - {FLOOR}:
                groups.setdefault(case["group"], []).append(name)
        for group, names in groups.items():
            across = {(workload["cases"][name]["nbytes"], workload["cases"][name]["n_readers"]) for name in names}
            together = [tuple(names)] if len(across) == len(names) else [(name,) for name in names]
            for cases in together:
                alone = workload["cases"][cases[0]]["title"] if len(cases) == 1 else ""
                title = ", ".join(filter(None, (workload["title"], alone, group)))
                panels.append(Panel(key, cases, title, workload["explain"]))
    return panels


def hero_panels(document: Document) -> list[Panel]:
    """The four that say it all, as far as they were measured."""
    wanted = (
        Panel("latency", ("all", "1"), "A small message, one way", "64 bytes from Python to Python", False),
        Panel("rate", ("1", "2", "4", "8"), "Small messages to every reader", "64 bytes", False),
        Panel("arrays", _arrays(document, 2), "Arrays to each of 2 readers", "NumPy, every page read", False),
        Panel("wake", ("all",), "Waking a reader", "after 20 ms of idleness", False),
    )
    panels = []
    for panel in wanted:
        measured = document["workloads"].get(panel.workload, {"cases": {}})["cases"]
        cases = tuple(case for case in panel.cases if case in measured)
        if cases:
            panels.append(Panel(panel.workload, cases, panel.title, panel.explain, panel.extras))
    return panels


def _arrays(document: Document, readers: int) -> tuple[str, ...]:
    cases = document["workloads"].get("arrays", {"cases": {}})["cases"]
    return tuple(name for name, case in cases.items() if case["n_readers"] == readers)


def draw(document: Document, path: Path, panels: Sequence[Panel], theme: str = "light") -> None:
    """Write the picture to `path`, in the format that its name ends with."""
    look = THEMES[theme]
    columns = min(len(panels), 2 if len(panels) <= 4 else 3)
    rows = -(-len(panels) // columns)
    style: Any = {
        "font.size": 11, "text.color": look.ink, "axes.labelcolor": look.muted, "axes.edgecolor": look.grid,
        "axes.facecolor": look.paper, "xtick.color": look.muted, "ytick.color": look.muted, "svg.fonttype": "path",
    }  # fmt: skip
    with plt.rc_context(style):
        width, height = _WIDTH * columns, _HEIGHT * rows + _HEAD
        chart = plt.figure(figsize=(width, height), facecolor=look.paper)
        for at, panel in enumerate(panels):
            row, column = divmod(at, columns)
            drawing = _Drawing(document, panel, look)
            x, top = _WIDTH * column + _EDGE, height - _HEAD - _HEIGHT * row
            left, right = (0.9, 2.0) if drawing.over else (2.15, 0.3)  # names stand right of lines, and left of rows
            box = (x + left - _EDGE, top - 3.35, _WIDTH - left - right, 2.45)
            axis = chart.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
            says = drawing.onto(axis)
            chart.text(x / width, (top - 0.2) / height, panel.title, fontsize=14, fontweight="bold", va="center")
            chart.text(x / width, (top - 0.58) / height, f"{panel.explain}\n{says}", fontsize=10.5, color=look.muted,
                       va="center", linespacing=1.4)  # fmt: skip
        machine = document["machine"]
        guest = ", virtual machine" if machine["virtual_machine"] else ""
        where = f"{machine['cpu']}, {machine['cpus']} CPUs{guest}, {machine['kernel']}, {machine['python']}"
        rounds = f"median of {document['rounds']} round{'s' if document['rounds'] != 1 else ''}"
        top = 1 - 0.45 / height
        chart.text(_EDGE / width, top, "ringcast", fontsize=20, fontweight="bold", color=look.ours, va="center")
        says = f"{where}\n{rounds}, {str(machine['date'])[:10]}"
        chart.text((_EDGE + 1.5) / width, top, says, fontsize=10.5, color=look.muted, va="center", linespacing=1.35)
        chart.savefig(path, dpi=150, facecolor=look.paper)
        plt.close(chart)


class _Drawing:
    """One panel."""

    def __init__(self, document: Document, panel: Panel, look: Theme) -> None:
        self._document, self._panel, self._look = document, panel, look
        self._workload = document["workloads"][panel.workload]
        self._cases = [self._workload["cases"][name] for name in panel.cases]
        self._metrics = list(self._workload["metrics"].values())
        self._metric = self._metrics[0]
        self.over = len(self._cases) > 1

    def onto(self, axis: Axes) -> str:
        """Draw; a line that says what the points are."""
        arrow = "less is better" if self._metric["better"] == "lower" else "more is better"
        says = self._lines(axis) if self.over else self._dots(axis)
        for side in ("top", "right", "left", "bottom"):
            axis.spines[side].set_visible(False)
        axis.grid(True, color=self._look.grid, lw=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(which="both", length=0, labelsize=10.5, pad=7)
        return f"{says}  ·  {arrow}"

    def _shown(self) -> list[tuple[str, str, str, bool]]:
        """Of each subject of the panel: key, name, colour, and whether it is ours."""
        look, found, peers = self._look, [], 0
        taking = {key for case in self._cases for key in case["rows"]}
        for key, subject in self._document["subjects"].items():
            peer = subject["standing"] == "peer"
            peers += peer
            if key not in taking or (subject["standing"] == "extra" and not self._panel.extras):
                continue
            ours = subject["standing"] == "ringcast"
            colour = look.ours if ours else look.peers[(peers - 1) % len(look.peers)] if peer else look.ours_extra
            found.append((key, subject["label"], colour, ours))
        return found

    def _value(self, case: Mapping[str, Any], key: str, metric: Mapping[str, Any]) -> float | None:
        value = case["rows"].get(key, {}).get(metric["key"])
        return None if value is None else float(value)

    def _dots(self, axis: Axes) -> str:
        """A row a subject, best on top: a filled point, and a hollow one for a second figure of the same unit."""
        (case,), first = self._cases, self._metric
        second = self._metrics[1] if len(self._metrics) > 1 and self._metrics[1]["unit"] == first["unit"] else None
        rows = [(value, row) for row in self._shown() if (value := self._value(case, row[0], first)) is not None]
        rows.sort(key=lambda pair: pair[0], reverse=first["better"] == "lower")
        tails = [self._value(case, row[0], second) if second else None for _, row in rows]
        floor = self._value(case, FLOOR, first)
        positive = [value for value in (*(value for value, _ in rows), *tails, floor) if value]
        low, high = _limits(positive or [1.0], 0.12)
        for y, ((value, (_, _, colour, ours)), tail) in enumerate(zip(rows, tails, strict=True)):
            at = max(value, low)  # nothing at all is at the edge
            if tail:
                axis.plot([at, tail], [y, y], color=colour, lw=1.6, alpha=0.6, zorder=2)
                axis.plot(tail, y, "o", ms=7, mfc=self._look.paper, mec=colour, mew=1.8, zorder=3)
            axis.plot(at, y, "o" if value else "<", ms=10 if ours else 8, color=colour, zorder=4, clip_on=False)
            text = figure(value, first["unit"]) + (f" · {figure(tail, second['unit'])}" if second and tail else "")
            axis.annotate(text, (max(at, tail or 0), y), (9, 0), textcoords="offset points", va="center", fontsize=10,
                          color=self._look.ours if ours else self._look.muted)  # fmt: skip
        axis.set_yticks(range(len(rows)), [row[1] for _, row in rows])
        for label, (_, (_, _, colour, ours)) in zip(axis.get_yticklabels(), rows, strict=True):
            label.set(color=colour if ours else self._look.ink, fontweight="bold" if ours else "normal")
        axis.set_ylim(-0.6, len(rows) - (0.4 if floor is None else -0.35))  # room for the floor's name
        room = 0.42 if second and any(tails) else 0.24  # for the figures beside the points
        _logarithmic(axis.xaxis, low, high * (high / low) ** (room / (1 - room)), first["unit"])
        if floor:
            axis.axvline(floor, color=self._look.ink, lw=1.2, ls=(0, (4, 3)), zorder=1)
            right_half = math.log(floor / low) > 0.5 * math.log(axis.get_xlim()[1] / low)
            side = "right" if right_half else "left"
            axis.annotate(f"{self._workload['floor']}: {figure(floor, first['unit'])}", (floor, len(rows)),
                          (-6 if right_half else 6, 0), textcoords="offset points", ha=side, va="center", fontsize=10,
                          color=self._look.ink)  # fmt: skip
        return f"● {first['title']}" + (f"   ○ {second['title']}" if second and any(tails) else "")

    def _lines(self, axis: Axes) -> str:
        """Points over the size of a message, or over the number of readers, joined by lines that are named."""
        by_size = len({case["nbytes"] for case in self._cases}) > 1
        across = [case["nbytes"] if by_size else case["n_readers"] for case in self._cases]
        ends: list[tuple[float, str, str, bool]] = []

        def line(key: str, label: str, colour: str, ours: bool, **style: Any) -> list[float]:
            points = [
                (x, value)
                for x, case in zip(across, self._cases, strict=True)
                if (value := self._value(case, key, self._metric))
            ]
            if points:
                axis.plot(*zip(*points, strict=True), color=colour, **style)
                ends.append((points[-1][1], label, colour, ours))
            return [value for _, value in points]

        values: list[float] = []
        for number, (key, label, colour, ours) in enumerate(self._shown()):
            extra = self._document["subjects"][key]["standing"] == "extra"
            values += line(
                key, label, colour, ours, marker="o" if ours else _MARKERS[number % len(_MARKERS)], ms=8 if ours else 6,
                lw=2.6 if ours else 1.2, ls=":" if extra else "-", zorder=4 if ours else 2, clip_on=False,
            )  # fmt: skip
        values += line(FLOOR, self._workload["floor"], self._look.ink, False, ls=(0, (4, 3)), lw=1.2, zorder=3)
        axis.set_xscale("log", base=2)
        axis.set_xticks(across, [case["title"] if by_size else str(case["n_readers"]) for case in self._cases])
        axis.xaxis.set_minor_locator(NullLocator())
        low, high = _limits(values or [1.0], 0.05)
        _logarithmic(axis.yaxis, low, high, self._metric["unit"])
        axis.set_xlim(min(across) * 0.93, max(across) * 1.04)
        counted = re.match(r"\d+ (\w+)", self._cases[-1]["title"])
        number_of = counted[1] if counted else "readers"
        axis.set_xlabel("size of an array" if by_size else number_of, fontsize=10.5)
        self._name(axis, ends, math.log(low), math.log(high))
        return str(self._metric["title"])

    def _name(self, axis: Axes, ends: Sequence[tuple[float, str, str, bool]], low: float, high: float) -> None:
        """Name each line right of its end, moved apart where names would overlap."""
        ordered = sorted(ends)
        gap = min(_NAME, 1.0 / max(1, len(ordered)))
        heights: list[float] = []
        for value, *_ in ordered:
            wanted = (math.log(value) - low) / (high - low)
            heights.append(max(wanted, heights[-1] + gap) if heights else wanted)
        over = heights[-1] - 1.0 if heights else 0.0
        for at in range(len(heights) - 1, -1, -1):  # down again from the top
            if over > 0:
                heights[at] = min(heights[at], 1.0 if at == len(heights) - 1 else heights[at + 1] - gap)
        for (_, label, colour, ours), height in zip(ordered, heights, strict=True):
            axis.text(1.025, height, label, transform=axis.transAxes, va="center", fontsize=10.5, color=colour,
                      fontweight="bold" if ours else "normal")  # fmt: skip


def _limits(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = max(high / low, 2.0) ** margin
    return low / room, high * room


def _logarithmic(side: Any, low: float, high: float, unit: str) -> None:
    """A logarithmic axis with a few round figures."""
    decades = math.log10(high / low)
    steps = (1, 2, 5) if decades < 2 else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)[:: 1 if decades < 4 else 2]
    ticks = [step * 10.0**power for power in exponents for step in steps if low <= step * 10.0**power <= high]
    axes = side.axes
    if side.axis_name == "x":
        axes.set_xscale("log")
        axes.set_xlim(low, high)
    else:
        axes.set_yscale("log")
        axes.set_ylim(low, high)
    side.set_major_locator(FixedLocator(ticks))
    side.set_major_formatter(FuncFormatter(_tick(unit)))
    side.set_minor_locator(NullLocator())
    side.set_minor_formatter(NullFormatter())


def _tick(unit: str) -> Callable[[float, float], str]:
    """Round figures with their unit."""

    def text(value: float, _position: float) -> str:
        number, _, name = figure(value, unit).partition(" ")
        return f"{float(number.replace(',', '')):g} {name}"

    return text
