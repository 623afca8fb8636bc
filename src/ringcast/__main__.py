"""`python -m ringcast`: the same command line as the script `ringcast`."""

from __future__ import annotations

import sys

from ringcast.cli import main

if __name__ == "__main__":
    sys.exit(main())
