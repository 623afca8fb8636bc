"""The group of commands: which there are, and how each ends.

A command's module is imported when it is run or listed, not before. Whatever ends a command, it has released its queues
before the exit code is chosen here: interruption and termination arrive as exceptions, so that every `finally` runs.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import NoReturn

import click

from ringcast.cli import common, versions
from ringcast.cli.interruption import interrupted_at_once
from ringcast.errors import ArgumentError, PoolTimeoutError, QueueTimeoutError, RingcastError

COMMANDS = (
    "pub",
    "sub",
    "ls",
    "top",
    "trace",
    "exporter",
    "clean",
    "doctor",
    "secret",
    "link",
    "pool",
    "demo",
    "bench",
    "completion",
)

HELP = f"""Broadcast messages between processes through shared memory.

\b
Example: a file to two readers, each in a terminal or shell job of its own
  ringcast sub news > copy1 &
  ringcast sub news > copy2 &
  ringcast pub news --readers 2 < file

{common.EXIT_CODES}
"""


class CommandGroup(common.Group):
    """Finds a command in the module of its name and turns what it raises into an exit code and one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        with interrupted_at_once():
            found = import_module(f"ringcast.cli.{cmd_name}").command
        assert isinstance(found, click.Command)
        return found

    def invoke(self, ctx: click.Context) -> int:
        try:
            _turn_termination_into_exit()
            super().invoke(ctx)
        except KeyboardInterrupt:
            return common.EXIT_INTERRUPTED
        except (QueueTimeoutError, PoolTimeoutError) as error:
            return _complain(error, common.EXIT_TIMEOUT)
        except ArgumentError as error:
            return _complain(error, common.EXIT_USAGE)
        except (RingcastError, common.CommandError) as error:
            return _complain(error, common.EXIT_FAILURE)
        except OSError as error:  # of the input or the output
            return _no_output(error)
        return common.EXIT_OK


def _no_output(error: OSError) -> int:
    common.drop_stdout()
    if isinstance(error, BrokenPipeError):  # whoever read the output has seen enough
        return common.EXIT_OK
    return _complain(error.strerror or error, common.EXIT_FAILURE)


def _complain(error: BaseException | str, code: int) -> int:
    click.echo(f"ringcast: {error}", err=True)
    return code


def _usage_error(error: click.ClickException) -> str:
    """What was wrong, and where to read on, in one line."""
    where = getattr(error, "ctx", None)
    said = error.format_message()
    if isinstance(error, click.NoSuchOption):  # which click words anew now and then
        near = f" Did you mean '{error.possibilities[0]}'?" if error.possibilities else ""
        said = f"No such option: {error.option_name}.{near}"
    return f"{said} See '{where.command_path if where else 'ringcast'} --help'."


def _turn_termination_into_exit() -> None:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: through its `finally` blocks; an ignored one stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _exit_by_signal)


def _exit_by_signal(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


@click.group(
    cls=CommandGroup, help=HELP, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option(
    "-V", "--version", is_flag=True, is_eager=True, expose_value=False, callback=versions.show,
    help="Show the versions of release, core, layouts and wire, and exit.",
)  # fmt: skip
@click.pass_context
def cli(context: click.Context) -> None:
    common.require_command(context)


def run(arguments: Sequence[str] | None) -> int:
    """Run the command that `arguments` ask for and return its exit code."""
    common.let_every_character_through()
    try:
        result = cli.main(None if arguments is None else list(arguments), prog_name="ringcast", standalone_mode=False)
    except click.ClickException as error:  # wrong usage
        return _complain(_usage_error(error), error.exit_code)
    except click.Abort:
        return common.EXIT_INTERRUPTED
    except OSError as error:  # of the output, to which click itself writes help and versions
        return _no_output(error)
    return result if isinstance(result, int) else common.EXIT_OK
