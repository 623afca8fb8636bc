"""What the runs came to: a table, and a picture."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import matplotlib
from engine import Served
from matplotlib.axes import Axes
from matplotlib.patches import Patch

matplotlib.use("Agg")

import matplotlib.pyplot as plt

COMPUTED, LOADED, INK, MUTED, GRID = "#44729c", "#f2a33a", "#1f2933", "#5d6b78", "#e2e7ec"


class Run(NamedTuple):
    """All prompts, once."""

    title: str
    begun: float
    seconds: float
    lanes: dict[str, list[Served]]
    """By worker, its prompts."""

    @property
    def served(self) -> list[Served]:
        return [one for lane in self.lanes.values() for one in lane]

    @property
    def tokens(self) -> int:
        return sum(one.tokens for one in self.served)

    @property
    def reused(self) -> int:
        return sum(one.reused for one in self.served)

    @property
    def prompt_s(self) -> float:
        """How long a prompt's prefill takes: the median."""
        return median(one.ended - one.begun for one in self.served)


def table(runs: list[Run]) -> str:
    """A line a run."""
    lines = [f"{'prefill':<24}{'computed':>10}{'from the pool':>21}{'a prompt':>12}{'all':>9}{'time saved':>13}"]
    for run in runs:
        saved = percent(1 - run.seconds / runs[0].seconds) if run is not runs[0] else ""
        lines.append(
            f"{run.title:<24}{run.tokens - run.reused:>10,}{run.reused:>15,}{percent(run.reused / run.tokens):>6}"
            f"{run.prompt_s * 1000:>9,.0f} ms{run.seconds:>7.1f} s{saved:>13}"
        )
    return "\n".join(line.rstrip() for line in lines)


def percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def draw(runs: list[Run], path: Path) -> None:
    """Which worker did what and when: the runs below each other, on one axis of time."""
    style: Any = {
        "font.size": 11, "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": GRID,
        "xtick.color": MUTED, "ytick.color": MUTED, "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip
    with plt.rc_context(style):
        figure, axes = plt.subplots(len(runs), sharex=True, figsize=(11, 1.1 + 1.75 * len(runs)))
        figure.subplots_adjust(left=0.17, right=0.97, top=1 - 1.35 / figure.get_figheight(), bottom=0.1, hspace=0.75)
        for axis, run in zip(axes, runs, strict=True):
            _lanes(axis, run)
            saved = "" if run is runs[0] else f"  ·  {percent(1 - run.seconds / runs[0].seconds)} less time"
            axis.set_title(run.title.capitalize(), loc="left", fontsize=13, fontweight="bold", color=INK, pad=9)
            says = f"{run.seconds:.1f} s{saved}  ·  {percent(run.reused / run.tokens)} of the tokens from the pool"
            axis.set_title(says, loc="right", fontsize=11, color=MUTED, pad=9)
        axes[-1].set_xlabel("seconds")
        first = runs[0]
        head = f"Prefill of {len(first.served)} prompts, {first.tokens:,} tokens, by three workers of two engines"
        top = 1 - 0.3 / figure.get_figheight()
        figure.text(0.02, top, head, fontsize=15, fontweight="bold", va="center")
        legend = [
            Patch(color=COMPUTED, label="computing"),
            Patch(color=LOADED, label="waiting for another worker's chunks, and copying"),
        ]
        figure.legend(handles=legend, loc="center left", bbox_to_anchor=(0.01, top - 0.35 / figure.get_figheight()),
                      ncols=2, frameon=False, labelcolor=MUTED)  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, facecolor="white")
        plt.close(figure)


def _lanes(axis: Axes, run: Run) -> None:
    """A row for each worker, a bar for each prompt."""
    for row, lane in enumerate(run.lanes.values()):
        for one in lane:
            begun, loaded, ended = (moment - run.begun for moment in (one.begun, one.loaded, one.ended))
            axis.barh(row, loaded - begun, 0.72, begun, color=LOADED)
            axis.barh(row, ended - loaded, 0.72, loaded, color=COMPUTED)
            axis.barh(row, ended - begun, 0.72, begun, color="none", edgecolor="white", linewidth=1.2)
    axis.set_yticks(range(len(run.lanes)), list(run.lanes))
    axis.set_ylim(len(run.lanes) - 0.5, -0.5)
    axis.tick_params(length=0)
    axis.grid(axis="x", color=GRID)
    axis.set_axisbelow(True)
