"""The objects that the workloads with dicts send: a step of work as an inference engine would broadcast it."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

END: dict[str, Any] = {"end": True}
#: Room in a message for what a library adds to the pickle.
_ROOM_BYTES = 512
#: Slots of a queue that carries steps of work: the depth that `MessageQueue` has by default.
STEP_DEPTH = 10
#: Between messages or bursts, where an end is idle most of the time.
INTERVAL_SECONDS = 0.005


def step_of_work(number: int, n_requests: int) -> dict[str, Any]:
    """A nested dict: about 930 bytes when pickled with 6 requests, about 1,300 with 9."""
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
            for each in range(n_requests)
        ],
        "flags": {"prefix_cache": True, "profile": False, "graph": None},
    }


def pickled_bytes(messages: Sequence[object]) -> int:
    """How long a message is, on average."""
    return sum(map(_pickled, messages)) // len(messages)


def most_bytes(messages: Sequence[object]) -> int:
    """What a queue for these messages must have room for."""
    return max(map(_pickled, messages)) + _ROOM_BYTES


def _pickled(message: object) -> int:
    return len(pickle.dumps(message, 5))
