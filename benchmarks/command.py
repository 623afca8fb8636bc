"""The command line: `python -m benchmarks` from the project's root."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ringcast.cli.lab.bench import Settings
from ringcast.cli.lab.placement import Placement
from ringcast.cli.lab.progress import Progress
from ringcast.cli.lab.results import Results
from ringcast.cli.lab.run import measured
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Workload

from .floor import Floor, FloorError
from .goals import judge
from .peers import SUBJECTS
from .report import render
from .workloads import WORKLOADS

FULL = Settings(rounds=5)
QUICK = Settings(rounds=1, effort=0.2, brief=True, timeout_seconds=30.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the report, write what was asked for. 0 if everything could be measured, 130 if broken off."""
    options = _parser().parse_args(arguments)
    if options.list:
        _list()
        return 0
    if options.plot:
        folder = options.out or options.plot.parent
        return 0 if _draw(json.loads(options.plot.read_text(encoding="utf-8")), folder) else 1
    try:
        workloads, subjects = _chosen(options.only)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    settings = QUICK if options.quick else FULL
    if options.rounds is not None:
        settings = replace(settings, rounds=options.rounds)
    try:
        results = _measure(workloads, subjects, settings, Placement.here(not options.no_pin))
    except KeyboardInterrupt:
        print("broken off; nothing is reported", file=sys.stderr)
        return 130
    text = render(results)
    print(text, end="")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        document = results.as_json() | {"goals": [vars(judged) for judged in judge(results)]}
        (options.out / "benchmarks.txt").write_text(text, encoding="utf-8")
        (options.out / "benchmarks.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        _draw(document, options.out)
    return 1 if any(series.errors for series in results.series.values()) else 0


def _measure(
    workloads: Sequence[Workload], subjects: Sequence[Subject], settings: Settings, placement: Placement
) -> Results:
    """A run, with the native floor if that can be built."""
    floor: Floor | None = None
    lacking: dict[str, str] = {}
    try:
        floor = Floor(placement)
    except FloorError as error:
        lacking["native floor"] = str(error)
    results = measured(workloads, subjects, settings, placement, Progress(sys.stderr), floor)
    results.missing |= lacking
    results.facts["commit"] = _commit()
    return results


def _draw(document: dict[str, Any], folder: Path) -> bool:
    """All figures in one picture, and the four that say it all, for light and for dark paper."""
    try:
        from ringcast.cli.lab.plot import all_panels, draw, hero_panels
    except ImportError as error:
        print(f"no picture: {error}", file=sys.stderr)
        return False
    pictures = [("benchmarks", all_panels(document), "light")]
    pictures += [(f"hero-{theme}", hero_panels(document), theme) for theme in ("light", "dark")]
    for name, panels, theme in pictures:
        if panels:
            draw(document, folder / f"{name}.png", panels, theme)
    return True


def _commit() -> str:
    """The commit measured, with a plus sign if the tree has changes; empty outside a checkout."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _chosen(only: Sequence[str]) -> tuple[list[Workload], list[Subject]]:
    """The workloads and subjects named; all of a kind if none of it is named."""
    names = {name for part in only for name in part.split(",") if name}
    workloads = [each for each in WORKLOADS if each.key in names]
    subjects = [each for each in SUBJECTS if each.key in names]
    unknown = names - {each.key for each in workloads} - {each.key for each in subjects}
    if unknown:
        raise ValueError(f"no workload or subject is called {', '.join(sorted(unknown))}; see --list")
    workloads, subjects = workloads or list(WORKLOADS), subjects or list(SUBJECTS)
    # Libraries that no workload asks for are not even imported.
    return workloads, [each for each in subjects if any(workload.takes(each) for workload in workloads)]


def _list() -> None:
    print("workloads:")
    for workload in WORKLOADS:
        print(f"  {workload.key:18} {workload.title}: {workload.explain}")
    print("subjects:")
    for subject in SUBJECTS:
        print(f"  {subject.key:18} {subject.label}")


def _rounds(text: str) -> int:
    rounds = int(text)
    if rounds < 1:
        raise argparse.ArgumentTypeError("at least one round")
    return rounds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    rounds = f"rounds (full: {FULL.rounds}, quick: {QUICK.rounds})"
    parser.add_argument("--quick", action="store_true", help="a smoke run of about three minutes; rough figures")
    parser.add_argument("--only", action="append", default=[], metavar="NAME[,NAME]", help="workloads and subjects")
    parser.add_argument("--list", action="store_true", help="name the workloads and subjects, and do nothing")
    parser.add_argument("--rounds", type=_rounds, metavar="N", help=rounds)
    parser.add_argument("--no-pin", action="store_true", help="leave the placement to the scheduler")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write benchmarks.txt, .json, .png and hero-*.png there"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="measure nothing: draw the pictures of that .json")
    return parser
