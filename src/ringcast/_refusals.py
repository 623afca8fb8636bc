"""What Python's own calls are refused for want of descriptors, threads or memory: errors that name limit and remedy."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from ringcast import _core
from ringcast.errors import RingcastError, SystemCallError

_FOR_WANT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


def named(error: BaseException, what: str) -> BaseException:
    """The error of `what`, which names the limit, if it was one; else the same."""
    if isinstance(error, OSError) and not isinstance(error, RingcastError) and error.errno in _FOR_WANT_OF:
        why, number, remedy = error.strerror, error.errno, _core.remedy_of(error.errno, error.errno == errno.EAGAIN)
    elif isinstance(error, RuntimeError) and "start new thread" in str(error):
        why, number, remedy = str(error), errno.EAGAIN, _core.remedy_of(errno.EAGAIN, True)
    else:
        return error
    refused = SystemCallError(f"{what}: {why}; {remedy}")
    refused.errno = number
    refused.__cause__ = error
    return refused


@contextmanager
def naming_limits(what: str) -> Iterator[None]:
    """Of what is done within."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        told = named(error, what)
        if told is error:
            raise
        raise told from error
