"""The command line: `main` is the entry point of the script `ringcast` and of `python -m ringcast`.

This module imports no command-line library, so that an installation without the extra `[cli]` ends with one clear line
and exit code 2 instead of a traceback. `ringcast secret` needs none: who reads on other machines needs a
secret, and the extra `[remote]` alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from ringcast.cli.interruption import interrupted_at_once

EXTRA = ("click", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `arguments` are those after the program's name (`sys.argv[1:]`)."""
    with interrupted_at_once():
        missing = [package for package in EXTRA if find_spec(package) is None]
        if missing and list(sys.argv[1:] if arguments is None else arguments) == ["secret"]:
            from ringcast.cli.fresh import fresh_secret

            print(fresh_secret())
            return 0
        if missing:
            need = " and ".join(missing)
            print(f'ringcast: the command line needs {need}: pip install "ringcast[cli]"', file=sys.stderr)
            return 2
        from ringcast.cli.app import run
    try:
        return run(arguments)
    except KeyboardInterrupt:  # before a command was there to clean up after itself
        return 130
