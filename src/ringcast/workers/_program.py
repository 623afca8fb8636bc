"""The program that starts workers, as they find it: they import its main module first, but where they are forked."""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import Any

from ringcast.errors import ArgumentError, RoleError


def check(start_method: str) -> None:
    """Raises what is in the way of an import that would come to nothing otherwise, at length and in the workers."""
    if start_method == "fork":
        return
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RoleError(
            "a worker that is being started imports this program, which starts workers itself when it is imported: put "
            'what the program does under `if __name__ == "__main__":`'
        )
    main: Any = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if file is not None and getattr(main, "__spec__", None) is None and not os.path.exists(file):
        raise ArgumentError(
            f"start_method={start_method!r}: workers import the program, and this one is no file that they can read "
            f'({file!r}): put it into one, or use start_method="fork"'
        )


def is_theirs(kind: Any, start_method: str) -> bool:
    """Can they find this class by its name? Not if it was typed in, or is in a `__main__.py`, which nobody imports."""
    if start_method == "fork" or getattr(kind, "__module__", None) != "__main__":
        return True
    main: Any = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    return hasattr(main, "__file__") and (spec is None or spec.name.rpartition(".")[2] != "__main__")
