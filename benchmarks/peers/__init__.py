"""The subjects of the benchmark: ringcast first, then its peers, one file each."""

from __future__ import annotations

from ringcast.cli.lab.mp_queue import MP_QUEUE
from ringcast.cli.lab.subject import Subject

from . import (
    callers,
    copying,
    faster_fifo_queue,
    gloo,
    iceoryx,
    mp_pipe,
    pool_servers,
    pyzmq_push,
    pyzmq_tcp,
    ringcast_link,
    ringcast_queue,
    tier_kinds,
    tls,
    vllm_queue,
    waiters,
)

SUBJECTS: tuple[Subject, ...] = (
    *ringcast_queue.SUBJECTS,
    MP_QUEUE,
    *mp_pipe.SUBJECTS,
    *pyzmq_push.SUBJECTS,
    *faster_fifo_queue.SUBJECTS,
    *iceoryx.SUBJECTS,
    *vllm_queue.SUBJECTS,
    *callers.SUBJECTS,
    *waiters.SUBJECTS,
    *pool_servers.SUBJECTS,
    *copying.SUBJECTS,
    *tier_kinds.SUBJECTS,
    *ringcast_link.SUBJECTS,
    *pyzmq_tcp.SUBJECTS,
    *tls.SUBJECTS,
    *gloo.SUBJECTS,
)
