"""What the workers of these tests hold."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from ringcast import workers

LONG_S = 60.0
"""How long is waited for what has to happen."""


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

    def late_array(self, seconds: float, count: int) -> Any:
        time.sleep(seconds)
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

    def nap_by_rank(self, seconds: float) -> None:
        time.sleep(seconds * workers.rank())

    def fail(self, text: str = "no", ranks: tuple[int, ...] | None = None) -> str:
        if ranks is None or workers.rank() in ranks:
            raise KeyError(text)
        return "well"

    def fail_or_nap(self, rank: int, seconds: float) -> None:
        if workers.rank() == rank:
            raise KeyError("no")
        time.sleep(seconds)

    def raise_picky(self) -> None:
        raise Picky("one", "two")

    def raise_holding(self) -> None:
        raise Holding("it holds a lock")

    def interrupt(self) -> None:
        raise KeyboardInterrupt

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

    def hold_the_lock(self, seconds: float) -> None:
        """Without ever letting go of the interpreter's lock."""
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))

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

    def count_slowly(self, n: int) -> Iterator[int]:
        for number in range(n):
            yield number
            time.sleep(0.2)

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
