"""The demo's workers: each receives every file; counts the tokens of its share; answers over a queue of its own.

NumPy is imported with the module, so that no worker still imports it when the first file arrives.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from ringcast import MessageQueue
from ringcast.cli.lab.channels import Receive, Ticket
from ringcast.cli.lab.demo_corpus import Shares, count_tokens
from ringcast.cli.lab.measure import END, Taken, serve
from ringcast.cli.lab.team import patiently_for_parent

TOKENIZE = "tokenize"
RECEIVE = "receive"

ANSWER_BYTES = 1024


def work(pipe: Connection[Any, Any], rank: int, tickets: Mapping[str, Ticket], workers: int) -> None:
    """A worker's whole life; the pipe carries orders and reports, the channels carry the files."""
    serve(pipe, tickets, {TOKENIZE: partial(_tokenize, pipe, rank, workers), RECEIVE: _receive_all})


def _tokenize(pipe: Connection[Any, Any], rank: int, workers: int, receive: Receive) -> Taken:
    """Take every file and check it, count the tokens of this rank's share, and answer `(path, tokens)` for each."""
    taken, shares = Taken(), Shares(workers)
    with MessageQueue(1, max_chunks=64, max_chunk_bytes=ANSWER_BYTES) as answers:
        pipe.send(answers.export_handle())
        patiently_for_parent(answers.wait_until_ready)
        while (item := receive()) is not END:
            data = _note(taken, item)
            if shares.owner(item["size"]) == rank:
                answers.enqueue((item["path"], count_tokens(data.data)))
    return taken


def _receive_all(receive: Receive) -> Taken:
    """Take every file and check it."""
    taken = Taken()
    while (item := receive()) is not END:
        taken.latencies.append(time.monotonic_ns() - item["sent"])
        _note(taken, item)
    return taken


def _note(taken: Taken, item: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    """Count and check an item; returns its array."""
    data: npt.NDArray[np.uint8] = item["data"]
    taken.messages += 1
    taken.bytes += data.nbytes
    taken.checksum = zlib.crc32(data.data, taken.checksum)  # reads every byte
    return data
