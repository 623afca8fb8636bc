"""`python -m tests.faults --help`; as `python -m tests.faults lane ...` one of the processes that run scenarios."""

from __future__ import annotations

import sys

from tests import own_shm
from tests.faults import core

core.load()

if sys.argv[1:2] == ["lane"]:
    from tests.faults.lane import main as run_lane

    own_shm.enter()
    run_lane(*map(int, sys.argv[2:]))
elif sys.argv[1:2] == ["pool-actor"]:
    from tests.faults.pool import act

    role, name, seed, point, nth, token = sys.argv[2:]
    act(role, name, int(seed), point, int(nth), bytes.fromhex(token))
elif sys.argv[1:2] == ["tier-actor"]:
    from tests.faults import tier

    path, slots, direct, seed, point, nth = sys.argv[2:]
    tier.act(path, int(slots), direct == "1", int(seed), point, int(nth))
elif sys.argv[1:2] == ["tiered-actor"]:
    from tests.faults import tiered

    role, name, path, seed, point, nth = sys.argv[2:]
    tiered.act(role, name, path, int(seed), point, int(nth))
elif sys.argv[1:2] == ["desk-actor"]:
    from tests.faults import desk

    job, folder, seed, whose, point, action, nth = sys.argv[2:]
    desk.ask(job, desk.Plan(folder, whose, point, action, int(nth)), int(seed))
elif sys.argv[1:2] == ["desk"]:
    from tests.faults import desk

    sys.exit(desk.main(int((sys.argv[2:] or ["1"])[0]), *sys.argv[3:]))
elif sys.argv[1:2] == ["pool"]:
    from tests.faults import pool, tier, tiered

    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    failed = [each.main(rounds) for each in (tier, pool, tiered)]
    sys.exit(max(failed))
else:
    from tests.faults.driver import main

    sys.exit(main())
