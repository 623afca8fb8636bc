"""The report as a picture: a panel a question, ringcast in colour, its peers muted, the floor as a dashed line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from .measure import Metric
from .peers.base import Subject
from .results import FLOOR, Results
from .text import figure
from .workloads.base import Case, Workload, grouped

_INK = "#22303c"
_MUTED = "#66757f"
_RINGCAST = "#e4572e"
_EXTRA_RINGCAST = "#f2a58e"
_GRID = "#e3e8ec"
#: Peers, in the order of the subjects; muted, so that they can be told apart and ringcast stands out.
_PEERS = ("#8d99a3", "#5f6f7b", "#4f8a8b", "#8a7fb8", "#5b7db1", "#9db4d3")
_EXTRA_PEER = "#b3a48a"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def draw(results: Results, path: Path) -> None:
    """Write the picture of a run to ``path``."""
    panels = [
        (workload, panel)
        for workload, cases in results.workloads
        if workload.has_subjects
        for group in grouped(cases)
        for panel in ([group] if _over_something(group) else [(case,) for case in group])
        if _any_figure(results, workload, panel)
    ]
    if not panels:
        return
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with plt.rc_context({"font.size": 10, "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _GRID}):
        chart, grid = plt.subplots(rows, columns, figsize=(6.2 * columns, 4.1 * rows + 1.3), squeeze=False)
        axes = list(grid.flat)
        for axis, (workload, cases) in zip(axes, panels, strict=False):
            if len(cases) > 1:
                _lines(axis, results, workload, cases)
            else:
                _bars(axis, results, workload, cases[0])
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        _title(chart, results)
        chart.tight_layout(rect=(0, 0, 1, 1 - 0.95 / chart.get_figheight()), h_pad=2.0, w_pad=2.5)
        chart.savefig(path, dpi=140, facecolor="white")
        plt.close(chart)


def _title(chart: Figure, results: Results) -> None:
    facts = results.facts
    height = chart.get_figheight()
    chart.text(0.012, 1 - 0.36 / height, "ringcast and its peers", fontsize=19, fontweight="bold")
    guest = ", virtual machine" if facts["virtual_machine"] else ""
    where = f"{facts['cpu']}, {facts['cpus']} CPUs{guest}, {facts['kernel']}, {facts['python']}"
    how = f"{facts['placement']}; median of {results.rounds_done} rounds; {str(facts['date'])[:10]}"
    chart.text(0.012, 1 - 0.70 / height, f"{where}   ·   {how}", fontsize=10.5, color=_MUTED)


def _over_something(cases: tuple[Case, ...]) -> bool:
    """Whether these cases differ in the size of a message or in the number of readers: a line. Else bars for each."""
    return len({(case.nbytes, case.n_readers) for case in cases}) == len(cases) > 1


def _any_figure(results: Results, workload: Workload, cases: tuple[Case, ...]) -> bool:
    return any(
        results.value(workload, case, subject.key, metric) is not None
        for case in cases
        for subject in results.subjects
        for metric in workload.metrics
    )


def _colour(results: Results, subject: Subject) -> str:
    if subject.standing == "ringcast":
        return _RINGCAST
    if subject.standing == "extra":
        return _EXTRA_RINGCAST if subject.module == "ringcast" else _EXTRA_PEER
    peers = [each.key for each in results.subjects if each.standing == "peer"]
    return _PEERS[peers.index(subject.key) % len(_PEERS)]


def _bars(axis: Axes, results: Results, workload: Workload, case: Case) -> None:
    """One bar a subject, best on top; a second figure (a tail, another load) is a mark on the same line."""
    first, second = workload.metrics[0], workload.metrics[1] if len(workload.metrics) > 1 else None
    marked = second is not None and second.unit == first.unit  # else it is only written beside the bar
    present = [
        (subject, value)
        for subject in results.subjects
        if (value := results.value(workload, case, subject.key, first)) is not None
    ]
    present.sort(key=lambda pair: pair[1], reverse=first.better == "lower")
    seconds = [results.value(workload, case, subject.key, second) if second else None for subject, _ in present]
    floor = results.value(workload, case, FLOOR, first)
    everything = [v for v in (*(value for _, value in present), *(seconds if marked else ()), floor) if v] or [1.0]
    logarithmic = max(everything) > 20 * min(everything)
    for row, ((subject, value), also) in enumerate(zip(present, seconds, strict=True)):
        axis.barh(row, value, height=0.62, color=_colour(results, subject), zorder=2)
        right = value
        if marked and also:
            right = max(value, also)
            axis.plot([min(value, also), max(value, also)], [row, row], color=_MUTED, lw=1.2, zorder=3)
            axis.plot(also, row, marker="|", ms=11, mew=2, color=_INK, zorder=4)
        text = figure(value, first.unit) + (f"  ·  {figure(also, second.unit)}" if second and also is not None else "")
        strong = "bold" if subject.standing == "ringcast" else "normal"
        axis.annotate(
            text,
            (right, row),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            fontweight=strong,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
            zorder=5,
        )
    axis.set_yticks(range(len(present)), [subject.label for subject, _ in present])
    for label, (subject, _) in zip(axis.get_yticklabels(), present, strict=True):
        label.set_fontweight("bold" if subject.standing == "ringcast" else "normal")
    axis.set_ylim(-0.6, len(present) - 0.4 + (0.09 * len(present) if floor else 0.0))  # room for the floor's name
    if logarithmic:
        axis.set_xscale("log")
        axis.set_xlim(min(everything) / 3, max(everything) * (max(everything) / min(everything)) ** 0.55)
    else:
        axis.set_xlim(0, max(everything) * 1.5)
        axis.xaxis.set_major_locator(MaxNLocator(4))
    if floor:
        _floor_line(axis, floor, f"{workload.floor_label}: {figure(floor, first.unit)}")
    arrow = "less" if first.better == "lower" else "more"
    also_says = f"  ·  {'mark: ' if marked else ''}{second.title}" if second else ""
    caption = f"{first.title}{also_says}  ({arrow} is better)"
    _style(axis, workload, caption, first, horizontal=True, group=case.full_title if case.group else "")


def _floor_line(axis: Axes, value: float, text: str) -> None:
    axis.axvline(value, color=_INK, lw=1.3, ls=(0, (4, 3)), zorder=3)
    far_right = axis.transAxes.inverted().transform(axis.transData.transform((value, 0)))[0] > 0.5
    axis.annotate(
        text,
        (value, 1),
        (-5 if far_right else 5, -4),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        ha="right" if far_right else "left",
        fontsize=9,
        color=_INK,
    )


def _lines(axis: Axes, results: Results, workload: Workload, cases: tuple[Case, ...]) -> None:
    """Figures over the size of a message, or over the number of readers."""
    by_size = cases[0].nbytes > 0
    metric = workload.metrics[0]
    ends: list[tuple[float, str, str]] = []

    def line(key: str, label: str, colour: str, **style: Any) -> None:
        points = [
            (case.nbytes or case.n_readers, value)
            for case in cases
            if (value := results.value(workload, case, key, metric)) is not None
        ]
        if points:
            axis.plot(*zip(*points, strict=True), color=colour, **style)
            ends.append((points[-1][1], label, colour))

    for number, subject in enumerate(reversed(results.subjects)):
        ours = subject.standing == "ringcast"
        line(
            subject.key,
            subject.label,
            _colour(results, subject),
            marker=_MARKERS[number % len(_MARKERS)],
            ms=7 if ours else 5,
            lw=2.8 if ours else 1.5,
            ls="-" if subject.standing != "extra" else ":",
            zorder=4 if ours else 2,
        )
    line(FLOOR, workload.floor_label, _INK, ls="--", lw=1.3, zorder=3)
    across = [case.nbytes or case.n_readers for case in cases]
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(across, [case.title if by_size else str(case.n_readers) for case in cases])
    # Room for the labels at the lines' ends, in proportion to what the axis spans.
    axis.set_xlim(min(across) * 0.88, max(across) * max(2.2, (max(across) / min(across)) ** 0.59))
    axis.set_xlabel("bytes of a message" if by_size else "readers, each gets every message", fontsize=9.5)
    _label_ends(axis, ends, max(across))
    arrow = "less" if metric.better == "lower" else "more"
    _style(axis, workload, f"{metric.title}  ({arrow} is better)", metric, horizontal=False, group=cases[0].group)


def _label_ends(axis: Axes, ends: list[tuple[float, str, str]], x: float) -> None:
    """Name each line at its right end, moved apart where they would overlap."""
    low, high = axis.get_ylim()
    gap = (high / low) ** 0.062
    placed = 0.0
    for value, label, colour in sorted(ends):
        y = max(value, placed * gap)
        placed = y
        strong = "bold" if colour == _RINGCAST else "normal"
        axis.annotate(
            label,
            (x, y),
            (9, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=colour,
            fontweight=strong,
        )
    axis.set_ylim(low, max(high, placed * gap))


def _style(axis: Axes, workload: Workload, caption: str, metric: Metric, horizontal: bool, group: str = "") -> None:
    axis.set_title(", ".join(filter(None, (workload.title, group))), loc="left", fontsize=13, fontweight="bold", pad=33)
    axis.text(
        0,
        1.022,
        f"{workload.explain}\n{caption}",
        transform=axis.transAxes,
        fontsize=8.6,
        color=_MUTED,
        linespacing=1.25,
    )
    for side in ("top", "right", "left" if horizontal else "bottom"):
        axis.spines[side].set_visible(False)
    values = axis.xaxis if horizontal else axis.yaxis
    values.set_major_formatter(FuncFormatter(_tick(metric.unit)))
    values.set_minor_formatter(NullFormatter())
    values.grid(True, color=_GRID, zorder=0)
    axis.set_axisbelow(True)
    axis.tick_params(which="both", length=0, labelsize=9.5)


def _tick(unit: str) -> Callable[[float, float], str]:
    """Round figures with their unit."""

    def text(value: float, _position: float) -> str:
        if value == 0:
            return "0"
        number, _, name = figure(value, unit).partition(" ")
        return f"{float(number.replace(',', '')):g} {name}"

    return text
