"""The report as plain text: where it was measured, one table a workload, the goals, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence

from ringcast.cli.lab.measure import Metric
from ringcast.cli.lab.results import FLOOR, Results
from ringcast.cli.lab.text import digits, figure, table
from ringcast.cli.lab.workload import Case, Workload, grouped

from .goals import Judged, judge

_INDENT = "  "


def render(results: Results) -> str:
    """The whole report."""
    lines = [*_heading(results), ""]
    for workload, cases in results.workloads:
        for number, group in enumerate(grouped(cases)):
            among = f", {group[0].group}" if group[0].group else ""
            lines += [f"{workload.title}{among}: {workload.explain}", ""]
            body = [*_workload_tables(results, workload, group), *_failures(results, workload, group)]
            if number == 0:
                body += _unfit(results, workload)
            lines += [(_INDENT + line).rstrip() for line in body]
            lines.append("")
    lines += _goals(judge(results))
    if results.missing:
        lines += ["", "Not measured, because not to be had here:"]
        lines += [f"{_INDENT}{name}: {reason}" for name, reason in results.missing.items()]
    return "\n".join(lines) + "\n"


def _heading(results: Results) -> list[str]:
    facts = results.facts
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    guest = " (virtual machine)" if facts["virtual_machine"] else ""
    return [
        f"{facts['cpu']}, {facts['cpus']} CPUs{guest}, {facts['kernel']}, {facts['python']}",
        f"{facts['placement']}" + _disturbance(results),
        f"{versions}",
        f"{facts['date']}, {_size(results)}: medians, of figures and of each round's ratios; "
        "tails (p99 and above) from all rounds' samples together",
    ]


def _size(results: Results) -> str:
    """How much there is behind the figures, with a warning where it is little."""
    rounds = f"{results.rounds_done} round{'s' if results.rounds_done != 1 else ''}"
    short = results.facts["settings"]["effort"] < 1
    return f"{rounds} of short measurements (rough figures)" if short else rounds


def _disturbance(results: Results) -> str:
    """What others did to the run."""
    if "others_percent" not in results.facts:
        return ""
    others, stolen = results.facts["others_percent"], results.facts["stolen_percent"]
    return f"; meanwhile other processes used {others} % of the machine, and its host {stolen} %"


def _workload_tables(results: Results, workload: Workload, cases: Sequence[Case]) -> list[str]:
    """Rows are subjects, columns are metrics and the headline's ratios; with several cases, columns are cases."""
    rows = _rows(results, workload, cases)
    headline = workload.metrics[0]
    several = len(cases) > 1 or bool(cases[0].title)
    columns = [(case, metric) for case in cases for metric in workload.metrics]
    both = several and len(workload.metrics) > 1
    head = [
        f"{case.title}: {metric.title}" if both else case.title if several else metric.title for case, metric in columns
    ]
    figures = {
        key: [figure(results.value(workload, case, key, metric), metric.unit) for case, metric in columns]
        for key in rows
    }
    if FLOOR in figures and set(figures[FLOOR]) == {"-"}:
        del figures[FLOOR], rows[FLOOR]
    ratios: dict[str, list[str]] = {key: [] for key in rows}
    ratio_head: list[str] = []
    for what in ("floor", "best peer") if workload.has_subjects else ():
        bases = [_base(results, workload, case, headline, what) for case in cases]
        if all(base is None for base in bases):
            continue
        ratio_head += [
            f"x {what}" + (f", {case.title if case.group or case.nbytes else case.key}" if several else "")
            for case in cases
        ]
        for key, cells in ratios.items():
            for case, base in zip(cases, bases, strict=True):
                times = results.ratio(workload, case, key, base, headline) if base is not None else None
                cells.append("" if key == FLOOR else "-" if times is None else f"{digits(times)} x")
    if not several:
        return table(["", *head, *ratio_head], [[rows[key], *figures[key], *ratios[key]] for key in rows])
    lines = table(["", *head], [[rows[key], *figures[key]] for key in rows])
    if ratio_head:
        lines += ["", *table(["", *ratio_head], [[rows[key], *ratios[key]] for key in rows if key != FLOOR])]
    return lines


def _rows(results: Results, workload: Workload, cases: Sequence[Case]) -> dict[str, str]:
    """Keys and labels of the floor and of the subjects that take part in one of these cases at least."""
    rows = {FLOOR: workload.floor_label}
    if workload.has_subjects:
        taking = (each for each in results.subjects if workload.takes(each))
        rows |= {each.key: each.label for each in taking if any(workload.covers(each, case) for case in cases)}
    return rows


def _base(results: Results, workload: Workload, case: Case, metric: Metric, what: str) -> str | None:
    """The key of what a ratio is of; None if it was not measured, or is nothing at all."""
    if what == "floor":
        return FLOOR if results.value(workload, case, FLOOR, metric) is not None else None
    best = results.best_peer(workload, case, metric)
    return best if best is not None and results.value(workload, case, best, metric) else None


def _unfit(results: Results, workload: Workload) -> list[str]:
    """Who takes no part in a workload, and why."""
    if not workload.has_subjects or workload.ringcast_only:
        return []
    return [
        f"{subject.label}: not measured: {reason}"
        for subject in results.subjects
        if (reason := subject.unfit.get(workload.key))
    ]


def _failures(results: Results, workload: Workload, cases: Sequence[Case]) -> list[str]:
    """What went wrong."""
    remarks: list[str] = []
    labels = {subject.key: subject.label for subject in results.subjects} | {FLOOR: workload.floor_label}
    for case in cases:
        for key, label in labels.items():
            found = results.series.get((workload.key, case.key, key))
            if found is not None and found.errors:
                where = f", {case.title}" if case.title else ""
                first_line, *_ = found.errors[-1].splitlines()
                remarks.append(f"{label}{where}: failed {len(found.errors)} times: {first_line}")
    return remarks


def _goals(judged: Sequence[Judged]) -> list[str]:
    if not judged:
        return []
    rows = [[each.verdict, each.goal, each.bound, each.found] for each in judged]
    return ["Goals", "", *(_INDENT + line for line in table(["", "goal", "bound", "found"], rows, left=4))]
