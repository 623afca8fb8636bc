"""fail.c, which makes calls of the C library fail and counts them, as tests use it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from pathlib import Path

from ringcast import _core


class Shim:
    """The preloaded library's functions, in a process that was started with it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        code = [
            [int(address, 16) for address in line.split()[0].split("-")]
            for line in Path("/proc/self/maps").read_text().splitlines()
            if line.endswith(str(_core.__file__)) and " r-xp " in line
        ]
        self._library.fail_module(*(ctypes.c_size_t(address) for address in code[0]))
        self._library.fail_count.restype = ctypes.c_long
        self._function = b""

    def arm(self, function: str, call: int, repeats: int, error: int) -> None:
        self._function = function.encode()
        self._library.fail_arm(self._function, ctypes.c_long(call), ctypes.c_long(repeats), error)

    def counts(self, functions: Iterable[str]) -> dict[str, int]:
        """How often the module has called them since `arm`."""
        return {function: self._library.fail_count(function.encode()) for function in functions}
