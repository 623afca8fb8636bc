"""The rate of a nested dict of about 1 KiB, against what encoding and decoding alone allow.

The bound is the slower of pickle.dumps and pickle.loads (protocol 5) of the same objects, alone, on one of the same
CPUs, in the same round: a queue whose two ends work side by side can do no better.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from typing import Any

from ..bench import Bench
from ..crew import Member
from ..measure import Metric, Outcome
from ..peers.base import Subject
from ..settings import DEPTH
from .base import Case, Workload
from .stream import stream


def _message(number: int) -> dict[str, Any]:
    """A step of work as an inference engine would broadcast it; about 1 KiB when pickled."""
    return {
        "step": number,
        "kind": "decode",
        "requests": [
            {
                "id": f"request-{number}-{each}",
                "tokens": [number + each * 7 + i for i in range(16)],
                "blocks": [each * 64 + i for i in range(8)],
                "sampling": {"temperature": 0.7, "top_p": 0.95, "seed": number * 31 + each, "stop": ["\n\n", "</s>"]},
            }
            for each in range(6)
        ],
        "flags": {"prefix_cache": True, "profile": False, "graph": None},
    }


_MESSAGES = [_message(number) for number in range(128)]
_END = {"end": True}
_MAX_BYTES = max(len(pickle.dumps(message, 5)) for message in _MESSAGES) + 512


class Objects(Workload):
    """See the module."""

    key = "objects"
    title = "Rate of a nested dict"
    explain = f"{sum(len(pickle.dumps(m, 5)) for m in _MESSAGES) // len(_MESSAGES):,} bytes pickled, one reader"
    metrics = (Metric("rate", "messages/s", "/s", better="higher"),)
    floor_label = "pickle alone, slower of both"
    needs_trial = True

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """Stream for about as long as set."""
        passes = -(-bench.messages_for(self.key, subject.key) // len(_MESSAGES))
        spec = bench.spec(1, DEPTH, _MAX_BYTES, "object")
        rate = stream(subject, spec, _MESSAGES, _END, passes, 0, bench)
        bench.remember_rate(rate, self.key, subject.key)
        return Outcome({"rate": rate})

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """Encode alone and decode alone, one after the other, in a pinned process."""

        def alone(_member: Member) -> tuple[float, float]:
            encoded = [pickle.dumps(message, 5) for message in _MESSAGES]
            dumps = partial(pickle.dumps, protocol=5)
            seconds = bench.settings.rate_seconds / 2
            return _calls_a_second(dumps, _MESSAGES, seconds), _calls_a_second(pickle.loads, encoded, seconds)

        encode, decode = bench.run(alone, [])[0]
        return Outcome({"rate": min(encode, decode), "encode": encode, "decode": decode})


def _calls_a_second(call: Callable[[Any], Any], arguments: Sequence[Any], seconds: float) -> float:
    calls = 0
    begin = time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        for _ in repeat(None, 8):
            for argument in arguments:
                call(argument)
        calls += 8 * len(arguments)
    return calls / spent
