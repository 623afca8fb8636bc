"""A process that stores chunks in a FileTier, says on its standard output what is stored, and is killed at some time.

    python -m tests.pool.tier_writer PATH SIZE CHUNK FIRST COUNT DIRECT [LIMIT]

With LIMIT the kernel cuts the write that comes to that byte of the file short, and kills the process at the next one.
Without it the process stays when it has stored all, so that whoever kills it never comes too late.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from concurrent.futures import Future

from ringcast.pool import FileTier
from tests.pool.tiers import chunk, key


def main(path: str, size: str, chunk_bytes: str, first: str, count: str, direct: str, limit: str = "") -> None:
    """Stores the chunks from `first` on, a few at once."""
    tier = FileTier(path, int(size), int(chunk_bytes), direct=direct == "True", in_flight="1GiB")
    if limit:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)

    def say(number: int, stored: Future[list[bool]]) -> None:
        if stored.result() == [True]:
            os.write(1, b"%d\n" % number)

    for number in range(int(first), int(first) + int(count)):
        job = tier.store([key(number)], [chunk(number, int(chunk_bytes))])
        job.add_done_callback(lambda stored, number=number: say(number, stored))  # type: ignore[misc]
    tier.close()
    os.write(1, b"done\n")
    if not limit:
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
