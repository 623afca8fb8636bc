"""What travels between a group and its workers: calls on one ring to all of them, answers on one ring from each.

A call's number is its message's place in the ring of calls, so that a message that cannot be rebuilt has one, too. Each
worker answers each call that is for it once, also one that it skips; casts it does not answer.
"""

from __future__ import annotations

from typing import Any, TypeAlias

CALL, SCATTER, CAST, STREAM, CANCEL, CREDIT = range(6)
Call: TypeAlias = "tuple[int, int, tuple[int, ...] | None, Any, Any, dict[str, Any]]"
"""(kind, number, ranks or None for all, method or function, arguments, keyword arguments). The arguments of a SCATTER
are one for each rank; those of a STREAM begin with how many items may be sent. CANCEL and CREDIT have the number of the
call that they are about in the place of a method, and CREDIT how many items more in that of arguments."""

DONE, RAISED, SKIPPED, ITEM = range(4)
Answer: TypeAlias = "tuple[int, int, int, Any, float]"
"""(number of the call, rank, one of these, value, when it was made by the worker's monotonic clock)."""

UNKNOWN = -1
"""The number of an answer that could not be rebuilt: of the first call that its worker has not answered."""
