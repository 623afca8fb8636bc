"""ringcast measured against its peers and against the bare machine: `python -m benchmarks` from the project's root.

The engine is ringcast's own (`ringcast.cli.lab`); here are the peers, the native floors, the goals and more workloads.
Every figure of one report comes from one run: ringcast, the peers and a native floor program take turns, round by
round, in pinned processes, with Python objects at both ends and every message accounted for. A peer that is not
installed is named in the report.
"""
