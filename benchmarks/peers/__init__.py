"""The subjects of the benchmark: ringcast first, then its peers, one file each."""

from __future__ import annotations

from ringcast.cli.lab.mp_queue import MP_QUEUE
from ringcast.cli.lab.subject import Subject

from . import faster_fifo_queue, iceoryx, mp_pipe, pyzmq_push, ringcast_queue, vllm_queue

SUBJECTS: tuple[Subject, ...] = (
    *ringcast_queue.SUBJECTS,
    MP_QUEUE,
    *mp_pipe.SUBJECTS,
    *pyzmq_push.SUBJECTS,
    *faster_fifo_queue.SUBJECTS,
    *iceoryx.SUBJECTS,
    *vllm_queue.SUBJECTS,
)
