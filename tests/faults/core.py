"""The native module with fault points, in place of the installed one."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

VARIABLE = "RINGCAST_FAULT_CORE"
_NAME = "ringcast._core"


def load() -> Any:
    """Puts the module whose path the environment variable gives where `import ringcast` will find it."""
    path = os.environ.get(VARIABLE)
    if path is None:
        raise SystemExit(f"{VARIABLE} must name an extension built with RINGCAST_FAULT_POINTS; see `make test-faults`")
    if "ringcast" in sys.modules:
        raise SystemExit("ringcast was imported before its core could be replaced")
    path = os.environ[VARIABLE] = os.path.abspath(path)
    sys.meta_path.insert(0, _Finder(path))
    module = importlib.import_module(_NAME)
    if not hasattr(module, "_arm_fault"):
        raise SystemExit(f"{path} has no fault points: it was built without RINGCAST_FAULT_POINTS")
    return module


class _Finder(importlib.abc.MetaPathFinder):
    """Of this one module. The package imports it, as it does the installed one, and is there when it begins."""

    def __init__(self, path: str) -> None:
        self._path = path

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_file_location(fullname, self._path) if fullname == _NAME else None
