"""Keys of a pool: `chunk_keys` of 128 Ki tokens in chunks of 256, beside what the hash alone allows.

Timed is one call, from tokens in a NumPy array or a list to keys; the figure is the bytes of the tokens, four each,
over the median call. The bound is `openssl speed` of SHA-256 at 1 KiB, a chunk's size, on the same CPU in the same
round: it hashes one buffer again and again.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from statistics import median
from typing import Any

from ringcast.cli.lab.bench import Bench, Settings
from ringcast.cli.lab.crew import Member
from ringcast.cli.lab.measure import Metric, Outcome
from ringcast.cli.lab.subject import Subject
from ringcast.cli.lab.workload import Case, Workload, check
from ringcast.pool import Namespace, chunk_keys

_TOKENS = 128 << 10
_TOKENS_OF_A_CHUNK = 256
_TOKEN_BYTES = 4
_CALLS = 200
_OF_OPENSSL = re.compile(r"^sha256\s+([\d.]+)k", re.MULTILINE)


class KeyRate(Workload):
    """See the module."""

    key = "keys"
    title = "Keys of 128 Ki tokens"
    explain = "chunk_keys, 256 tokens a chunk, SHA-256; bytes of the tokens"
    metrics = (Metric("rate", "rate", "GB/s", better="higher"),)
    floor_label = "openssl speed, 1 KiB"
    floor_in_python = True

    def lacking(self) -> str:
        """The program that is the bound."""
        return "" if shutil.which("openssl") else "the openssl program is not installed"

    def takes(self, subject: Subject) -> bool:
        """No queue takes part: this is one call."""
        return subject.key == "ringcast"

    def cases(self, settings: Settings) -> tuple[Case, ...]:
        """What the tokens are in."""
        return (Case("array", "int64 array"), Case("list", "list"))

    def measure(self, subject: Subject, case: Case, bench: Bench) -> Outcome:
        """The median of some calls, in a pinned process."""
        count = bench.settings.count(_CALLS)

        def alone(_member: Member) -> float:
            import numpy

            space = Namespace("benchmark", dtype="bfloat16", layout="pages")
            numbers = numpy.random.default_rng(1).integers(0, 128_000, _TOKENS)
            tokens: Any = numbers if case.key == "array" else numbers.tolist()
            times = []
            for _ in range(count):
                begin = time.perf_counter()
                keys = chunk_keys(tokens, space, _TOKENS_OF_A_CHUNK)
                times.append(time.perf_counter() - begin)
                check(len(keys) == _TOKENS // _TOKENS_OF_A_CHUNK, "a chunk has no key")
            return median(times)

        return Outcome({"rate": _TOKENS * _TOKEN_BYTES / bench.run(alone, [])[0] / 1e9})

    def measure_floor(self, case: Case, bench: Bench) -> Outcome | None:
        """As OpenSSL measures itself, for a second."""

        def alone(_member: Member) -> float:
            command = ["openssl", "speed", "-evp", "sha256", "-bytes", "1024", "-seconds", "1"]
            said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
            found = _OF_OPENSSL.search(said)
            check(found is not None, f"openssl speed said {said!r}")
            return float(found[1]) * 1e3 if found else 0.0

        return Outcome({"rate": bench.run(alone, [])[0] / 1e9})
