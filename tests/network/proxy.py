"""A process between two machines that passes TCP on: slowly, not for a while, or not any more, as it is told."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, TypeAlias

from tests.network.machines import Machine
from tests.support import Link

Address: TypeAlias = tuple[str, int]

PIECE_BYTES = 1 << 14
"""Passed on at a time, so that a slow wire is slow evenly."""
RECORDED_BYTES = 1 << 12
UP, DOWN = 0, 1
"""From who dials, and to him."""


class Proxy:
    """Connections to `address` go on to `target`; it runs on `machine`, and ends when that does."""

    def __init__(self, machine: Machine, target: Address, rate: float | None = None) -> None:
        self._worker = machine.start(_carry, machine.ip, target, rate)
        self.address: Address = (machine.ip, self._worker.receive())

    def slow_down(self, rate: float | None) -> None:
        """To so many bytes a second in either direction; None: as fast as it can."""
        self._worker.ask(("rate", rate))

    def stop(self, *directions: int) -> None:
        """Nothing is passed on until `go`, in both directions, or the one given."""
        self._worker.ask(("stop", directions or (UP, DOWN)))

    def go(self) -> None:
        self._worker.ask(("go",))

    def reset(self) -> None:
        """All connections end by a reset at both sides. New ones are taken."""
        self._worker.ask(("reset",))

    def reset_after(self, nbytes: int, direction: int, times: int = 1) -> None:
        """The same once so many more bytes have gone in this direction, whatever they are in the middle of; and again
        after as many."""
        self._worker.ask(("reset_after", nbytes, direction, times))

    def spoil(self, how: str, direction: int) -> None:
        """Once, soon: "flip" a bit, "repeat" a piece, or "drop" one."""
        self._worker.ask(("spoil", how, direction))

    def passed(self) -> tuple[int, int]:
        """Bytes passed on: from who dials, and to him."""
        up, down = self._worker.ask(("passed",))
        return up, down

    def recorded(self) -> list[bytes]:
        """How each connection began: what who dialled it sent first."""
        beginnings: list[bytes] = self._worker.ask(("recorded",))
        return beginnings

    def resets(self) -> int:
        """How many connections were reset."""
        return int(self._worker.ask(("resets",)))


class _Carrier:
    def __init__(self, target: Address, rate: float | None) -> None:
        self._target = target
        self._rate = rate
        self._free_at = [0.0, 0.0]
        self._goes = [asyncio.Event(), asyncio.Event()]
        self._left: list[int | None] = [None, None]
        self._again: list[tuple[int, int]] = [(0, 0), (0, 0)]
        self._spoils: list[str | None] = [None, None]
        self._passed = [0, 0]
        self._resets = 0
        self._beginnings: list[bytearray] = []
        self._open: set[asyncio.StreamWriter] = set()
        self.go()

    async def connected(self, near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        try:
            far, far_out = await asyncio.open_connection(*self._target, limit=PIECE_BYTES)
        except OSError:
            _reset(near_out)
            return
        ends = {near_out, far_out}
        self._open |= ends
        for end in ends:
            end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            beginning = bytearray()
            self._beginnings.append(beginning)
            await asyncio.gather(self._pass_on(near, far_out, UP, beginning), self._pass_on(far, near_out, DOWN))
        except OSError:
            for end in ends:
                _reset(end)
        finally:
            self._open -= ends
            for end in ends:
                end.close()

    async def _pass_on(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        direction: int,
        beginning: bytearray | None = None,
    ) -> None:
        while data := await source.read(PIECE_BYTES):
            await self._goes[direction].wait()
            if self._rate is not None:
                loop = asyncio.get_running_loop()
                self._free_at[direction] = max(self._free_at[direction], loop.time()) + len(data) / self._rate
                await asyncio.sleep(self._free_at[direction] - loop.time())
            data = self._spoiled(data, direction)
            left = self._left[direction]
            if left is not None:
                data = data[:left]
                self._left[direction] = left - len(data)
            if beginning is not None and len(beginning) < RECORDED_BYTES:
                beginning += data
            sink.write(data)
            await sink.drain()
            self._passed[direction] += len(data)
            if self._left[direction] == 0:
                self._left[direction] = None
                await asyncio.sleep(0.01)  # what was written lies in the socket, which a reset empties
                self.reset()
                nbytes, times = self._again[direction]
                self.reset_after(nbytes, direction, times)
        if sink.can_write_eof():
            sink.write_eof()

    def _spoiled(self, data: bytes, direction: int) -> bytes:
        how, self._spoils[direction] = self._spoils[direction], None
        if how == "flip":
            at = len(data) // 2
            return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        return data if how is None else data * 2 if how == "repeat" else b""

    def spoil(self, how: str, direction: int) -> None:
        self._spoils[direction] = how

    def rate(self, rate: float | None) -> None:
        self._rate = rate

    def stop(self, directions: tuple[int, ...]) -> None:
        for direction in directions:
            self._goes[direction].clear()

    def go(self) -> None:
        for one in self._goes:
            one.set()

    def reset(self) -> None:
        self._resets += len(self._open) // 2
        for end in self._open:
            _reset(end)

    def reset_after(self, nbytes: int, direction: int, times: int) -> None:
        self._left[direction] = nbytes if times else None
        self._again[direction] = nbytes, max(0, times - 1)

    def passed(self) -> list[int]:
        return self._passed

    def recorded(self) -> list[bytes]:
        return [bytes(one) for one in self._beginnings]

    def resets(self) -> int:
        return self._resets


def _reset(end: asyncio.StreamWriter) -> None:
    end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.transport.abort()


def _carry(link: Link, ip: str, target: Address, rate: float | None) -> None:
    async def serve() -> None:
        carrier = _Carrier(target, rate)
        server = await asyncio.start_server(carrier.connected, ip, 0, limit=PIECE_BYTES)
        link.send(server.sockets[0].getsockname()[1])
        over = asyncio.Event()

        def obey() -> None:
            try:
                name, *arguments = link.recv()
            except EOFError:
                over.set()
                return
            answer: Any = getattr(carrier, name)(*arguments)
            link.send(answer)

        asyncio.get_running_loop().add_reader(link.fileno(), obey)
        await over.wait()

    asyncio.run(serve())
