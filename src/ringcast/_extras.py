"""Packages that only some need: imported when something does, and named with their extra where they are missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from ringcast.errors import MissingPackageError

_EXTRAS = {
    "numpy": "numpy", "msgspec": "msgpack", "torch": "torch", "cryptography": "remote", "matplotlib": "bench",
    "ray": "ray", "obstore": "object", "obstore.store": "object", "mooncake.store": "mooncake",
    "prometheus_client": "metrics", "opentelemetry.metrics": "otel",
}  # fmt: skip


def needed(package: str, what: str) -> ModuleType:
    """The module `package`, which `what` needs. Raises MissingPackageError."""
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingPackageError(
            f'{what} needs the package {package} ({error}): pip install "ringcast[{_EXTRAS[package]}]"',
            name=package,
        ) from error
