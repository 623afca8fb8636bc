"""Checks the protocol and its memory orders: `make model`.

1. The model itself: litmus tests.
2. The protocol as it is: every scenario, exhaustively or, where it is too large, by random walks and every execution of
   low cost. A violation is printed as a trace.
3. Every memory order weakened, every fence weakened and dropped, and some plain mistakes, one at a time: each must
   break a scenario. One that breaks none must be explained in explained.md; what is explained there must not break any.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from model.instrument import Mutant, instrument

ROOT = Path(__file__).resolve().parent.parent
EXPLAINED = ROOT / "model" / "explained.md"
ENGINE = [f"model/engine/{name}.cpp" for name in ("explorer", "memory", "reduction", "steps", "trace")]
SOURCES = [f"model/{name}.cpp" for name in ("main", "scenarios", "ends", "tap", "select", "pool")]
LITMUS = "model/litmus.cpp"
FREEZE = "model/freeze.cpp"
WORKERS = os.cpu_count() or 1
MOST = 50_000_000  # a scenario with more executions than this has to be made smaller
BOUND_OF_LARGE = 2  # large scenarios: every execution of this cost
BOUND_UNEXPLAINED = 4  # a mutant that nobody has explained is hunted up to this cost, an explained one to the lower
BOUND_EXPLAINED = 2
SEED = 1


@dataclass(frozen=True)
class Answer:
    """What the model says of one search."""

    scenario: str
    executions: int
    redundant: int
    steps: int
    reached: int
    complete: bool
    bound: int
    seed: int
    length: int
    violation: str
    trace: str = ""


def parse(output: str) -> list[Answer]:
    found: list[Answer] = []
    for line in output.splitlines():
        fields = line.split("\t")
        if len(fields) == 10:
            name, executions, redundant, steps, reached, complete, bound, seed, length, violation = fields
            found.append(
                Answer(
                    name,
                    int(executions),
                    int(redundant),
                    int(steps),
                    int(reached),
                    complete == "complete",
                    int(bound),
                    int(seed),
                    int(length),
                    violation,
                )
            )
        else:
            found[-1] = dataclasses.replace(found[-1], trace=found[-1].trace + line + "\n")
    return found


def run(program: Path, *words: object) -> list[Answer]:
    command = [str(program), *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {result.returncode}\n{result.stdout}{result.stderr}")
    return parse(result.stdout)


def build(target: Path) -> list[Mutant]:
    """Compiles the model and the litmus tests; returns what can be weakened."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise SystemExit("make model needs a C++20 compiler: install g++, or set CXX")
    generated = target / "headers"
    mutants = instrument(ROOT / "src" / "core", generated)
    # Paths are relative to the checkout, so that traces are.
    flags = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", f'-DMODEL_ROOT="{ROOT}"', "-Imodel"]

    def compile_one(source: str) -> Path:
        output = target / (Path(source).stem + ".o")
        # The generated headers come first, and use what the policy offers them.
        extra = [f"-I{generated}", "-include", "model/policy.hpp"] if source in SOURCES else []
        subprocess.run([compiler, *flags, *extra, "-Isrc/core", "-c", source, "-o", output], cwd=ROOT, check=True)
        return output

    sources = [*SOURCES, *ENGINE, LITMUS, FREEZE]
    with ThreadPoolExecutor(WORKERS) as pool:
        objects = dict(zip(sources, pool.map(compile_one, sources), strict=True))
    engine = [objects[source] for source in ENGINE]
    subprocess.run([compiler, *(objects[source] for source in SOURCES), *engine, "-o", target / "model"], check=True)
    for alone in (LITMUS, FREEZE):
        subprocess.run([compiler, objects[alone], *engine, "-o", target / Path(alone).stem], check=True)
    return mutants


def check_protocol(program: Path) -> bool:
    """Explores the code as it is. False after a violation."""
    # What is simple is found here, with its simplest trace; the rest is for completeness.
    for answer in run(program, "hunt", -1, "none", BOUND_OF_LARGE):
        if not answer.violation:
            continue
        print(f"\nVIOLATION in '{answer.scenario}': {answer.violation}\n\n{answer.trace}")
        return False
    listed = subprocess.run([program, "list"], capture_output=True, text=True, check=True).stdout
    scenarios = {row[0]: (row[1], int(row[2])) for row in (line.split("\t") for line in listed.splitlines())}

    def explore(name: str) -> Answer:
        walks = scenarios[name][1]
        if not walks:
            return run(program, "explore", name, MOST)[0]
        bounded = run(program, "bounded", name, BOUND_OF_LARGE, MOST)[0]
        if bounded.violation:
            return bounded
        walked = run(program, "walk", name, walks, SEED)[0]
        return dataclasses.replace(
            walked, executions=walked.executions + bounded.executions, steps=walked.steps + bounded.steps
        )

    totals = [0, 0, 0]
    fine = True
    with ThreadPoolExecutor(WORKERS) as pool:
        for answer in pool.map(explore, scenarios):
            about, walks = scenarios[answer.scenario]
            how = f"cost up to {BOUND_OF_LARGE}, and {walks:,} walks from seed {SEED}" if walks else "exhaustive"
            print(f"  {answer.scenario + ': ' + about:88} {answer.executions:>10,}  {how}", flush=True)
            totals = [a + b for a, b in zip(totals, (answer.executions, answer.redundant, answer.steps), strict=True)]
            if answer.violation or not answer.complete:
                fine = False
                print(
                    f"\nVIOLATION in '{answer.scenario}': {answer.violation or 'too many executions'}\n{answer.trace}"
                )
    print(f"protocol: {totals[0]:,} executions ({totals[1]:,} more cut short as redundant), {totals[2]:,} steps")
    return fine


def explanations() -> dict[str, str]:
    """The titles of explained mutants, each with its argument."""
    texts: dict[str, str] = {}
    for section in EXPLAINED.read_text().split("\n## ")[1:]:
        title, _, argument = section.partition("\n")
        texts[title.strip().strip("`")] = argument.strip()
    return texts


def check_mutants(program: Path, mutants: list[Mutant], traces: Path, thorough: bool) -> bool:
    """Weakens one place at a time. False if one survives unexplained, or an explanation is out of date."""
    explained = explanations()
    shutil.rmtree(traces, ignore_errors=True)
    traces.mkdir()
    executions = 0

    def hunt(mutant: Mutant) -> list[Answer]:
        if mutant.title in explained and thorough:
            return run(program, "exhaust", mutant.number, mutant.order, MOST)
        bound = BOUND_EXPLAINED if mutant.title in explained else BOUND_UNEXPLAINED
        return run(program, "hunt", mutant.number, mutant.order, bound)

    killed, survivors = 0, []
    wrong: list[str] = [
        f"explained.md explains what is not there: {t}" for t in explained.keys() - {m.title for m in mutants}
    ]
    with ThreadPoolExecutor(WORKERS) as pool:
        for index, (mutant, found) in enumerate(zip(mutants, pool.map(hunt, mutants), strict=True)):
            executions += sum(answer.executions for answer in found)
            where = f"{mutant.header}:{mutant.line}  {mutant.change}"
            broken = [answer for answer in found if answer.violation]
            if not broken:
                survivors.append(mutant)
                known = mutant.title in explained
                print(f"  {where:78} {'explained' if known else 'SURVIVED'}", flush=True)
                if not known:
                    wrong.append(f"survived, and is not explained: {mutant.title}")
                continue
            answer = broken[-1]
            killed += 1
            print(f"  {where:78} {answer.violation} [{answer.scenario}]", flush=True)
            heading = f"{mutant.title}\n\n{answer.scenario}: {answer.violation}\n\n"
            (traces / f"{index:02}.txt").write_text(heading + answer.trace)
            if mutant.title in explained:
                wrong.append(
                    f"explained.md says that this breaks nothing, but see {traces}/{index:02}.txt: {mutant.title}"
                )
    unexplained = sum(mutant.title not in explained for mutant in survivors)
    print(
        f"mutants: {len(mutants)} generated, {killed} killed, {len(survivors) - unexplained} explained, "
        f"{unexplained} not; {executions:,} executions; the simplest trace of each is in {traces}"
    )
    for line in wrong:
        print(f"WRONG: {line}")
    return not wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks the protocol and each of its memory orders.")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "model")
    parser.add_argument("--thorough", action="store_true", help="explore every execution of the explained mutants, too")
    options = parser.parse_args()
    started = time.monotonic()
    target: Path = options.build.resolve()
    target.mkdir(parents=True, exist_ok=True)
    mutants = build(target)
    print(f"built in {time.monotonic() - started:.0f} s", flush=True)
    if subprocess.run([target / "litmus"], check=False).returncode != 0:
        return 1
    if subprocess.run([target / "freeze"], check=False, stdout=subprocess.DEVNULL).returncode != 0:
        print("WRONG: the ring of flags does not fail as docs/freeze.md says")
        return 1
    # A violation of the code as it is would be found in every mutant, too.
    fine = check_protocol(target / "model") and check_mutants(
        target / "model", mutants, target / "traces", options.thorough
    )
    print(f"{'passed' if fine else 'FAILED'} in {time.monotonic() - started:.0f} s")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
