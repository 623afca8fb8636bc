"""Starts engines, tells them what to do, and looks at their processes, their shared memory and their sockets."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.engine import probe

ROOT = Path(__file__).resolve().parents[2]
SHM = Path("/dev/shm")
_TICKS = os.sysconf("SC_CLK_TCK")
_START_S, _COMMAND_S, _END_S = 900.0, 600.0, 60.0

_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "0|1", "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo", "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip


class EngineFailedError(RuntimeError):
    """An engine did not start, or did not answer."""


class Left(NamedTuple):
    """What is there that was not there before."""

    shared_memory: tuple[str, ...]
    temporary: tuple[str, ...]
    sockets: int
    processes: tuple[int, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.shared_memory)} in /dev/shm", f"{len(self.temporary)} in /tmp", f"{self.sockets} sockets"]
        return ", ".join([*parts, f"{len(self.processes)} processes"])


class Engine:
    """An engine in processes of its own; `processes` are their ids: main, core, w0, w1.

    They stay in our session, as a busy neighbour does: where Linux groups processes by session (autogroup), one of
    another would share CPUs with the whole engine, and not with each of its processes.
    """

    processes: dict[str, int]
    up_s: float

    def __init__(
        self, kind: str, work: Path, model: Path, *, probed: bool = False, options: dict[str, Any] | None = None
    ) -> None:
        self.kind = kind
        self.folder = work / f"{kind}-{time.monotonic_ns()}"
        self._sockets, self._temporary, self.probes = (self.folder / name for name in ("rpc", "tmp", "probes"))
        for one in (self._sockets, self._temporary, self.probes):
            one.mkdir(parents=True)
        self._shm_before = set(os.listdir(SHM))
        self.log = self.folder / "log"
        path = [str(ROOT), *([str(probe.install(self.folder / "plugins"))] if probed else [])]
        environment = {
            **os.environ, **_ENVIRONMENT, "RINGCAST_VLLM": "1" if kind == "ringcast" else "0",
            "VLLM_RPC_BASE_PATH": str(self._sockets), "TMPDIR": str(self._temporary),
            "PYTHONPATH": os.pathsep.join(path),
        }  # fmt: skip
        environment.pop("VLLM_PLUGINS", None)  # which would name some of the two plugins
        if probed:
            environment[probe.FOLDER] = str(self.probes)
        answers, theirs = os.pipe()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.engine.engine", str(theirs), str(model), json.dumps(options or {})],
                stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=(theirs,), env=environment, cwd=ROOT,
                process_group=0,
            )  # fmt: skip
        os.close(theirs)
        self._answers = os.fdopen(answers)
        try:
            self.up_s = self._answer(_START_S)["up_s"]
            self.processes = _named(self._process.pid)
        except BaseException:
            self.discard()
            raise

    def tell(self, command: str, *arguments: Any) -> dict[str, Any]:
        """The engine's answer to a command."""
        self.say(command, *arguments)
        return self._answer(_COMMAND_S)

    def say(self, command: str, *arguments: Any) -> None:
        """A command, whose answer `hear` waits for."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, *arguments]).encode() + b"\n")
        self._process.stdin.flush()

    def hear(self, within_s: float = _COMMAND_S) -> dict[str, Any] | None:
        """The answer to what was said; None if there is none in time."""
        return self._answer(within_s) if select.select([self._answers], [], [], within_s)[0] else None

    def _answer(self, within_s: float) -> dict[str, Any]:
        if not select.select([self._answers], [], [], within_s)[0]:
            raise EngineFailedError(f"{self.kind}: no answer within {within_s:g} s; {self._end_of_log()}")
        line = self._answers.readline()
        if not line:
            raise EngineFailedError(f"{self.kind}: the engine has ended; {self._end_of_log()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _end_of_log(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if "Error" in line]
        return "\n".join([f"see {self.log}:", *errors[-5:], *lines[-10:]])

    def cpu_s(self) -> dict[str, float]:
        """Seconds of CPU that each process has taken so far."""
        return {name: cpu_s(pid) for name, pid in self.processes.items()}

    def gloo_cpu_s(self) -> dict[str, float]:
        """The same of the threads that torch's collectives have there: they wake up a hundred times a second each."""
        return {name: threads_cpu_s(pid, "gloo") for name, pid in self.processes.items()}

    def queue(self) -> probe.Counts:
        """What the queues' calls have cost so far, in all processes together."""
        counts = [probe.read(self.probes, pid) for pid in self.processes.values()]
        return probe.Counts(*map(sum, zip(*counts, strict=True)))

    def kill(self, victim: str) -> float:
        """Kill one of its processes; when."""
        now = time.time()
        os.kill(self.processes[victim], signal.SIGKILL)
        return now

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Within the block none of its processes runs."""
        try:
            for pid in self.processes.values():
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in self.processes.values():
                with suppress(ProcessLookupError):  # the others are to go on
                    os.kill(pid, signal.SIGCONT)

    def gone_within_s(self, names: list[str], since: float) -> float | None:
        """Seconds after `since` until these processes have ended; None if they have not, for long."""
        while time.time() - since < _END_S:
            if not any(alive(self.processes[name]) for name in names):
                return time.time() - since
            time.sleep(0.01)  # they are no children of ours: nothing tells of their end
        return None

    def stop(self) -> Left:
        """Let it end as a program does, and look at what it leaves."""
        with suppress(BrokenPipeError):
            self.say("stop")
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            print(f"{self.kind}: did not end within {_END_S:g} s", file=sys.stderr)
        time.sleep(1.0)  # for what ends a moment after its parent
        left = self.left()
        self.discard()
        return left

    def left(self) -> Left:
        """What it has left by now, but for its user's own process."""
        return Left(
            tuple(sorted(set(os.listdir(SHM)) - self._shm_before)),
            tuple(sorted(os.listdir(self._temporary))),
            len(os.listdir(self._sockets)),
            tuple(pid for name, pid in self.processes.items() if name != "main" and alive(pid)),
        )

    def discard(self) -> None:
        """End all that is left of it, and what it has left."""
        for pid in (self._process.pid, *getattr(self, "processes", {}).values()):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        for one in (self._sockets, self._temporary, self.probes):
            shutil.rmtree(one, ignore_errors=True)


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has taken."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def threads_cpu_s(pid: int, named: str) -> float:
    """Seconds of CPU that the threads have taken whose names begin like this."""
    total = 0.0
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):  # it has ended
            if (task / "comm").read_text().startswith(named):
                total += int((task / "schedstat").read_text().split()[0]) / 1e9
    return total


def alive(pid: int) -> bool:
    """Does the process run? A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _named(main: int) -> dict[str, int]:
    """The engine's processes, by what they are."""
    found = {"main": main}
    for pid in _descendants(main):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "EngineCore" in title:
            found["core"] = pid
        elif "Worker_TP" in title:
            found[f"w{title.split('Worker_TP')[1][0]}"] = pid
    if set(found) != {"main", "core", "w0", "w1"}:
        raise EngineFailedError(f"the engine's processes are {found}, not main, core and two workers")
    return found


def _descendants(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, new = [], [pid]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        found += new
    return found
