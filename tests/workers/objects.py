"""What the workers of these tests hold."""

from __future__ import annotations

import ctypes
import dataclasses
import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ringcast import workers
from ringcast.errors import CallTimeoutError

LONG_S = 60.0
"""How long is waited for what has to happen."""


class Gate:
    """Keeps calls of workers of this machine under way until it is opened, however long anybody takes until then."""

    def __init__(self) -> None:
        self._descriptor, self.path = tempfile.mkstemp(prefix="ringcast-gate-")
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __enter__(self) -> Gate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.open()

    def reached(self, *ranks: int, before: float = float("inf")) -> bool:
        """Were these ranks at it before that time?"""
        try:
            return all(os.stat(f"{self.path}.{rank}").st_mtime < before for rank in ranks)
        except FileNotFoundError:
            return False

    def open(self) -> None:
        """Any number of times."""
        if self._descriptor >= 0:
            os.unlink(self.path)
            os.close(self._descriptor)  # whose lock they wait for
            self._descriptor = -1
        for mark in Path(self.path).parent.glob(f"{Path(self.path).name}.*"):
            mark.unlink(missing_ok=True)


def _wait_at(gate: str, wait: Callable[[int, int], object] = fcntl.flock) -> None:
    with suppress(FileNotFoundError), open(gate) as file:
        Path(f"{gate}.{workers.rank()}").touch()
        wait(file.fileno(), fcntl.LOCK_SH)


def late_at_a_gate(
    ask: Callable[[str, float], object], *ranks: int, deadlines: Sequence[float] = (0.3, 2.0, 10.0, LONG_S)
) -> CallTimeoutError:
    """What `ask(gate, deadline)` raises, with the first deadline that was long enough for these ranks to begin."""
    for deadline in deadlines:
        with Gate() as gate:
            over_at = time.time() + deadline
            try:
                ask(gate.path, deadline)
            except CallTimeoutError as error:
                # Less than the clock of the file system may be behind.
                if gate.reached(*ranks, before=over_at - 0.02):
                    return error
            else:
                raise AssertionError("the deadline did not pass")
    raise AssertionError(f"ranks {ranks} did not begin within {deadlines[-1]} s")


class Picky(Exception):
    """Can be pickled, and not be rebuilt."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


class Holding(Exception):
    """Cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """Refuses notes and a cause."""

    code: int

    def __reduce__(self) -> Any:
        return Frozen, (self.code,)


class OnlyThere:
    """A result that can be pickled, and not be rebuilt."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise ValueError("not here")


class Ends:
    """A result, or an argument, whose rebuilding raises what ends programs, or wants more memory than there is."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        return _end, (self.kind,)


def _end(kind: type[BaseException]) -> None:
    raise kind("when it was rebuilt")


class CannotBeTold:
    """A result whose pickling raises what ends programs."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        return _end(self.kind)


class EndsWhoTells(Exception):
    """It cannot be pickled, which ends who does not expect it to."""

    def __reduce__(self) -> Any:
        raise SystemExit(9)


class EndsWhoIsTold(Exception):
    """As another one, which ends who rebuilds it."""

    def __reduce__(self) -> Any:
        return _end, (SystemExit,)


class Model:
    """Does what it is told."""

    def __init__(self, base: int = 0, own: int = 0) -> None:
        self.base = base
        self.own = own
        self.count = 0
        self.begun: list[Any] = []

    def rank(self) -> int:
        return workers.rank()

    def pid(self) -> int:
        return os.getpid()

    def environment(self, name: str) -> str | None:
        return os.environ.get(name)

    def add(self, *numbers: int) -> int:
        return self.base + self.own + sum(numbers)

    def echo(self, value: Any) -> Any:
        self.begun.append(value)
        return value

    def echo_only(self, value: Any) -> Any:
        return value

    def fail_with(self, value: Any) -> None:
        raise KeyError(value)

    def fail_frozen(self, code: int) -> None:
        raise Frozen(code)

    def wait_at(self, gate: str, value: Any = None) -> Any:
        self.begun.append(value)
        _wait_at(gate)
        return value

    def wait_at_by_rank(self, gate: str, seconds: float = 0.0) -> None:
        """All but rank 0."""
        if workers.rank() > 0:
            _wait_at(gate)
            time.sleep(seconds)

    def array_behind(self, gate: str, count: int) -> Any:
        _wait_at(gate)
        return self.array(count)

    def seen(self) -> list[Any]:
        return self.begun

    def size(self, value: Any) -> int:
        return len(value)

    def blob(self, nbytes: int) -> bytes:
        return bytes(nbytes)

    def array(self, count: int, value: int = 1) -> Any:
        import numpy as np

        return np.full(count, value, np.int64)

    def nap(self, seconds: float, value: Any = None) -> Any:
        self.begun.append(value)
        time.sleep(seconds)
        return value

    def fail(self, text: str = "no", ranks: tuple[int, ...] | None = None) -> str:
        if ranks is None or workers.rank() in ranks:
            raise KeyError(text)
        return "well"

    def fail_or_wait_at(self, rank: int, gate: str) -> None:
        if workers.rank() == rank:
            raise KeyError("no")
        _wait_at(gate)

    def raise_picky(self) -> None:
        raise Picky("one", "two")

    def raise_holding(self) -> None:
        raise Holding("it holds a lock")

    def interrupt(self) -> None:
        raise KeyboardInterrupt

    def give_what_ends(self, kind: type[BaseException]) -> Ends:
        return Ends(kind)

    def give_what_cannot_be_told(self, kind: type[BaseException]) -> CannotBeTold:
        return CannotBeTold(kind)

    def raise_holding_bytes(self, nbytes: int) -> None:
        raise ValueError("it holds much", bytes(nbytes))

    def close_the_error_stream(self) -> None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (a broken one is what is wanted)
        sys.stderr.close()

    def count_until_closed(self, n: int, kind: type[BaseException] | None = None) -> Iterator[int]:
        self.count += 1
        try:
            yield from range(n)
        finally:
            self.count -= 1
            if kind is not None:
                raise kind("when it was closed")

    def count_and_give(self, n: int, kind: type[BaseException], then: int = 0) -> Iterator[Any]:
        """What ends who rebuilds it, after so many items."""
        self.count += 1
        try:
            yield from range(n)
            yield Ends(kind)
            yield from range(then)
        finally:
            self.count -= 1

    def fail_on_rank(self, rank: int, n: int) -> Iterator[int]:
        self.count += 1
        try:
            for number in range(n):
                if workers.rank() == rank:
                    raise KeyError("no")
                yield number
        finally:
            self.count -= 1

    def raise_what_ends(self, kind: type[Exception]) -> None:
        raise kind("it is told as text")

    def give_what_cannot_be_rebuilt(self) -> OnlyThere:
        return OnlyThere()

    def give_what_cannot_be_sent(self) -> Any:
        return threading.Lock()

    def end(self, how: str, rank: int | None = None) -> None:
        if rank is not None and workers.rank() != rank:
            return
        if how == "exit":
            sys.exit(7)
        if how == "exit in order":
            sys.exit(0)
        if how == "_exit":
            os._exit(7)
        os.kill(os.getpid(), signal.SIGKILL)

    def linger(self) -> None:
        """Serves no more, but its process does not end by itself."""
        threading.Thread(target=time.sleep, args=(600,)).start()
        sys.exit(7)

    def eat(self, nbytes: int) -> int:
        """Memory, and touches it."""
        self.eaten = bytearray(b"1") * nbytes
        return len(self.eaten)

    def hold_the_lock_at(self, gate: str) -> None:
        """Without ever letting go of the interpreter's lock."""
        _wait_at(gate, ctypes.PyDLL(None).flock)

    def hold_the_lock_for_ever(self) -> None:
        """And no signal ends it."""
        re.match(r"(a+)+b", "a" * 64)

    def say(self, text: str) -> None:
        print(text)
        print(f"{text}, an error", file=sys.stderr)
        subprocess.run(["echo", f"{text}, another program"], check=True)

    def count_to(self, n: int, nbytes: int = 0) -> Iterator[Any]:
        for number in range(n):
            self.count += 1
            yield (number, bytes(nbytes)) if nbytes else number

    def count_to_rank(self, n: int) -> Iterator[int]:
        yield from range(n + workers.rank())

    def count_to_gate(self, n: int, gate: str) -> Iterator[int]:
        """Waits there before the last one."""
        yield from range(n - 1)
        _wait_at(gate)
        yield n - 1

    def counted(self) -> int:
        return self.count

    def count_and_fail(self, n: int) -> Iterator[int]:
        yield from range(n)
        raise KeyError("no more")


class Broken:
    """Cannot be made, by one rank or by all."""

    def __init__(self, how: str, rank: int | None = None) -> None:
        if rank is not None and workers.rank() != rank:
            return
        if how == "raise":
            raise KeyError("no")
        if how == "hang":
            time.sleep(600)
        if how.startswith("wait at "):
            _wait_at(how.removeprefix("wait at "))
        Model().end(how)


class NotThere:
    """Can be named where the group is, and not imported in a worker."""

    def __reduce__(self) -> Any:
        return _only_in, (os.getpid(),)

    def __call__(self) -> NotThere:
        return self


def _only_in(pid: int) -> None:
    if pid != os.getpid():
        raise ImportError("there is no such module here")
