"""`ringcast --version`: the release, and the version of everything that two processes have to agree on."""

from __future__ import annotations

import platform
import sys

import click

from ringcast import _core
from ringcast._version import WIRE_VERSION, __version__


def text() -> str:
    """Some lines, of which the first has the release alone."""
    layouts = {"queue": _core.LAYOUT_VERSION, "pool": _core.POOL_LAYOUT_VERSION, "desk": _core.DESK_LAYOUT_VERSION}
    threads = "" if getattr(sys, "_is_gil_enabled", lambda: True)() else ", free-threaded"
    python = f"{platform.python_implementation()} {platform.python_version()}{threads}"
    return "\n".join(
        [
            f"ringcast {__version__}",
            f"core {_core.VERSION}, {python}, {platform.system()} {platform.machine()}",
            f"layouts: {', '.join(f'{name} {version}' for name, version in layouts.items())}",
            f"wire: {WIRE_VERSION}",
        ]
    )


def show(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    """What the option does: says it, and ends."""
    if wanted and not context.resilient_parsing:
        click.echo(text())
        context.exit()
