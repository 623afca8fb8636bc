"""A call that waits in a thread of a pool waits no more once nobody can get its result: else no loop ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from ringcast.pool import PoolClient
from tests.pool.groups import WHOLE, group_keys
from tests.pool.pools import CHUNK, RESERVED, Starter, pool, some_keys, start_server
from tests.support import unique_name


def give_up(call: Callable[..., Any], *arguments: Any) -> None:
    """Ends only when the call has."""

    async def timed_out() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(call, *arguments), 0.1)

    asyncio.run(timed_out())


def test_for_a_chunk_that_another_client_stores() -> None:
    with pool(clients=2) as (_, [first, second]):
        keys = some_keys(1)
        lease = first.prepare_store(keys)
        give_up(second.retrieve, keys, 3600.0)
        first.abort_store(lease)
        assert second.held_pins == 0


def test_for_a_server_that_is_stopped(start: Starter) -> None:
    name = unique_name("p")
    child, _ = start_server(start, name)
    with PoolClient.connect(name, layout=CHUNK, timeout=3600.0) as client:
        child.signal(signal.SIGSTOP)
        give_up(client.prepare_store, some_keys(1))
        os.kill(child.pid, signal.SIGCONT)
        assert client.prepare_store(some_keys(1)).statuses == [RESERVED]


def test_for_parts_of_a_group() -> None:
    with pool(chunk=WHOLE) as (server, _):
        with PoolClient.connect(server.name, layout=WHOLE, timeout=3600.0) as client:
            lease = client.prepare_store(group_keys(1))
            lease.export()
            give_up(client.commit_store, lease)
            client.abort_store(lease)
