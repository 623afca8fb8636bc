"""ringcast measured against its peers and against the bare machine: ``python -m benchmarks`` from the project's root.

Every figure of one report comes from one run: ringcast, the peers and a native floor program take turns, round by
round, in pinned processes, with Python objects at both ends and every message accounted for. A peer that is not
installed is named in the report.
"""

import os

# The process that forks the others must have no threads of its own, and pinned processes have no use for more than one.
for _library in ("OPENBLAS", "OMP", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")
