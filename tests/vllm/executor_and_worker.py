"""vLLM's own executor and two of its workers, of the release that is found first, over ringcast's queue.

Their methods are vLLM's; what is left out is the model, and processes. Run in the environment of an engine.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections import deque
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np

from ringcast.vllm import register

_NO_LONGER_NEEDED = ("gguf", "gguf.constants", "gguf.quants")
"""Packages that only older releases import, and not for this."""

for _name in _NO_LONGER_NEEDED:
    sys.modules.setdefault(_name, MagicMock())

import vllm  # noqa: E402
from vllm.v1.executor import multiproc_executor  # noqa: E402

WORKERS = 2


class Echo:
    """What a worker does its calls on."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def echo(self, value: Any) -> tuple[int, Any]:
        return self.rank, value

    def fail(self) -> None:
        raise ValueError("as it was asked to")

    def shutdown(self) -> None: ...


def worker(rank: int, handle: Any) -> Any:
    """A WorkerProc whose queues are made by its own method."""
    made: Any = object.__new__(multiproc_executor.WorkerProc)
    made.rank, made.worker, made.use_async_scheduling = rank, Echo(rank), False
    made._init_message_queues(handle, SimpleNamespace(parallel_config=SimpleNamespace(nnodes_within_dp=1)))
    return made


def serve(one: Any) -> None:
    """Until its queue is shut down."""
    one.rpc_broadcast_mq.wait_until_ready()
    one.worker_response_mq.wait_until_ready()
    try:
        one.worker_busy_loop()
    except RuntimeError:
        one.ended = True


def executor(broadcast: Any, responses: list[Any]) -> Any:
    """A MultiprocExecutor with these queues."""
    made: Any = object.__new__(multiproc_executor.MultiprocExecutor)
    made.rpc_broadcast_mq, made.response_mqs, made.futures_queue = broadcast, responses, deque()
    made.is_failed, made.shutdown_event, made.workers = False, threading.Event(), []
    made.vllm_config = SimpleNamespace(parallel_config=SimpleNamespace(enable_fault_tolerance=False))
    return made


def main() -> None:
    assert register(), "the plugin does not fit"
    queue: Any = multiproc_executor.MessageQueue
    assert queue.__module__ == "ringcast.vllm._queue"
    broadcast = queue(WORKERS, WORKERS, max_chunk_bytes=16 << 20, connect_ip="10.1.2.3")
    workers = [worker(rank, broadcast.export_handle()) for rank in range(WORKERS)]
    threads = [threading.Thread(target=serve, args=(one,), daemon=True) for one in workers]
    for thread in threads:
        thread.start()
    ready = [{"handle": one.worker_response_mq.export_handle(), "peer_response_handles": []} for one in workers]
    unready = SimpleNamespace(proc=None, rank=0, death_writer=None)
    wait: Any = multiproc_executor.WorkerProc.wait_for_response_handle_ready
    handles = [wait(answer, unready) for answer in ready]
    made = executor(broadcast, [one.worker_response_mq for one in handles])
    broadcast.wait_until_ready()
    for one in made.response_mqs:
        one.wait_until_ready()

    assert made.collective_rpc("echo", args=("all",)) == [(0, "all"), (1, "all")]
    assert made.collective_rpc("echo", args=("one",), unique_reply_rank=1, timeout=60) == (1, "one")
    futures = [made.collective_rpc("echo", args=(n,), unique_reply_rank=0, non_block=True) for n in range(50)]
    assert [future.result() for future in futures] == [(0, n) for n in range(50)]
    pixels = np.arange(30 << 20, dtype=np.uint8)
    for rank, received in made.collective_rpc("echo", args=({"pixel_values": pixels},)):
        assert rank in range(WORKERS)
        assert np.array_equal(received["pixel_values"], pixels)
    assert "as it was asked to" in failure(made)
    group()
    for one in workers:  # as the monitor of the death pipe does
        one.rpc_broadcast_mq.shutdown()
        one.worker_response_mq.shutdown()
    for thread in threads:
        thread.join()
    assert all(one.ended for one in workers)
    made.shutting_down = True
    made.shutdown()
    print(f"vLLM {vllm.__version__} from {vllm.__file__}, for {sys.argv[1]}")
    print("all as it should be")


def failure(made: Any) -> str:
    """What the executor tells of a call that fails."""
    try:
        made.collective_rpc("fail", unique_reply_rank=0)
    except RuntimeError as error:
        return str(error)
    return "it has returned"


def group() -> None:
    """A queue of a group, with vLLM's own ways to find who shares memory: of one rank, and written outside of it."""
    import torch.distributed as dist
    from vllm.distributed.device_communicators.shm_broadcast import MessageQueue
    from vllm.distributed.utils import StatelessProcessGroup
    from vllm.utils.network_utils import get_open_port

    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=0, world_size=1)
        kind: Any = MessageQueue
        outside = kind(1, 1)
        stateless: Any = StatelessProcessGroup
        groups = [dist.group.WORLD, stateless.create("127.0.0.1", get_open_port(), rank=0, world_size=1)]
        for number, pg in enumerate(groups):
            if number:
                outside = kind(1, 1)
            read = kind.create_from_process_group(
                pg, 1 << 22, 6, external_writer_handle=outside.export_handle(), blocking=False
            )
            outside.enqueue("from outside")
            assert read.dequeue(timeout=60) == "from outside"
        own, handles = kind.create_from_process_group_single_reader(dist.group.WORLD, 1 << 22, 6)
        reader = kind.create_from_handle(handles[0], 0)
        own.enqueue("reply")
        assert reader.dequeue(timeout=60) == "reply"
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
