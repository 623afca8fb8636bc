"""The rate of a nested dict of about 1 KiB to one, two and four readers, against what encoding and decoding allow.

The time runs from the first dict that any reader received to the last one that the slowest received. The bound is the
slower of pickle.dumps and pickle.loads (protocol 5) of the same objects, alone, on one of the same CPUs, in the same
round: a queue whose ends work side by side can do no better. Readers that share a CPU share what it decodes.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from typing import Any

from ringcast.cli.lab.bench import DEPTH, Bench
from ringcast.cli.lab.crew import Member
from ringcast.cli.lab.measure import Outcome
from ringcast.cli.lab.rate import RATE, SECONDS
from ringcast.cli.lab.stream import Traffic, deliver
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case, Workload

from .messages import END, most_bytes, pickled_bytes, step_of_work

_MESSAGES = [step_of_work(number, 6) for number in range(128)]


class Objects(Workload):
    """See the module."""

    key = "objects"
    title = "Rate of a nested dict"
    explain = f"{pickled_bytes(_MESSAGES):,} bytes pickled, depth {DEPTH:,}, every reader gets every dict"
    metrics = (RATE,)
    floor_label = "pickle alone, slower of both"
    floor_in_python = True

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Stream for about as long as set."""
        traffic = Traffic(_MESSAGES, END, pickled_bytes(_MESSAGES), "object")
        spec = bench.spec(case.n_readers, DEPTH, most_bytes(_MESSAGES), "object")
        return Outcome({RATE.key: deliver(subject, spec, traffic, bench.settings.seconds(SECONDS), bench).rate})

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """Encode alone and decode alone, one after the other, in a pinned process."""

        def alone(_member: Member) -> tuple[float, float]:
            encoded = [pickle.dumps(message, 5) for message in _MESSAGES]
            dumps = partial(pickle.dumps, protocol=5)
            seconds = bench.settings.seconds(SECONDS) / 2
            return _calls_a_second(dumps, _MESSAGES, seconds), _calls_a_second(pickle.loads, encoded, seconds)

        encode, decode = bench.run(alone, [])[0]
        rate = min(encode, decode / bench.placement.most_readers_of_a_cpu(case.n_readers))
        return Outcome({"rate": rate, "encode": encode, "decode": decode})


def _calls_a_second(call: Callable[[Any], Any], arguments: Sequence[Any], seconds: float) -> float:
    calls = 0
    begin = time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        for _ in repeat(None, 8):
            for argument in arguments:
                call(argument)
        calls += 8 * len(arguments)
    return calls / spent
