"""What `kv_connector_extra_config` says: which pool, and for how long its server is waited for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ringcast._arguments import refuse, seconds
from ringcast._names import pool_segment_name
from ringcast.errors import ArgumentError

EXTRA = "kv_connector_extra_config"


@dataclass(frozen=True)
class Settings:
    """The connector's own settings."""

    pool: str
    """Its name, as in `ringcast pool serve NAME`."""
    timeout: float = 1.0
    """Seconds that a store waits for the server's answer; it waits beside the engine's steps."""
    regain: float = 1.0
    """Seconds of it that it waits for another server, if this one has died."""
    retry: float = 5.0
    """Seconds from one try to the next, where there is no pool or no server."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """From `kv_connector_extra_config`. Raises ArgumentError, for keys that are not known, too."""
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(given) - set(known)):
            raise ArgumentError(f"{EXTRA} has {', '.join(map(repr, unknown))}; the keys are {', '.join(known)}")
        if "pool" not in given:
            raise ArgumentError(f"{EXTRA} must have the key 'pool': the name of the pool, as {{'pool': 'kv0'}}")
        if not isinstance(given["pool"], str):
            raise refuse(f"{EXTRA}['pool']", "a str", given["pool"])
        pool_segment_name(given["pool"])
        for name in known[1:]:
            if name in given and seconds(f"{EXTRA}['{name}']", given[name]) is None:
                raise ArgumentError(
                    f"{EXTRA}['{name}'] must be seconds, at most 1e9, not {given[name]!r}: an engine waits for no pool "
                    "without limit"
                )
        return cls(given["pool"], **{name: float(given[name]) for name in known[1:] if name in given})
