"""Whether this machine gives ringcast what it needs: `examine` looks, tries, and says what to do.

What can be tried is tried, with the functions that queues use; nothing of it is left behind. Nothing is changed: what
dead processes have left is counted here and removed by `ringcast clean`.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from ringcast import _core
from ringcast._names import segment_name
from ringcast._segment import attach, create
from ringcast._stats import StreamStats
from ringcast._version import __version__
from ringcast.errors import LinkError, RingcastError
from ringcast.instruments.looking import counted, list_queues, sweep
from ringcast.limits import memory_headroom

Status = Literal["ok", "warning", "problem"]

SHM = Path("/dev/shm")
MIB = 1 << 20
QUEUE_BYTES = 256 * MIB
"""What a queue with default settings may take."""
QUEUE_ADDRESSES = 4 * QUEUE_BYTES + 2 * MIB
"""The address space, and the size of the sparse file, of such a queue."""
LEAST_FREE = 2 * MIB
"""A queue that nobody has used takes less."""
FEW_FILES = 256
_DEAR_WAKE_UP_S = 200e-6

MORE_SHM = "give a container more with docker run --shm-size=1g or --ipc=host; else: mount -o remount,size=1g /dev/shm"


class Check(NamedTuple):
    """One thing that was looked at: what was found, and, unless it is ok, what to do."""

    subject: str
    status: Status
    found: str
    remedy: str = ""


def examine() -> Iterator[Check]:
    """All checks, one after the other. Raises nothing: what cannot be looked at is a warning.

    >>> problems = [check.remedy for check in examine() if check.status == "problem"]
    """
    checks: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
        ("versions", versions),
        ("shared memory", shared_memory),
        ("kernel", features),
        ("queue", queue),
        ("limits", limits),
        ("memory", memory),
        ("CPUs", cpus),
        ("wake-up", wake_up),
        ("log-out", log_out),
        ("leftovers", leftovers),
        ("other machines", other_machines),
        ("links", links),
    )
    for subject, check in checks:
        try:
            yield from check()
        except (RingcastError, OSError, ValueError) as error:
            yield Check(subject, "warning", f"it could not be looked at: {error}")


def versions() -> Iterator[Check]:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()} {platform.release()} on {platform.machine()}"
    yield Check(
        "versions", "ok", f"ringcast {__version__} with memory layout {_core.LAYOUT_VERSION}, {python}, {system}"
    )


def shared_memory(place: Path = SHM, mounts: Path = Path("/proc/self/mountinfo")) -> Iterator[Check]:
    if sys.platform != "linux":
        yield Check("shared memory", "ok", "this system keeps it in a name space of its own, without a size limit")
        return
    if not place.is_dir():
        remedy = f"mount it: mount -t tmpfs -o mode=1777 tmpfs {place}"
        yield Check("shared memory", "problem", f"there is no {place}", remedy)
        return
    info = os.statvfs(place)
    if info.f_flag & os.ST_RDONLY or not os.access(place, os.W_OK | os.X_OK):
        remedy = f"remount it writable, with mode 1777: mount -o remount,rw,mode=1777 {place}"
        yield Check("shared memory", "problem", f"{place} is not writable for uid {os.geteuid()}", remedy)
        return
    kind = _mounted_type(place, mounts)
    if kind != "tmpfs":
        what = "is no mount of its own" if kind is None else f"is a {kind}"
        remedy = f"mount a tmpfs there: mount -t tmpfs -o mode=1777 tmpfs {place}"
        yield Check("shared memory", "warning", f"{place} {what}, so messages may be written to a disk", remedy)
    if info.f_blocks == 0:
        yield Check("shared memory", "ok", f"{place} has no size limit")
        return
    size, free = info.f_blocks * info.f_frsize, info.f_bavail * info.f_frsize
    found = f"{place} has {_mib(size)}, {_mib(free)} of them free"
    if info.f_files and not info.f_favail:
        yield Check("shared memory", "problem", f"{place} has no inode left for another file", "remove files from it")
    elif free < LEAST_FREE:
        yield Check("shared memory", "problem", f"{found}: there is no room for a queue", MORE_SHM)
    elif size < QUEUE_BYTES:
        yield Check("shared memory", "warning", f"{found}: a single queue may take {_mib(QUEUE_BYTES)}", MORE_SHM)
    else:
        yield Check("shared memory", "ok", found)


def features() -> Iterator[Check]:
    for feature, needed, failure in _core.probe_features(segment_name(None)):
        if not failure:
            yield Check("kernel", "ok", feature)
        elif needed:
            remedy = (
                "run a Linux kernel of 4.11 or newer, with /proc mounted and without a sandbox that forbids the call"
            )
            yield Check("kernel", "problem", f"{feature}: {failure}", remedy)
        else:
            yield Check("kernel", "ok", f"{feature}: not here; many queues at once are polled instead ({failure})")


def queue() -> Iterator[Check]:
    from ringcast.queue import DEFAULT_MAX_CHUNKS

    try:
        made = create(None, 1, [0], None, DEFAULT_MAX_CHUNKS, tidy=False)
        attach(made.name, zero_copy=True)
    except RingcastError as error:
        yield Check("queue", "problem", f"a queue cannot be made: {error}", "see the other problems")
    else:
        yield Check("queue", "ok", "a queue's memory was made, attached to and removed")


def limits() -> Iterator[Check]:
    fine = True
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if _is_limit(files) and files < FEW_FILES:
        fine = False
        found = f"{files} open files for each process; each end of a queue keeps one"
        yield Check("limits", "warning", found, "ulimit -n 1024")
    for kind, name, option in ((resource.RLIMIT_FSIZE, "file size", "-f"), (resource.RLIMIT_AS, "address space", "-v")):
        limit = resource.getrlimit(kind)[0]
        if _is_limit(limit) and limit < 4 * QUEUE_ADDRESSES:
            fine = False
            status: Status = "problem" if limit < QUEUE_ADDRESSES else "warning"
            found = f"{name} is limited to {_mib(limit)}; a queue with default settings takes {_mib(QUEUE_ADDRESSES)}"
            yield Check("limits", status, found, f"ulimit {option} unlimited, or smaller max_bytes")
    if fine:
        yield Check("limits", "ok", f"{files if _is_limit(files) else 'any number of'} open files for each process")


def memory() -> Iterator[Check]:
    headroom = memory_headroom()
    if headroom is None:
        yield Check("memory", "ok", "no control group limits it")
    elif headroom < QUEUE_BYTES:
        found = f"this control group has about {_mib(headroom)} left; beyond that the kernel kills processes"
        yield Check("memory", "warning", found, "raise the group's memory limit, or give queues a smaller max_bytes")
    else:
        yield Check("memory", "ok", f"this control group has about {_mib(headroom)} left")


def cpus() -> Iterator[Check]:
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    usable = min(allowed, _core.cpu_quota())
    quota = f" by affinity, {usable} by quota" if usable < allowed else ""
    if usable == 1:
        found = f"{allowed}{quota}: all ends take turns on it, and wait while another, or another program, works"
        yield Check("CPUs", "warning", found, "give this process a CPU for each end that has to answer at once")
    else:
        yield Check("CPUs", "ok", f"this process may use {allowed}{quota}")


def wake_up() -> Iterator[Check]:
    """What the kernel takes to wake a sleeping end."""
    taken = _core.measure_wake_ups(50, 2_000_000)
    if not taken:
        yield Check("wake-up", "warning", "it could not be measured: nothing fell asleep", "look again later")
        return
    price_s = statistics.median(taken) / 1e9
    found = f"the kernel takes {price_s * 1e6:.0f} µs to wake a sleeping end"
    if price_s < _DEAR_WAKE_UP_S:
        yield Check("wake-up", "ok", f"{found}; ends whose messages come at most 450 µs apart stay awake")
    else:
        remedy = (
            'wait="busy" for ends that must answer at once; on a virtual machine, ask for a host that polls when idle'
        )
        yield Check("wake-up", "warning", f"{found}: this machine is busy, or its CPUs sleep deeply", remedy)


def log_out(root: Path = Path("/"), user: int | None = None) -> Iterator[Check]:
    """systemd's RemoveIPC: shared memory of ordinary users is removed when their last session ends."""
    user = os.geteuid() if user is None else user
    if not (root / "run/systemd/system").is_dir():
        yield Check("log-out", "ok", "no systemd here that would remove shared memory")
    elif user < 1000:
        yield Check("log-out", "ok", f"systemd leaves the shared memory of system users like uid {user} alone")
    elif not _remove_ipc(root):
        yield Check("log-out", "ok", "systemd's RemoveIPC is off: shared memory stays")
    elif (root / "var/lib/systemd/linger" / _user_name(user)).exists():
        yield Check("log-out", "ok", f"uid {user} lingers: systemd leaves its shared memory alone")
    else:
        found = f"systemd removes all shared memory of uid {user}, queues in use too, when its last session ends"
        remedy = "loginctl enable-linger, or RemoveIPC=no in /etc/systemd/logind.conf; or run as a service"
        yield Check("log-out", "warning", found, remedy)


def leftovers() -> Iterator[Check]:
    dead = [one for one in sweep(dry_run=True) if one.dead]
    if dead:
        size = sum(one.memory_bytes for one in dead)
        found = f"{counted(dead)} of dead processes, {_mib(size)}"
        yield Check("leftovers", "warning", found, "ringcast clean (the next queue that is made does it, too)")
    else:
        yield Check("leftovers", "ok", "no queues of dead processes")


def other_machines() -> Iterator[Check]:
    """Could a queue be taken to other machines, and where would its link listen?"""
    from ringcast.net._addresses import HOST_IP, PORT_RANGE, listening_for_links, shown
    from ringcast.net._sealing import secret

    if find_spec("cryptography") is None:
        found = "queues stay on this machine: links to others need cryptography"
        yield Check("other machines", "ok", f'{found} (pip install "ringcast[remote]")')
        return
    try:
        secret()
    except RingcastError as error:
        yield Check("other machines", "warning", str(error), "make one: ringcast secret")
    try:
        sock, address = listening_for_links(None, None)
    except LinkError as error:
        remedy = f"connect_ip=, or {HOST_IP}, if queues are to be read on other machines"
        yield Check("other machines", "warning", f"queues stay on this machine: {error}", remedy)
        return
    except RingcastError as error:
        yield Check("other machines", "warning", f"a link could not listen: {error}", "correct that variable")
        return
    with sock:
        bound = (str(sock.getsockname()[0]), int(sock.getsockname()[1]))
    ports = f"a port of {PORT_RANGE}" if os.environ.get(PORT_RANGE) else "a free port"
    where = bound[0] if bound[0] == address[0] else f"{bound[0]}, which others are told is {shown(address)}"
    yield Check("other machines", "ok", f"a link would listen at {where}, {ports}")


def links() -> Iterator[Check]:
    """The link processes that run here, and how their streams fare."""
    running = [one for one in sweep(dry_run=True) if one.kind == "link" and one.fate == "alive"]
    jobs = {one.writer_pid: one.name for one in running}
    streams: list[tuple[str, str, StreamStats]] = []
    for info in list_queues().queues:
        if not info["writer"]["alive"]:
            continue
        queue = info["name"] or info["segment"]
        streams += [(queue, f"to {link['host'] or 'another machine'}", link) for link in info["links"]]
        if relay := info["writer"]["relayed_by"]:
            streams.append((queue, f"from {info['writer']['host']}", relay))
    for queue, way, stream in streams:
        cut_s = stream["out_of_reach_s"]
        who = f"queue {queue}: the stream {way}, of link process {stream['pid']},"
        if not stream["alive"]:
            remedy = "make the queue, or attach to it, again; if it was not you, see dmesg for the kernel's killer"
            yield Check("links", "warning", f"{who} is lost: that process has died", remedy)
        elif stream["process"] == "stopped":
            yield Check("links", "warning", f"{who} does nothing: that process is stopped", "continue it: kill -CONT")
        elif cut_s is not None:
            found = f"{who} is out of reach for {cut_s:.0f} s; {stream['under_way']} messages are under way"
            remedy = "see whether that machine is up, and the network between"
            if job := jobs.get(stream["pid"]):
                remedy += f"; `ringcast link {job} --log` says what has happened"
            yield Check("links", "warning", found, remedy)
    if not running and not streams:
        yield Check("links", "ok", "none runs here")
        return
    sent = sum(stream["bytes_sent"] for _, _, stream in streams)
    received = sum(stream["bytes_received"] for _, _, stream in streams)
    again = sum(stream["reconnects"] for _, _, stream in streams)
    found = (
        f"{_some(len(running), 'link process', 'link processes')} of this user, with "
        f"{_some(len(streams), 'stream', 'streams')}: {_mib(sent)} out, {_mib(received)} in, "
        f"{_some(again, 'reconnect', 'reconnects')}"
    )
    yield Check("links", "ok", found)


def _some(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _mounted_type(place: Path, mounts: Path) -> str | None:
    """The file system type of what is mounted at `place` now, or None if nothing is."""
    found = None
    for line in mounts.read_text().splitlines():
        mount, _, rest = line.partition(" - ")
        if mount.split()[4] == str(place.resolve()):
            found = rest.split()[0]  # later mounts lie on top of earlier ones
    return found


def _remove_ipc(root: Path) -> bool:
    """RemoveIPC as logind reads it: the last setting counts, first of the file and then of its drop-ins, by name."""
    places = [root / one / "systemd" for one in ("usr/lib", "run", "etc")]
    files = [one for place in reversed(places) if (one := place / "logind.conf").exists()][:1]
    drop_ins = {one.name: one for place in places for one in place.glob("logind.conf.d/*.conf")}
    setting = "yes"
    for file in [*files, *(drop_ins[name] for name in sorted(drop_ins))]:
        for line in file.read_text(errors="replace").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "RemoveIPC":
                setting = value.strip() or "yes"
    return setting.lower() not in ("no", "false", "off", "0", "n", "f")


def _user_name(user: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _is_limit(value: int) -> bool:
    return value not in (resource.RLIM_INFINITY, -1)


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB" if size < 10 * MIB else f"{size / MIB:,.0f} MiB"
