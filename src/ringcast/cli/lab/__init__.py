"""The measuring engine: crews of processes, rounds in which subjects take turns, medians, what others did meanwhile.

`ringcast bench` and `ringcast demo` are a few workloads of it with two subjects; `benchmarks/` in the repository adds
other libraries, native floors, goals and more workloads.
"""

import os

# The process that forks the others must have no threads of its own, and pinned processes have no use for more than one.
for _library in ("OPENBLAS", "OMP", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")
