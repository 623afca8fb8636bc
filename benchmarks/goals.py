"""The project's goals, held against a run.

A goal is for a figure itself, or for its ratio to another figure of the same run: the native floor, the best peer,
another way of waiting, or the same with one reader. Ratios are medians of the rounds' own; where a goal grants
something on top ("3 x spinning + 1 µs"), that of what is found to what is granted in the same round. The rates of small
messages are those of a quiet machine of two CPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from ringcast.cli.lab.measure import Metric
from ringcast.cli.lab.results import FLOOR, Results
from ringcast.cli.lab.text import digits, figure
from ringcast.cli.lab.workload import Case, Workload

RINGCAST = "ringcast"
_BEST_PEER = "best peer"
_ONE_READER = "1 reader"
Verdict = Literal["reached", "missed", "not measured"]


@dataclass(frozen=True)
class Judged:
    """A goal and what was found."""

    goal: str
    bound: str
    found: str
    verdict: Verdict


@dataclass(frozen=True)
class _Goal:
    """`factor` times the figure of `of`, and `slack` more; with no `of`, `factor` is the limit itself.

    `of` is `FLOOR`, `_BEST_PEER`, `_ONE_READER` (the same with one reader) or the key of a subject. It is a limit
    from above where lower figures are better, else from below. `factor` is None for cases without this goal.
    """

    workload: str
    metric: str
    goal: str
    factor: Callable[[Case], float | None]
    of: str = ""
    slack: float = 0.0
    subject: str = RINGCAST


def _always(limit: float) -> Callable[[Case], float | None]:
    return lambda _case: limit


def _where(limit: float, wanted: Callable[[Case], bool]) -> Callable[[Case], float | None]:
    return lambda case: limit if wanted(case) else None


def _in(situation: str, limit: float) -> Callable[[Case], float | None]:
    """In the step pattern."""
    return _where(limit, lambda case: case.key.startswith(f"{situation}/"))


def _two_readers_limit(case: Case) -> float | None:
    """Of the rate to one reader; between these sizes there is no goal."""
    if case.n_readers != 2:
        return None
    return 0.8 if case.nbytes <= _MIB else 0.9 if case.nbytes >= 16 * _MIB else None


def _from(limit: float, nbytes: int) -> Callable[[Case], float | None]:
    """From messages of so many bytes on."""
    return _where(limit, lambda case: case.nbytes >= nbytes)


def _of_pool(call: str, limit: Callable[[int], float | None]) -> Callable[[Case], float | None]:
    """By the number of keys, for one worker."""
    return lambda case: limit(case.nbytes) if case.key.startswith(f"{call}/") and case.n_readers == 1 else None


def _by_form(case: Case) -> float:
    """Of memcpy: what an engine's blocks are like says how long the rows are."""
    return 0.5 if case.key.startswith("hnc/") else 0.8


_KIB, _MIB = 1 << 10, 1 << 20
_US = 1e3
_RATES = {1: 10e6, 2: 6e6, 4: 3.5e6, 8: 2e6}
_LINK_RATES = {"depth1024": 1e6, "depth10": 0.2e6}
_SPIN, _YIELD, _PARK = "ringcast-spin", "ringcast-yield", "ringcast-park"
_LINK, _LINK_PLAIN = "link", "link-plain"
_DICT, _RATE, _STEP = "dict there and back, one way", "64-byte rate", "step"
_CALL, _CALL_RATE = "a method called in all workers, p50", "calls of all workers a second"
_WAKE, _BEAT = "wake-up after 20 ms of idleness, p50", "CPU of a reader that gets a message every 5 ms"

_STOPPED, _BUSY = "server-stopped", "server-busy"
_POOL = "pool, p50"
_COPY = "copy-1"
_LMCACHE = 1.1  # GB/s: the best that LMCache 0.5.6 had end to end on a machine of two CPUs, where its worst was 0.27

_GOALS = (
    _Goal("latency", "p50", "64-byte one-way latency, p50", _always(2.2), FLOOR),
    _Goal("latency", "p99", "64-byte one-way latency, p99", _always(3.0), _SPIN, 1 * _US),
    _Goal("rate", "rate", _RATE, lambda case: _RATES.get(case.n_readers)),
    _Goal("dict", "p50", f"{_DICT}, p50", _always(1.3), _SPIN),
    _Goal("dict", "p50", f"{_DICT}, p50", _always(1.0), _BEST_PEER),
    _Goal("step", "p50", f"{_STEP}, p50", _in("alone", 1.1), _YIELD),
    _Goal("step", "cpu", f"{_STEP}, CPU", _in("alone", 0.85), _YIELD),
    _Goal("step", "mean", f"{_STEP}, mean", _in("beside", 0.9), _YIELD),
    _Goal("step", "mean", f"{_STEP}, mean", _in("crowded", 0.5), _YIELD),
    _Goal("step", "mean", f"{_STEP}, mean", _in("crowded", 1.15), _PARK),
    _Goal("step", "mean", f"{_STEP}, mean", _in("shared", 1.1), _YIELD),
    _Goal("wake", "p50", _WAKE, _always(1.0), _BEST_PEER),
    _Goal("wake", "p50", _WAKE, _always(1.0), FLOOR, 20 * _US),
    _Goal("cpu", "wakes", "wake-ups of an idle reader", _always(2.0)),
    _Goal("cpu", "cadence", _BEAT, _always(1.0)),
    _Goal("startup", "ready", "queue made, attached, ready", _always(2.0)),
    _Goal("objects", "rate", "nested dict of about 1 KiB, rate", _always(0.9), FLOOR),
    _Goal("objects", "rate", "nested dict of about 1 KiB, rate", _always(1.2), _BEST_PEER),
    _Goal("arrays", "rate", "arrays", _where(0.85, lambda case: case.n_readers == 1 and case.nbytes >= _MIB), FLOOR),
    _Goal("arrays", "rate", "arrays", _two_readers_limit, _ONE_READER),
    _Goal("arrays", "rate", "arrays", _where(2.0, lambda case: case.n_readers == 2), _BEST_PEER),
    _Goal("tensors", "rate", "tensors, copied", _always(0.45), FLOOR),
    _Goal("tensors", "rate", "tensors, zero_copy", _always(0.8), FLOOR, subject=f"{RINGCAST}-zero-copy"),
    _Goal("select", "p50", "a message for one of many queues, p50", _always(1.0), "poller", subject="selector"),
    _Goal("select", "p50", "a message for one of many queues, p50", _always(1.0), "connections", subject="selector"),
    _Goal("calls", "p50", _CALL, lambda case: 0.5 if case.n_readers == 1 else 0.4, "pipes", subject="group"),
    _Goal("calls", "p50", _CALL, _always(1 / 3), "executor", subject="group"),
    _Goal("calls", "p50", _CALL, _always(1 / 3), "loky", subject="group"),
    _Goal("calls", "p50", _CALL, _always(1 / 3), "ray", subject="group"),
    _Goal("calls_rate", "rate", _CALL_RATE, _always(3.0), "executor", subject="group"),
    _Goal("calls_rate", "rate", _CALL_RATE, _always(3.0), "loky", subject="group"),
    _Goal("calls_rate", "rate", _CALL_RATE, _always(3.0), "ray", subject="group"),
    _Goal("calls_array", "rate", "an answer of 16 MiB", _always(0.8), FLOOR, subject="group"),
    _Goal("keys", "rate", "keys of 128 Ki tokens", _where(0.8, lambda case: case.key == "array"), FLOOR),
    _Goal("pool", "p50", _POOL, _of_pool("lookup", lambda keys: 1 * _US + 50 * keys), subject="server"),
    _Goal("pool", "p50", _POOL, _of_pool("retrieve", {16: 5 * _US, 256: 40 * _US}.get), subject="server"),
    _Goal("pool", "p50", _POOL, _of_pool("retrieve", {16: 1.1, 256: 1.1}.get), "server", subject=_STOPPED),
    _Goal("pool", "p50", _POOL, _of_pool("retrieve", {16: 1.1, 256: 1.1}.get), "server", subject=_BUSY),
    _Goal(
        "pool",
        "p50",
        _POOL,
        _of_pool("prepare", lambda keys: 30 * _US + 250 * max(0, keys - 16)),
        subject="server-yield",
    ),
    *(
        _Goal("pool_bytes", way, f"pool, {way} end to end", _always(_LMCACHE), subject="server")
        for way in ("store", "retrieve")
    ),
    *(_Goal("paged", f"{way}_ratio", f"{way}, to memcpy", _by_form, subject=_COPY) for way in ("gather", "scatter")),
    *(
        _Goal("paged", way, f"{way} with checksums", _always(0.9), f"{_COPY}-unchecked", subject=_COPY)
        for way in ("gather", "scatter")
    ),
    _Goal("tiers", "rate", "a file tier", _always(0.9), FLOOR, subject="tier-file"),
    _Goal("link_latency", "p50", "link, one-way latency, p50", _always(1.0), FLOOR, 5 * _US, subject=_LINK),
    _Goal("link_rate", "rate", "link, 64-byte rate", lambda case: _LINK_RATES.get(case.key), subject=_LINK),
    _Goal("link_bytes", "rate", "link, plain", _from(0.9, 64 * _KIB), FLOOR, subject=_LINK_PLAIN),
    _Goal("link_bytes", "rate", "link, encrypted", _from(0.5, 64 * _KIB), _LINK_PLAIN, subject=_LINK),
    _Goal("link_bytes", "rate", "link, encrypted", _from(3.0, 16 * _MIB), "pyzmq-curve", subject=_LINK),
    _Goal("link_bytes", "rate", "link, encrypted", _from(10.0, _MIB), "gloo", subject=_LINK),
)


def judge(results: Results) -> list[Judged]:
    """Every goal whose workload was part of the run."""
    return [judged for goal in _GOALS for judged in _judge(goal, results)] + _rescued(results)


def _rescued(results: Results) -> list[Judged]:
    """Wake-ups that were lost, and found by a time-out, in all of the run."""
    if "rescued_wakes" not in results.facts:
        return []
    lost = results.facts["rescued_wakes"]
    return [Judged("lost wake-ups, all measurements with ringcast", "0", f"{lost}", "missed" if lost else "reached")]


def _judge(goal: _Goal, results: Results) -> Iterable[Judged]:
    found = results.workload(goal.workload)
    if found is None:
        return
    workload, cases = found
    for case in cases:
        factor = goal.factor(case)
        if factor is not None:
            yield _judge_case(goal, factor, results, workload, case, cases)


def _judge_case(
    goal: _Goal, factor: float, results: Results, workload: Workload, case: Case, cases: Sequence[Case]
) -> Judged:
    metric = next(metric for metric in workload.metrics if metric.key == goal.metric)
    title = ", ".join(filter(None, (goal.goal, case.full_title)))
    value = results.value(workload, case, goal.subject, metric)
    shown = figure(value, metric.unit)
    if not goal.of:
        return Judged(title, _bound(goal, factor, metric, ""), shown, _verdict(value, factor, metric))

    name = workload.floor_label if goal.of == FLOOR else goal.of.replace(f"{RINGCAST}-", "wait=")
    bound = _bound(goal, factor, metric, name)
    base, base_case = _base(goal, results, workload, case, cases, metric)
    below = results.value(workload, base_case, base, metric)
    ratio = results.ratio(workload, case, goal.subject, base, metric, base_case, partial(_limit, goal, factor))
    if value is None:
        return Judged(title, bound, "-", "not measured")
    if below is None or ratio is None:
        return Judged(title, bound, f"{shown}, no {name}", "not measured")
    if goal.slack:
        found = f"{shown}, {digits(ratio)} of what {figure(below, metric.unit)} grants"
        return Judged(title, bound, found, _verdict(ratio, 1.0, metric))
    found = f"{shown}, {ratio:.2f} x {figure(below, metric.unit)}" + (f" ({base})" if goal.of == _BEST_PEER else "")
    return Judged(title, bound, found, _verdict(ratio, factor, metric))


def _bound(goal: _Goal, factor: float, metric: Metric, name: str) -> str:
    """The goal's limit in words."""
    if goal.of == _BEST_PEER and factor == 1:
        return "ahead of every peer"
    times = figure(factor, metric.unit) if not goal.of else "" if factor == 1 else f"{factor:g} x "
    slack = f" + {figure(goal.slack, metric.unit)}" if goal.slack else ""
    return f"{'at least' if metric.better == 'higher' else 'at most'} {times}{name}{slack}"


def _base(
    goal: _Goal, results: Results, workload: Workload, case: Case, cases: Sequence[Case], metric: Metric
) -> tuple[str, Case]:
    """Whose figure of which case the goal is held against; a subject or case that there is not has no figures."""
    if goal.of == _BEST_PEER:
        return results.best_peer(workload, case, metric) or goal.of, case
    if goal.of == _ONE_READER:
        one = (each for each in cases if (each.nbytes, each.n_readers) == (case.nbytes, 1))
        return goal.subject, next(one, Case("not measured"))
    return goal.of, case


def _limit(goal: _Goal, factor: float, of: float) -> float:
    """What the base's figure grants; where nothing is granted on top, the figure, so that the ratio is to that."""
    return factor * of + goal.slack if goal.slack else of


def _verdict(value: float | None, limit: float, metric: Metric) -> Verdict:
    if value is None:
        return "not measured"
    return "reached" if (value >= limit if metric.better == "higher" else value <= limit) else "missed"
