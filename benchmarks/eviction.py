"""Which policy hits what: replays request traces through the pool's policies. `python -m benchmarks.eviction FOLDER`.

The traces are those of the Mooncake project (https://github.com/kvcache-ai/Mooncake, FAST25-release/traces, Apache-2.0;
R. Qin et al., "Mooncake: trading more storage for less computation", FAST 2025): `conversation_trace.jsonl` and
`synthetic_trace.jsonl`, one JSON object a line with the chained hashes of a request's blocks of 512 tokens. They are
not part of this project; FOLDER, or RINGCAST_TRACES, is where they lie.

A request hits its leading blocks that are in memory; all its blocks are in memory after it, used from the last to the
first. The capacity is a share of the different blocks of the trace. Each figure stands beside one that was found with
another simulator. The curve of hit rates is what a sample says, beside what simulation of all finds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ringcast import _core
from ringcast.pool import Keys, Namespace, keys_from_hashes

SHARES = (0.02, 0.05, 0.10, 0.20, 0.50)
TRACES = ("conversation", "synthetic")
POLICIES = {
    "LRU": ("lru", False),
    "ARC": ("arc", False),
    "S3-FIFO": ("s3fifo", False),
    "leaf LRU": ("lru", True),
    "leaf ARC": ("arc", True),
    "leaf S3-FIFO": ("s3fifo", True),
}
#: Found with a simulator of 200 lines that is not part of this project. It used a request's blocks from the first to
#: the last where leaves did not go first; its S3-FIFO has a small queue of a tenth, its leaf ARC is another
#: variant.
ELSEWHERE = {
    "conversation": {
        "LRU": (7.9, 19.5, 27.8, 34.5, 36.3),
        "ARC": (9.0, 21.0, 28.4, 32.0, 36.3),
        "S3-FIFO": (11.4, 19.4, 24.4, 30.7, 36.3),
        "leaf LRU": (7.9, 19.6, 27.9, 34.5, 36.3),
        "leaf ARC": (10.7, 21.2, 28.7, 32.2, 36.3),
    },
    "synthetic": {
        "LRU": (7.6, 15.5, 26.0, 39.1, 58.9),
        "ARC": (7.8, 15.9, 26.2, 40.3, 60.3),
        "S3-FIFO": (7.7, 14.9, 26.3, 39.9, 60.3),
        "leaf LRU": (7.8, 15.7, 26.2, 39.3, 58.9),
        "leaf ARC": (8.4, 16.6, 27.4, 41.1, 60.3),
    },
}


@dataclass(frozen=True)
class Trace:
    """The requests of a trace, each as its keys."""

    name: str
    requests: list[Keys]
    n_blocks: int
    n_different: int

    @classmethod
    def read(cls, folder: Path, name: str) -> Trace:
        """From `NAME_trace.jsonl`."""
        space = Namespace("trace", dtype="none", layout="none")
        requests: list[Keys] = []
        different: set[int] = set()
        with (folder / f"{name}_trace.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                hashes: list[int] = json.loads(line)["hash_ids"]
                different.update(hashes)
                requests.append(keys_from_hashes(hashes, space))
        return cls(name, requests, sum(map(len, requests)), len(different))

    def capacity(self, share: float) -> int:
        """Of a pool with room for that share of the different blocks."""
        return max(1, round(self.n_different * share))

    def hit_rate(self, policy: str, leaf_first: bool, capacity: int) -> float:
        """In percent of all blocks."""
        cache = _core.CacheSimulator(policy, capacity, leaf_first)
        return 100 * sum(map(cache.access, self.requests)) / self.n_blocks

    def curve(self, capacity: int) -> dict[str, dict[float, float]]:
        """What the sample says: percent by policy and by how many times the capacity."""
        curve = _core.HitRateCurve(capacity)
        for keys in self.requests:
            curve.access(keys)
        return {kind: {factor: 100 * rate for factor, rate in row.items()} for kind, row in curve.hit_rates().items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; 2 if there are no traces."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eviction", description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", nargs="?", default=os.environ.get("RINGCAST_TRACES"), type=Path, help="of the traces")
    folder: Path | None = parser.parse_args(arguments).folder
    if folder is None:
        print("where are the traces? name their folder, or set RINGCAST_TRACES", file=sys.stderr)
        return 2
    try:
        traces = [Trace.read(folder, name) for name in TRACES]
    except OSError as error:
        print(f"no traces: {error}", file=sys.stderr)
        return 2
    for trace in traces:
        _print_hit_rates(trace)
        _print_curve(trace)
    return 0


def _print_hit_rates(trace: Trace) -> None:
    print(
        f"{trace.name}: {len(trace.requests):,} requests, {trace.n_blocks:,} blocks, {trace.n_different:,} different\n"
        "prefix hit rate in percent, by the pool's share of the different blocks; in brackets, elsewhere"
    )
    print(f"  {'':13}" + "".join(f"{share:>14.0%}" for share in SHARES))
    for title, (policy, leaf_first) in POLICIES.items():
        found = [trace.hit_rate(policy, leaf_first, trace.capacity(share)) for share in SHARES]
        others = ELSEWHERE[trace.name].get(title, ())
        shown = [f"{rate:.1f}" + (f" ({others[i]:.1f})" if others else "       ") for i, rate in enumerate(found)]
        print(f"  {title:13}" + "".join(f"{each:>14}" for each in shown))


def _print_curve(trace: Trace) -> None:
    print("the curve of a sample, by times the capacity; in brackets, how far from the simulation of all")
    worst = 0.0
    for share in (0.05, 0.10, 0.20):
        capacity = trace.capacity(share)
        for kind, row in trace.curve(capacity).items():
            shown = ""
            for factor, rate in row.items():
                error = rate - trace.hit_rate(kind, True, round(capacity * factor))
                worst = max(worst, abs(error))
                shown += f"{f'x{factor:g} {rate:.1f} ({error:+.1f})':>20}"
            print(f"  {share:4.0%} leaf {kind:8}{shown}")
    print(f"  largest error: {worst:.1f} points\n")


if __name__ == "__main__":
    sys.exit(main())
