"""The trials: `python -m benchmarks.engine [--short] [--part queue]`, in the environment of requirements.txt.

Both engines are up at the same time and take turns, round by round, so that what else the machine does meets both. The
one whose turn it is not is stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.engine import driver, model
from benchmarks.engine.driver import Engine
from benchmarks.engine.pool import PoolTrials
from benchmarks.neighbours import neighbours
from tests import own_shm

KINDS = ("stock", "ringcast")
_LIGHT_S, _SOON_S, _IDLE_S = 6.0, 1.5, 6.0
_QUIET_ROUNDS = 5
_BEFORE_KILL_S = 2.0
_LEARNS_WITHIN_S = 20.0
_WORKERS = ("w0", "w1")
_LITTLE = "64M"


class Row(NamedTuple):
    """One line of the table; `met` is None where nothing was promised."""

    what: str
    stock: str
    ringcast: str
    goal: str = ""
    met: bool | None = None


class Trials:
    """Runs them, and keeps what came out."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.rows: list[Row] = []
        self.figures: dict[str, Any] = {}
        self.made: list[list[int]] = []
        self.work = Path(tempfile.mkdtemp(prefix="ringcast-engine-"))
        self.model = model.make(self.work / "model")

    @contextmanager
    def engines(self, kinds: Sequence[str] = KINDS, *, probed: bool = False) -> Iterator[dict[str, Engine]]:
        """One of each of these kinds."""
        with ExitStack() as stack:
            found = {}
            for kind in kinds:
                say(f"starting an engine with {'vLLM' if kind == 'stock' else 'ringcast'}'s queue")
                found[kind] = Engine(kind, self.work, self.model, probed=probed)
                stack.callback(found[kind].discard)
            yield found

    def row(self, what: str, values: dict[str, Any], form: str, goal: str = "", met: bool | None = None) -> None:
        """Keep a line, and show it."""
        self.figures[what] = values
        stock, ours = (_formatted(values[kind], form) if kind in values else "-" for kind in KINDS)
        self.rows.append(Row(what, stock, ours, goal, met))
        say(f"{what}: stock {self.rows[-1].stock}, ringcast {self.rows[-1].ringcast}")

    def tokens(self, engines: dict[str, Engine]) -> None:
        """Do both make the same of the same prompts?"""
        self.row("start, s", {kind: engine.up_s for kind, engine in engines.items()}, "{:.0f}")
        made = {kind: engine.tell("tokens") for kind, engine in engines.items()}
        stock, ours = (made[kind] for kind in KINDS)
        self.made = stock["tokens"]
        same = stock["tokens"] == ours["tokens"]
        chains = [chain.from_iterable(each["logprobs"]) for each in (stock, ours)]
        apart = max(abs(one - other) for one, other in zip(*chains, strict=True))
        count = sum(map(len, ours["tokens"]))
        self.row(
            f"tokens of {len(ours['tokens'])} prompts",
            {"stock": count, "ringcast": f"{count if same else 'others'}, logprobs within {apart:.0e}"},
            "{}", "the same", same and apart < 1e-5,
        )  # fmt: skip

    def little_room(self, engines: dict[str, Engine]) -> None:
        """Does it start and work where /dev/shm is small?"""
        same = engines["ringcast"].tell("tokens")["tokens"] == self.made
        said = {"stock": "does not start", "ringcast": "the same tokens" if same else "others"}
        self.row(f"with {_LITTLE} of /dev/shm", said, "{}", "the same tokens", same)

    def pool_row(self, what: str, came: str, goal: str, met: bool) -> None:
        """Keep a line of the trials of the pool, which vLLM has nothing like."""
        self.row(what, {"ringcast": came}, "{}", goal, met)

    def steps(self, engines: dict[str, Engine], *, beside: bool) -> None:
        """Milliseconds a step, and what of it the queues take of the CPUs, in turns."""
        where = "beside a busy process" if beside else "alone"
        step, queue, left = ({kind: list[float]() for kind in KINDS} for _ in range(3))
        for number in range(-1, self.rounds):  # one to get warm
            for kind in KINDS if number % 2 else reversed(KINDS):
                engine = engines[kind]
                with turn(engines, kind), neighbours([None] if beside else []) as busy:
                    before, had, began = engine.queue(), sum(map(driver.cpu_s, busy)), time.monotonic()
                    answer = engine.tell("steps")
                    cost = engine.queue().since(before)
                    share = (sum(map(driver.cpu_s, busy)) - had) / (time.monotonic() - began)
                if number >= 0:
                    step[kind].append(1e3 * answer["step_s"])
                    queue[kind].append(1e3 * cost.cpu_s / answer["steps"])
                    left[kind].append(100 * share)
        middle, costs, shares = (
            {kind: statistics.median(each[kind]) for kind in KINDS} for each in (step, queue, left)
        )
        self.figures[f"all rounds {where}"] = {"step_ms": step, "queue_cpu_ms": queue, "neighbour_percent": left}
        ratios = [ours / stock for stock, ours in zip(step["stock"], step["ringcast"], strict=True)]
        ratio = statistics.median(ratios)
        self.row(
            f"ms a step {where}, median of {self.rounds} rounds", middle, "{:.2f}",
            f"no more (ratio round by round: {ratio:.2f})", ratio <= 1.0,
        )  # fmt: skip
        self.row(
            f"queue CPU a step {where}, ms, all processes", costs, "{:.2f}", "at most half",
            costs["ringcast"] <= costs["stock"] / 2,
        )  # fmt: skip
        if beside:
            self.row("the busy process's share of a CPU meanwhile, %", shares, "{:.0f}")

    def light(self, engines: dict[str, Engine]) -> None:
        """What the workers take of a CPU while little is asked of them, and while nothing is."""
        shares = {name: {kind: Shares([], []) for kind in engines} for name in ("light", "soon", "idle")}
        queues: dict[str, list[float]] = {kind: [] for kind in engines}
        latencies: dict[str, list[float]] = {kind: [] for kind in engines}
        for _ in range(_QUIET_ROUNDS):
            for kind, engine in engines.items():
                with turn(engines, kind):
                    before = engine.queue()
                    with worker_share(engine, shares["light"][kind]):
                        latencies[kind].append(engine.tell("light", _LIGHT_S)["latency_s"])
                    queues[kind].append(100 * engine.queue().since(before).cpu_s / _LIGHT_S)
                    for name, seconds in (("soon", _SOON_S), ("idle", _IDLE_S)):
                        with worker_share(engine, shares[name][kind]):
                            time.sleep(seconds)  # what a worker uses meanwhile is what is measured
        for kind in engines:
            self.figures[f"light latency {kind}, s"] = statistics.median(latencies[kind])
        all_of = {name: {kind: one.of_all for kind, one in each.items()} for name, each in shares.items()}
        gloo = {name: {kind: one.of_gloo for kind, one in each.items()} for name, each in shares.items()}
        name = "CPU of a worker"
        self.middle(f"{name}, a 1-token request each 0.5 s, %", all_of["light"], 3)
        self.middle("of it in threads of gloo's", gloo["light"])
        self.middle("in queues' calls meanwhile, all processes together, %", queues)
        self.middle(f"{name}, first {_SOON_S:g} s of idleness, %", all_of["soon"])
        self.middle(f"{name}, idle, %", all_of["idle"], 1)
        self.middle("of it in threads of gloo's", gloo["idle"])

    def middle(self, what: str, rounds: dict[str, list[float]], most: float | None = None) -> None:
        """A line of per cents, of which ours is to be at most `most`: the medians of all rounds."""
        self.figures[f"{what}, by rounds"] = rounds
        middle = {kind: statistics.median(values) for kind, values in rounds.items()}
        goal, met = ("", None) if most is None else (f"at most {most:g}", middle["ringcast"] <= most)
        self.row(what, middle, "{:.1f}", goal, met)

    def stops(self, engines: dict[str, Engine]) -> None:
        """What is there after an engine has ended by itself."""
        left = {kind: engine.stop() for kind, engine in engines.items()}
        ours = left["ringcast"]
        nothing = not ours.shared_memory and not ours.processes and len(ours.temporary) <= len(left["stock"].temporary)
        self.row("left after its end", left, "{}", "nothing of ours", nothing)

    def kills(self, engines: dict[str, Engine], victim: str) -> None:
        """kill -9 in the middle of a generation: when the engine's user learns, when the others have ended.

        Whether a user who waits for an engine core that was killed learns of it is between him and vLLM: its queues are
        not between them.
        """
        error_s, end_s, left = {}, {}, {}
        others = [name for name in (*_WORKERS, "core") if name != victim]
        for kind, engine in engines.items():
            engine.say("until_it_fails")
            time.sleep(_BEFORE_KILL_S)  # in the middle of a generation, at no moment of ours
            killed_at = engine.kill(victim)
            end_s[kind] = engine.gone_within_s(others, killed_at)
            answer = engine.hear(_LEARNS_WITHIN_S) or {"error": None}
            error_s[kind] = answer["at"] - killed_at if answer["error"] else None
            self.figures[f"error after kill of {victim}, {kind}"] = answer["error"]
            left[kind] = engine.stop() if answer["error"] else engine.left()
        name = {"w1": "a worker", "core": "the engine core"}[victim]
        stock, ours = error_s.get("stock"), error_s["ringcast"]
        in_time = ours is not None and (stock is None or ours <= stock + 0.1)
        goal = "no later, within 0.1 s" if "stock" in engines else ""
        self.row(f"kill -9 of {name}: its user's error after, s", error_s, "{:.2f}", goal, in_time if goal else None)
        self.row(f"kill -9 of {name}: all others gone after, s", end_s, "{:.1f}", "gone", end_s["ringcast"] is not None)
        ours_left = left["ringcast"]
        nothing = not [one for one in ours_left.shared_memory if "ringcast" in one] and not ours_left.processes
        self.row(f"left after kill -9 of {name}", left, "{}", "nothing of ours", nothing)


@contextmanager
def turn(engines: dict[str, Engine], kind: str) -> Iterator[None]:
    """Within the block only this kind's engine runs."""
    with ExitStack() as stack:
        for other, engine in engines.items():
            if other != kind:
                stack.enter_context(engine.stopped())
        yield


class Shares(NamedTuple):
    """Per cent of a CPU, round by round, of the worker that took more of it: in all, and in gloo's threads."""

    of_all: list[float]
    of_gloo: list[float]


@contextmanager
def worker_share(engine: Engine, shares: Shares) -> Iterator[None]:
    """What the workers take within the block is added to `shares`."""
    before, gloo_before, began = engine.cpu_s(), engine.gloo_cpu_s(), time.monotonic()
    yield
    now, gloo_now, seconds = engine.cpu_s(), engine.gloo_cpu_s(), time.monotonic() - began
    taken = {name: 100 * (now[name] - before[name]) / seconds for name in _WORKERS}
    most = max(taken, key=lambda name: taken[name])
    shares.of_all.append(taken[most])
    shares.of_gloo.append(100 * (gloo_now[most] - gloo_before[most]) / seconds)


def table(rows: list[Row]) -> str:
    """As Markdown."""
    lines = ["| | vLLM's own queue | ringcast | to hold | |", "|---|---|---|---|---|"]
    for row in rows:
        met = "" if row.met is None else ("yes" if row.met else "**no**")
        lines.append(f"| {row.what} | {row.stock} | {row.ringcast} | {row.goal} | {met} |")
    return "\n".join(lines)


def _formatted(value: Any, form: str) -> str:
    return "never" if value is None else form.format(value)


def say(text: str) -> None:
    """Progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def queue_trials(trials: Trials, *, short: bool, because: str | None) -> None:
    """Those of the queue, each with an engine of each kind."""
    with trials.engines(probed=not short) as engines:
        trials.tokens(engines)
        if short:
            trials.kills(engines, "w1")
        else:
            trials.steps(engines, beside=False)
            trials.steps(engines, beside=True)
            trials.light(engines)
            trials.stops(engines)
    if not short:
        with trials.engines() as engines:
            trials.kills(engines, "w1")
        with nullcontext() if because else own_shm.of_size(_LITTLE), trials.engines(["ringcast"]) as engines:
            if not because:
                trials.little_room(engines)
            trials.kills(engines, "core")


def main() -> int:
    """Run, print the table; 0 if all that was to hold does."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--short", action="store_true", help="start, tokens and a kill, of both parts, in ten minutes")
    parser.add_argument(
        "--part", choices=("queue", "pool"), help="the queue's trials alone, or the pool's (default both)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="of two seconds of steps for each queue (default 7)")
    parser.add_argument("--out", type=Path, help="figures as JSON")
    options = parser.parse_args()
    because = own_shm.enter()
    if because:
        say(f"/dev/shm is not our own ({because}): what other programs put there counts as left behind")
    trials = Trials(options.rounds)
    if options.part != "pool":
        queue_trials(trials, short=options.short, because=because)
    if options.part != "queue":
        PoolTrials(trials.work, trials.pool_row, say).run(short=options.short)
    print(table(trials.rows))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        load = os.getloadavg()
        kept = {"figures": trials.figures, "rows": [row._asdict() for row in trials.rows], "load": load}
        options.out.write_text(json.dumps(kept, indent=1, default=str))
    if any(row.met is False for row in trials.rows):
        say(f"not all of it holds; the engines' logs are in {trials.work}")
        return 1
    shutil.rmtree(trials.work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
