"""All kinds of calls at once, from threads and tasks: each answer is its own call's."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ringcast import WorkerGroup
from ringcast.errors import CallTimeoutError
from tests.support import Background, eventually
from tests.workers.objects import Model

SECONDS = float(os.environ.get("RINGCAST_STORM_SECONDS", "4"))
THREADS, TASKS = 8, 100
LONG_S = 60.0


class Storm:
    """Each call carries a value that no other does, and returns it, or fails with it, or is given up."""

    def __init__(self, group: WorkerGroup) -> None:
        self.group = group
        self.until = time.monotonic() + SECONDS
        self.counts = {"well": 0, "failed": 0, "late": 0, "cancelled": 0}
        self.lock = threading.Lock()

    def count(self, kind: str) -> None:
        with self.lock:
            self.counts[kind] += 1

    def check(self, value: tuple[int, int], get: Callable[[], Any]) -> None:
        failed: list[Any] = []
        got: Any = None
        try:
            got = get()
        except KeyError as error:
            failed = [one.args[0] for one in getattr(error, "exceptions", [error])]
        except CallTimeoutError:
            self.count("late")
            return
        if failed:
            assert failed in ([value], [value, value])
            self.count("failed")
        else:
            assert got in (value, [value], [value, value])
            self.count("well")

    def check_future(self, value: tuple[int, int], future: Future[Any], cancel: bool = False) -> None:
        if cancel and future.cancel():
            self.count("cancelled")
        else:
            self.check(value, lambda: future.result(LONG_S))

    def thread(self, number: int) -> None:
        group = self.group
        draw = random.Random(number)
        step = 0
        while time.monotonic() < self.until:
            step += 1
            value = (number, step)
            one = group[draw.randrange(2)]
            kind = draw.randrange(6)
            if kind == 0:
                self.check(value, lambda value=value: group.call("fail_with", value))  # type: ignore[misc]
            elif kind == 1:
                self.check(value, lambda value=value: group.call("nap", 0.002, value, deadline=0.004))  # type: ignore[misc]
            elif kind == 2:
                self.check_future(value, group.submit("echo_only", value), cancel=draw.random() < 0.5)
            elif kind == 3:
                several = [((number, -5 * step - i), one) for i in range(5)]
                futures = [(own, at.submit("echo_only", own)) for own, at in several]
                for own, future in futures:
                    self.check_future(own, future)
            else:
                self.check(value, lambda value=value, one=one: one.call("echo_only", value))  # type: ignore[misc]

    async def task(self, number: int) -> None:
        draw = random.Random(number)
        step = 0
        while time.monotonic() < self.until:
            step += 1
            value = (number, step)
            try:
                if draw.random() < 0.2:
                    got = await asyncio.wait_for(self.group.submit("nap", 0.002, value), 0.003)
                else:
                    got = await self.group.submit("echo_only", value)
            except asyncio.TimeoutError:
                self.count("cancelled")
            else:
                assert got == [value, value]
                self.count("well")

    async def tasks(self) -> None:
        await asyncio.gather(*(self.task(THREADS + number) for number in range(TASKS)))


def test_a_storm_of_all_kinds_of_calls_mixes_no_answers() -> None:
    with WorkerGroup(Model, 2) as group:
        storm = Storm(group)
        running = [Background(storm.thread, number) for number in range(THREADS)]
        running.append(Background(lambda: asyncio.run(storm.tasks())))
        for one in running:
            one.result(LONG_S)
        assert all(storm.counts.values()), storm.counts
        eventually(lambda: not group._calls.under_way, "an end of all calls")
        assert group.call("echo_only", "well") == ["well", "well"]
