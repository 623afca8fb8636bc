"""Processes that are killed, stopped, delayed and ended at every step of every protocol: `make test-faults`.

    plan      a scenario made of a seed: who takes part, who is hit where, who cleans up
    messages  what is sent, each message with its number and a checksum
    board     what the processes of a scenario tell each other without waiting
    actors    the writer, the readers and the cleaner, each in a process of its own
    lane      runs one scenario after the other, in a /dev/shm of its own
    checks    the promises, and whether a scenario kept them
    driver    the lanes, and the report
    pool      a pool, with scenarios and checks of its own; and tier, a FileTier
    desk      a link's desk, likewise

A scenario is made of its seed alone, so a failure is run again by its seed; only the kernel's scheduling differs.
"""
