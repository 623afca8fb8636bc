"""Where vLLM has its queue's class: its own module, and whatever has imported it by name. Put ours there, or its back.

Only that one name is touched: vLLM's handles, fences and checks of shared memory are used by others of its modules.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from ringcast._version import __version__
from ringcast.vllm._fit import misfits

_MODULE = "vllm.distributed.device_communicators.shm_broadcast"
_NAME = "MessageQueue"

_log = logging.getLogger("vllm.ringcast")
_stock: Any = None
"""vLLM's own class, while ours is in its place."""
_given_back = False


def put_in_place(ours: type) -> bool:
    """Put `ours` wherever vLLM's class is, if it fits; True if it is there now. Raises ImportError."""
    global _stock
    if _stock is not None or _given_back:
        return _stock is not None
    stock = getattr(import_module(_MODULE), _NAME)
    if found := misfits(stock, ours):
        _log.error(
            "ringcast %s: not in use here, vLLM's own queue stays in place, since this release of vLLM (%s) calls it "
            "in another way than any that is known: %s",
            __version__, _vllm_version(), "; ".join(found),
        )  # fmt: skip
        return False
    _stock = stock
    changed = _replace(stock, ours)
    _log.info("ringcast %s is in the place of vLLM's %s, in %s", __version__, _NAME, ", ".join(changed))
    return True


def give_back(why: str) -> Any:
    """vLLM's own class, which is in its place again for all that this process makes from now on."""
    global _stock, _given_back
    stock, _stock = _stock, None
    _given_back = True
    module = import_module(_MODULE)
    if stock is None:
        return getattr(module, _NAME)
    _replace(getattr(module, _NAME), stock)
    _log.warning("ringcast: no longer in use here, vLLM's own queue is in place again: %s", why)
    return stock


def _replace(old: Any, new: Any) -> list[str]:
    changed = []
    for name, module in sorted(sys.modules.copy().items()):
        # Past the modules' own ways to find attributes, which may import what nobody has asked for.
        if isinstance(module, ModuleType) and object.__getattribute__(module, "__dict__").get(_NAME) is old:
            setattr(module, _NAME, new)
            changed.append(name)
    return changed


def _vllm_version() -> str:
    return str(getattr(sys.modules.get("vllm"), "__version__", "unknown"))
