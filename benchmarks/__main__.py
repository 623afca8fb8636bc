"""`python -m benchmarks`: the command, or a sentence that says what it needs."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; 2 where a package is missing that it needs."""
    try:
        from ringcast.cli.common import drop_stdout

        from .command import main as command
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "benchmarks", "ringcast"):  # a fault of ours
            raise
        print(
            f'the benchmarks need the package {package}: make bench, or pip install --editable ".[bench]"',
            file=sys.stderr,
        )
        return 2
    try:
        code = command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough
        drop_stdout()
        return 0
    return code


if __name__ == "__main__":
    sys.exit(main())
