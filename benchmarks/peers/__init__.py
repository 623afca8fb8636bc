"""The subjects of the benchmark: ringcast first, then its peers, one file each.

`available` tells which of them can be measured here and why the others cannot, so that none is ever left out silently.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from collections.abc import Iterable

from . import faster_fifo_queue, iceoryx, mp_pipe, mp_queue, pyzmq_push, ringcast_queue, vllm_queue
from .base import Subject

SUBJECTS: tuple[Subject, ...] = (
    *ringcast_queue.SUBJECTS,
    *mp_queue.SUBJECTS,
    *mp_pipe.SUBJECTS,
    *pyzmq_push.SUBJECTS,
    *faster_fifo_queue.SUBJECTS,
    *iceoryx.SUBJECTS,
    *vllm_queue.SUBJECTS,
)


def available(subjects: Iterable[Subject]) -> tuple[list[Subject], dict[str, str]]:
    """The subjects whose library can be imported, and for each other library why it cannot.

    Imports them here, before any process is forked, so that no measurement pays for it.
    """
    present: list[Subject] = []
    missing: dict[str, str] = {}
    for subject in subjects:
        try:
            importlib.import_module(subject.module)
        except Exception as error:  # a library that breaks on import must not end the benchmark
            missing[subject.package or subject.module] = f"{type(error).__name__}: {error}"
        else:
            if reason := subject.lacking():
                missing[subject.label] = reason
            else:
                present.append(subject)
    return present, missing


def versions(subjects: Iterable[Subject]) -> dict[str, str]:
    """The version of each subject's distribution; the interpreter's for the standard library."""
    found: dict[str, str] = {}
    for subject in subjects:
        if subject.package is None:
            found[subject.module] = f"Python {platform.python_version()}"
            continue
        try:
            found[subject.package] = importlib.metadata.version(subject.package)
        except importlib.metadata.PackageNotFoundError:
            module = importlib.import_module(subject.module.partition(".")[0])  # a build of another name
            found[subject.package] = str(getattr(module, "__version__", "unknown"))
    return found
