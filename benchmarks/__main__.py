"""The command line: ``python -m benchmarks`` from the project's root."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from . import machine
from .bench import Bench
from .floor import Floor, FloorError
from .goals import judge
from .peers import SUBJECTS, available, versions
from .peers.base import Subject
from .peers.ringcast_queue import rescued_wakes
from .placement import Placement
from .progress import Progress
from .report import render
from .results import Results
from .runner import run
from .settings import FULL, QUICK, Settings
from .workloads import WORKLOADS, Workload


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the report, write what was asked for. 0 if everything could be measured, 130 if broken off."""
    options = _parser().parse_args(arguments)
    if options.list:
        _list()
        return 0
    try:
        workloads, subjects = _chosen(options.only)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    settings = QUICK if options.quick else FULL
    if options.rounds is not None:
        settings = replace(settings, rounds=options.rounds)
    results = _measure(workloads, subjects, settings, Placement.here(not options.no_pin))
    if results is None:
        print("broken off; nothing is reported", file=sys.stderr)
        return 130
    _write(results, options)
    return 1 if any(series.errors for series in results.series.values()) else 0


def _measure(
    workloads: Sequence[Workload], subjects: Sequence[Subject], settings: Settings, placement: Placement
) -> Results | None:
    """A run with everything around it; None if it was broken off with Ctrl-C."""
    present, missing = available(subjects)
    floor: Floor | None = None
    try:
        floor = Floor(placement)
    except FloorError as error:
        missing["native floor"] = str(error)
    measured: list[Workload] = []
    for workload in workloads:
        if reason := workload.lacking():
            missing[f"workload {workload.key}"] = reason
        else:
            measured.append(workload)
    gc.freeze()  # what is imported by now stays as it is: no forked process's collector copies its pages
    facts = machine.facts() | {"placement": placement.describe(), "versions": versions(present)}
    facts["settings"] = asdict(settings)
    results = Results([(each, each.cases(settings)) for each in measured], present, missing, facts)
    progress = Progress()
    disturbance = machine.Disturbance()
    try:
        with tempfile.TemporaryDirectory(prefix="ringcast-bench-") as workdir:
            run(results, Bench(settings, placement, workdir, floor), progress)
    except KeyboardInterrupt:
        return None
    finally:
        progress.end()
        for subject in present:
            subject.sweep()
    results.facts |= disturbance.seen()
    if any(subject.module == "ringcast" for subject in present):
        results.facts["rescued_wakes"] = rescued_wakes()
    return results


def _write(results: Results, options: argparse.Namespace) -> None:
    """The report on standard output, and the files asked for."""
    text = render(results)
    print(text, end="")
    files = {"json": options.json, "png": options.png, "txt": None}
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        files = {kind: given or options.out / f"benchmarks.{kind}" for kind, given in files.items()}
    if files["txt"] is not None:
        files["txt"].write_text(text, encoding="utf-8")
    if files["json"] is not None:
        document = results.as_json() | {"goals": [vars(judged) for judged in judge(results)]}
        files["json"].write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if files["png"] is not None:
        try:
            from .plot import draw
        except ImportError as error:
            print(f"no plot: {error}", file=sys.stderr)
        else:
            draw(results, files["png"])


def _chosen(only: Sequence[str]) -> tuple[list[Workload], list[Subject]]:
    """The workloads and subjects named; all of a kind if none of it is named."""
    names = {name for part in only for name in part.split(",") if name}
    workloads = [each for each in WORKLOADS if each.key in names]
    subjects = [each for each in SUBJECTS if each.key in names]
    unknown = names - {each.key for each in workloads} - {each.key for each in subjects}
    if unknown:
        raise ValueError(f"no workload or subject is called {', '.join(sorted(unknown))}; see --list")
    return workloads or list(WORKLOADS), subjects or list(SUBJECTS)


def _list() -> None:
    print("workloads:")
    for workload in WORKLOADS:
        print(f"  {workload.key:18} {workload.title}: {workload.explain}")
    print("subjects:")
    for subject in SUBJECTS:
        print(f"  {subject.key:18} {subject.label}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run of about two minutes; rough figures")
    parser.add_argument("--only", action="append", default=[], metavar="NAME[,NAME]", help="workloads and subjects")
    parser.add_argument("--list", action="store_true", help="name the workloads and subjects, and do nothing")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds (full: {FULL.rounds}, quick: {QUICK.rounds})")
    parser.add_argument("--no-pin", action="store_true", help="leave the placement to the scheduler")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write benchmarks.txt, .json and .png there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write the plot there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
