"""What it costs to be watched: python -m benchmarks.watching.

A hundred queues, each with two readers, in four processes that send on each ten times a second: how much of a core
`ringcast top` takes at a terminal of 150 columns and 50 lines, and `ringcast exporter` scraped every 10 seconds.
Then a queue at full speed, while `top` looks and while it is stopped, in turns: how many messages come in a second.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import pty
import re
import signal
import statistics
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from ringcast import MessageQueue
from ringcast.instruments import list_queues

QUEUES, PROCESSES = 100, 4
SECONDS = 20.0
SCRAPE_S = 10.0
TURNS, TURN_S = 10, 2.0


def keep_queues(first: int, ready: Any, end: Any) -> None:
    """Some of the hundred, with their readers."""
    count = QUEUES // PROCESSES
    queues: list[MessageQueue[Any]] = [MessageQueue(2, name=f"watched{first + i}") for i in range(count)]
    readers = [MessageQueue[Any].attach(queue.stats()["name"] or "", rank) for queue in queues for rank in (0, 1)]
    ready.wait()
    while not end.wait(0.1):
        for queue in queues:
            queue.enqueue({"step": 1})
        for reader in readers:
            reader.dequeue(1)


def cpu_s(pid: int) -> float:
    """What a process has used since it began."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running_top() -> Iterator[int]:
    """At a terminal whose output is read and dropped."""
    screen, line = pty.openpty()
    fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 150, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "ringcast", "top"], stdin=line, stdout=line, env={**os.environ, "TERM": "xterm"}
    )
    os.close(line)
    os.read(screen, 1)  # it draws: what its start took is not counted

    def drop() -> None:
        try:
            while os.read(screen, 1 << 16):
                pass
        except OSError:
            pass

    threading.Thread(target=drop, daemon=True).start()
    time.sleep(2)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def running_exporter() -> Iterator[tuple[int, str]]:
    command = [sys.executable, "-m", "ringcast", "exporter", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = re.search(r"http://\S+", process.stdout.readline())
    assert said is not None
    try:
        yield process.pid, said[0]
    finally:
        process.terminate()
        process.wait()


def part_of_a_core(pid: int, seconds: float) -> float:
    before, began = cpu_s(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_s(pid) - before) / (time.monotonic() - began)


def scraped(pid: int, url: str) -> tuple[float, int]:
    """The part of a core that scrapes take, and how long what they get is."""
    before, began, length = cpu_s(pid), time.monotonic(), 0
    while time.monotonic() < began + SECONDS:
        with urlopen(url) as answer:
            length = len(answer.read())
        time.sleep(SCRAPE_S)
    return (cpu_s(pid) - before) / (time.monotonic() - began), length


def send(name: str) -> None:
    queue: MessageQueue[Any] = MessageQueue(1, name=name)
    queue.wait_until_ready()
    while True:
        queue.enqueue(b"x" * 100)


def rate(reader: MessageQueue[Any]) -> float:
    count, began = 0, time.monotonic()
    while time.monotonic() < began + TURN_S:
        count += len(reader.dequeue_many(1000, 1))
    return count / (time.monotonic() - began)


def main() -> None:
    context = multiprocessing.get_context("spawn")
    ready, end = context.Barrier(PROCESSES + 1), context.Event()
    keepers = [
        context.Process(target=keep_queues, args=(i * QUEUES // PROCESSES, ready, end)) for i in range(PROCESSES)
    ]
    for keeper in keepers:
        keeper.start()
    ready.wait()
    found = {"queues": len(list_queues().queues)}
    figures: dict[str, float] = {}
    with running_top() as pid:
        figures["top_core"] = part_of_a_core(pid, SECONDS)
    with running_exporter() as (pid, url):
        figures["exporter_core"], found["exporter_bytes"] = scraped(pid, url)
    end.set()
    for keeper in keepers:
        keeper.join()
    sender = context.Process(target=send, args=("fast",))
    sender.start()
    while not any(one["name"] == "fast" for one in list_queues().queues):
        time.sleep(0.01)
    rates: dict[str, list[float]] = {"alone": [], "watched": []}
    with MessageQueue[Any].attach("fast") as reader:
        rate(reader)
        with running_top() as pid:
            for _ in range(TURNS):
                for what, signal_number in (("alone", signal.SIGSTOP), ("watched", signal.SIGCONT)):
                    os.kill(pid, signal_number)
                    rates[what].append(rate(reader))
        sender.kill()
        sender.join()
    figures["alone_messages_per_s"] = statistics.median(rates["alone"])
    figures["watched_messages_per_s"] = statistics.median(rates["watched"])
    figures["watched_of_alone"] = statistics.median(
        watched / alone for watched, alone in zip(rates["watched"], rates["alone"], strict=True)
    )
    print(json.dumps({**found, **{what: round(value, 4) for what, value in figures.items()}}, indent=2))


if __name__ == "__main__":
    main()
