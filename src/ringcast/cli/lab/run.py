"""A whole run: who can be measured here, the measurements, and the facts without which they mean nothing."""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import platform
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from ringcast.cli.lab import machine
from ringcast.cli.lab.bench import Bench, Settings
from ringcast.cli.lab.placement import Placement
from ringcast.cli.lab.progress import Progress
from ringcast.cli.lab.results import Results
from ringcast.cli.lab.ringcast_queue import rescued_wakes
from ringcast.cli.lab.runner import run
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Workload


def measured(
    workloads: Sequence[Workload],
    subjects: Sequence[Subject],
    settings: Settings,
    placement: Placement,
    progress: Progress,
    floor: Any = None,
) -> Results:
    """Measure; what cannot be measured here is named in the results, with the reason."""
    present, missing = available(subjects)
    possible: list[Workload] = []
    for workload in workloads:
        if reason := workload.lacking():
            missing[f"workload {workload.key}"] = reason
        else:
            possible.append(workload)
    gc.freeze()  # what is imported by now stays as it is: no forked process's collector copies its pages
    facts: dict[str, Any] = machine.facts() | {"placement": placement.describe()}
    facts |= {"versions": versions(present), "settings": asdict(settings)}
    results = Results([(each, each.cases(settings)) for each in possible], present, missing, facts)
    disturbance = machine.Disturbance()
    try:
        with tempfile.TemporaryDirectory(prefix="ringcast-bench-") as workdir:
            run(results, Bench(settings, placement, workdir, floor), progress)
    finally:
        progress.end()
        for subject in present:
            subject.sweep()
        gc.unfreeze()
    results.facts |= disturbance.seen()
    if any(subject.module == "ringcast" for subject in present):
        results.facts["rescued_wakes"] = rescued_wakes()
    return results


def available(subjects: Iterable[Subject]) -> tuple[list[Subject], dict[str, str]]:
    """The subjects whose library can be imported, and for each other library why it cannot.

    Imports them here, before any process is forked, so that no measurement pays for it.
    """
    present: list[Subject] = []
    missing: dict[str, str] = {}
    for subject in subjects:
        try:
            importlib.import_module(subject.module)
        except Exception as error:  # a library that breaks on import must not end the run
            missing[subject.package or subject.module] = f"{type(error).__name__}: {error}"
        else:
            present.append(subject)
    return present, missing


def versions(subjects: Iterable[Subject]) -> dict[str, str]:
    """The version of each subject's distribution; the interpreter's for the standard library."""
    found: dict[str, str] = {}
    for subject in subjects:
        if subject.package is None:
            found[subject.module] = f"Python {platform.python_version()}"
            continue
        try:
            found[subject.package] = importlib.metadata.version(subject.package)
        except importlib.metadata.PackageNotFoundError:
            module = importlib.import_module(subject.module.partition(".")[0])  # a build of another name
            found[subject.package] = str(getattr(module, "__version__", "unknown"))
    return found
