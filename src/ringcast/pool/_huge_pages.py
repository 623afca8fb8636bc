"""Huge pages of a pool: how much of it the server's page tables map with them, and what keeps the kernel from it."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

SHM = Path("/dev/shm")
SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
SIZE = 2 << 20

# 7f0000000000-7f0040000000 rw-s 00000000 00:17 1234    /dev/shm/#1234 (deleted)
_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ rw.s 0+ ([0-9a-f]+):([0-9a-f]+) ([0-9]+) ")
_ANY_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")
_FIELD = "ShmemPmdMapped:"


def mapped_bytes(segment: str, server_pid: int) -> int | None:
    """How many bytes of a pool its server maps with huge pages; None where the kernel does not tell us.

    It walks the server's page tables: seconds for hundreds of GiB that are mapped with small pages.
    """
    try:
        file = (SHM / segment).stat()
        with open(f"/proc/{server_pid}/smaps", encoding="utf-8", errors="replace") as lines:
            ours = False
            for line in lines:
                if ours and line.startswith(_FIELD):
                    return int(line.split()[1]) * 1024
                # By device and inode: the name there is the one that the file was made under. The server alone maps it
                # writable from its beginning.
                if match := _MAPPING.match(line):
                    device = os.makedev(int(match[1], 16), int(match[2], 16))
                    ours = (device, int(match[3])) == (file.st_dev, file.st_ino)
                elif ours and _ANY_MAPPING.match(line):
                    return None  # a kernel that counts none
    except (OSError, ValueError):
        pass
    return None  # another system, another pid namespace, or a server that is gone


def obstacle() -> str | None:
    """What keeps the kernel from making huge pages in /dev/shm by itself, and what would help; None: nothing does."""
    try:
        setting = (SETTINGS / "shmem_enabled").read_text()
    except OSError:
        return "this kernel has none for shared memory"
    if "[deny]" in setting:
        return f"{SETTINGS / 'shmem_enabled'} says deny; advise there allows them"
    if "[force]" in setting or _mounted_with_huge():
        return None
    return "--prefault makes them (Linux 6.1), and so does a /dev/shm mounted with huge=advise"


def _mounted_with_huge() -> bool:
    options = ""
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields = line.split()
            if fields[4] == str(SHM):
                options = fields[-1]  # of the mount on top
    found = re.search(r"(?:^|,)huge=(\w+)", options)
    return found is not None and found[1] != "never"
