"""A /dev/shm of our own: this process and those it starts see nothing there that others of this machine made.

Root gets a mount namespace; anybody else one inside a user namespace, in which he stays who he is.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHM = Path("/dev/shm")

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 2, 4, 1 << 14, 1 << 18
_MNT_DETACH = 2


def enter(size: str = "50%") -> str | None:
    """Hides /dev/shm behind an empty one. None when that is done, else what prevented it.

    To be called while this process has one thread: of a process with several nobody but root may do so.
    """
    if sys.platform != "linux" or not SHM.is_dir():
        return "only Linux has it as a folder"
    user, group = os.geteuid(), os.getegid()
    try:
        if user == 0:
            _call("unshare", _CLONE_NEWNS)
        else:
            _call("unshare", _CLONE_NEWNS | _CLONE_NEWUSER)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
        _mount(size)
    except OSError as error:
        return str(error)
    return None


@contextmanager
def of_size(size: str) -> Iterator[None]:
    """Within the block a smaller one, empty, on top of our own."""
    _mount(size)
    try:
        yield
    finally:
        _call("umount2", os.fsencode(SHM), _MNT_DETACH)


def _mount(size: str) -> None:
    options = f"mode=1777,size={size}".encode()
    _call("mount", b"tmpfs", os.fsencode(SHM), b"tmpfs", _MS_NOSUID | _MS_NODEV, options)


def _call(name: str, *arguments: bytes | int | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    converted = [ctypes.c_ulong(one) if isinstance(one, int) else one for one in arguments]
    if getattr(libc, name)(*converted) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
