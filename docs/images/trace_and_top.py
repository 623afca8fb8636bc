"""Makes the pictures of docs/observability.md from real processes: python docs/images/trace_and_top.py.

A writer sends a message each millisecond, with a rank 0 that reads at once and a rank 1 that for a while takes four
milliseconds for each. `trace-slow-reader.png` is drawn from the file that `Trace.write` makes; `top.svg` is the screen
of `ringcast top` beside several such.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

from ringcast import MessageQueue, WorkerGroup, _core
from ringcast._version import __version__
from ringcast.cli.top import Screen
from ringcast.instruments import Observer, list_queues
from ringcast.instruments.recorder import Recorder
from ringcast.pool import PoolServer

HERE = Path(__file__).parent
SLOW = range(60, 90)
"""The messages that rank 1 takes long for."""


class Worker:
    """Of the group on the screen."""

    def step(self) -> int:
        time.sleep(0.01)
        return os.getpid()


def write(name: str, pause: float, large: bool) -> None:
    queue = MessageQueue(2, name=name)
    queue.wait_until_ready()
    body = bytearray(1 << 20) if large else b"tokens" * 20
    while True:
        queue.enqueue({"body": body})
        time.sleep(pause)


def read(name: str, rank: int, slowly: range, seconds: float) -> None:
    queue = MessageQueue.attach(name, rank)
    number = 0
    while True:
        queue.dequeue()
        if number in slowly:
            time.sleep(seconds)
        number += 1


def started(target: Any, *arguments: Any) -> Any:
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def scene(name: str, pause: float, slowly: range, seconds: float, large: bool = False) -> list[Any]:
    """A writer with two readers, which begin once all are there: the first reader last, for the trace to see it all."""
    processes = [started(write, name, pause, large)]
    while name not in [one["name"] for one in list_queues().queues]:
        time.sleep(0.01)
    processes.append(started(read, name, 1, slowly, seconds))
    while not [reader for one in list_queues().queues if one["name"] == name for reader in one["readers"]]:
        time.sleep(0.01)
    return [*processes, started(read, name, 0, range(0), 0.0)]


def trace_picture() -> None:
    processes = scene("tokens", 0.001, SLOW, 0.004)
    segment = next(one["segment"] for one in list_queues().queues if one["name"] == "tokens")
    recorder = Recorder(_core.Segment.attach(segment, __version__, observe=True), "tokens", 10_000)
    while len(recorder.trace.messages) < SLOW.stop + 60:
        recorder.look()
        time.sleep(20e-6)
    for process in processes:
        process.kill()
        process.join()
    file = io.StringIO()
    recorder.trace.write(file)
    draw(json.loads(file.getvalue()))


def draw(trace: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    events = trace["traceEvents"]
    names = {(one["pid"], one["tid"]): one["args"]["name"] for one in events if one["name"] == "thread_name"}
    published = {one["args"]["message"]: one["ts"] for one in events if one["name"] == "publish"}
    read: dict[str, dict[int, float]] = {"rank 0": {}, "rank 1": {}}
    for one in events:
        if one["name"] == "read":
            read[names[one["pid"], one["tid"]]][one["args"]["message"]] = one["ts"]
    first, last = SLOW.start - 12, SLOW.stop + 25
    shown = [number for number in published if first <= number < last]
    zero = published[shown[0]]

    def ms(at: float) -> float:
        return (at - zero) / 1e3

    figure, (upper, lower) = pyplot.subplots(
        2, 1, figsize=(10, 6.4), sharex=True, height_ratios=[3, 1], layout="constrained"
    )
    for number in shown:
        if number in read["rank 1"]:
            upper.plot(
                [ms(published[number]), ms(read["rank 1"][number])], [number] * 2, color="#f2b48a", linewidth=1.6
            )
    upper.plot([ms(published[one]) for one in shown], shown, ".", color="#333333", markersize=5, label="published")
    for rank, color in (("rank 0", "#2b6cb0"), ("rank 1", "#dd6b20")):
        known = [one for one in shown if one in read[rank]]
        upper.plot(
            [ms(read[rank][one]) for one in known], known, ".", color=color, markersize=4, label=f"read by {rank}"
        )
    end = max(ms(read["rank 1"].get(one, zero)) for one in shown)
    said = False
    for one in events:
        if one["name"].startswith("asleep, for seat") and 0 < ms(one["ts"]) < end:
            for axes in (upper, lower):
                axes.axvspan(ms(one["ts"]), ms(one["ts"] + one["dur"]), color="#c53030", alpha=0.16, linewidth=0,
                             label=None if said or axes is lower else "the writer sleeps until rank 1 reads",
                )  # fmt: skip
            said = True
    upper.set_ylabel("message")
    upper.legend(loc="upper left", frameon=False)
    title = "Queue 'tokens', 10 messages deep: rank 1 takes 4 ms for each of 30 messages, and the writer waits for it"
    upper.set_title(title, fontsize=11)
    for rank, color in (("rank 0", "#2b6cb0"), ("rank 1", "#dd6b20")):
        steps = [(ms(one["ts"]), one["args"][rank]) for one in events if one["ph"] == "C" and rank in one["args"]]
        steps = [(at, behind) for at, behind in steps if 0 <= at <= end]
        lower.step([at for at, _ in steps], [behind for _, behind in steps], where="post", color=color, label=rank)
    lower.set_ylabel("messages behind")
    lower.set_xlabel("milliseconds")
    lower.set_xlim(0, end)
    about = trace["otherData"]["precision"]
    lower.text(0.995, 0.5, f"looks {about['between_looks_us']['p50']:.0f} µs apart (median)", ha="right", va="top",
               transform=lower.transAxes, fontsize=9, color="#555555")  # fmt: skip
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "trace-slow-reader.png", dpi=110)


def top_picture() -> None:
    from rich.console import Console
    from rich.text import Text

    processes = [
        *scene("sched", 0.0005, range(0), 0.0),
        *scene("tokens", 0.001, range(1 << 30), 0.004),
        *scene("hidden-states", 0.02, range(0), 0.0, large=True),
        *(stuck := scene("weights", 0.01, range(0), 0.0)),
    ]
    with WorkerGroup(Worker, 4) as group, PoolServer("kv0", "64MiB"):
        group.call("step")
        os.kill(stuck[2].pid, signal.SIGSTOP)
        observer = Observer()
        observer.look()
        end = time.monotonic() + 6
        while time.monotonic() < end:
            group.call("step")
            observer.glance()
        screen = Screen(3.0, "blocked", "")
        screen._overview = observer.look()
        console = Console(record=True, width=150, height=40, file=io.StringIO(), force_terminal=True)
        for line, style in screen._lines(150, 40):
            console.print(Text(line.ljust(150), style), soft_wrap=True)
        console.save_svg(str(HERE / "top.svg"), title="ringcast top")
        for process in processes:
            process.kill()
            process.join()


if __name__ == "__main__":
    trace_picture()
    top_picture()
