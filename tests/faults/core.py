"""The native module with fault points, in place of the installed one."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from typing import Any

VARIABLE = "RINGCAST_FAULT_CORE"


def load() -> Any:
    """Puts the module whose path the environment variable gives where `import ringcast` will find it."""
    path = os.environ.get(VARIABLE)
    if path is None:
        raise SystemExit(f"{VARIABLE} must name an extension built with RINGCAST_FAULT_POINTS; see `make test-faults`")
    if "ringcast" in sys.modules:
        raise SystemExit("ringcast was imported before its core could be replaced")
    path = os.environ[VARIABLE] = os.path.abspath(path)
    name = "ringcast._core"
    loader = importlib.machinery.ExtensionFileLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    if not hasattr(module, "_arm_fault"):
        raise SystemExit(f"{path} has no fault points: it was built without RINGCAST_FAULT_POINTS")
    return module
