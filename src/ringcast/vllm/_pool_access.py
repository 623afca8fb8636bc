"""A way to the pool that may come late, and again: an engine starts without its pool, and outlives it."""

from __future__ import annotations

import logging
import threading
import time

from ringcast.errors import PoolClosedError, PoolConnectError, PoolError, TokenError
from ringcast.pool import KVLayout, PoolClient
from ringcast.vllm._pool_settings import Settings

_log = logging.getLogger("vllm.ringcast")


class Access:
    """One process's client of the pool, while there is one.

    `client` costs nothing and waits for nothing. Whoever may wait calls `connect`: not the thread of an engine's steps.
    The layout is one of sizes: to try one on an engine's tensors, as clients do, is for when they are not in use yet.
    """

    def __init__(self, settings: Settings, layout: KVLayout, who: str) -> None:
        self._settings = settings
        self._layout = layout
        self._who = who
        self._client: PoolClient | None = None
        self._next_try = 0.0
        self._lock = threading.Lock()
        self._closed = False

    @property
    def client(self) -> PoolClient | None:
        """The client, if there is one."""
        return self._client

    @property
    def due(self) -> bool:
        """Is there no client, and is it time to try again?"""
        return self._client is None and not self._closed and time.monotonic() >= self._next_try

    def connect(self) -> PoolClient | None:
        """The client, or another try to get one if it is time."""
        with self._lock:
            if not self.due:
                return self._client
            self._next_try = time.monotonic() + self._settings.retry
            try:
                self._client = PoolClient.connect(
                    self._settings.pool, self._who, layout=self._layout, timeout=self._settings.timeout,
                    regain=self._settings.regain,
                )  # fmt: skip
            except PoolConnectError as error:
                _log.warning(
                    "ringcast: no pool, so nothing is loaded or stored; the next try comes in %g s: %s",
                    self._settings.retry, error,
                )  # fmt: skip
                return None
            _log.info("ringcast: %s uses pool '%s' for its KV cache", self._who, self._settings.pool)
            return self._client

    def failed(self, client: PoolClient, error: PoolError) -> bool:
        """What to make of an error: is this client of no use any more, so that `connect` may get another?"""
        of_no_use = isinstance(error, PoolClosedError) or (isinstance(error, TokenError) and self._replaced(client))
        with self._lock:
            if of_no_use and self._client is client:
                _log.warning("ringcast: pool '%s' is gone: %s", self._settings.pool, error)
                self._client = None
                client.close()
        return of_no_use

    def _replaced(self, client: PoolClient) -> bool:
        """Has the pool that it is of been closed? Its name may be another's by now."""
        return client.health.server == "gone"

    def close(self) -> None:
        """For good."""
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
        if client is not None:
            client.close()
