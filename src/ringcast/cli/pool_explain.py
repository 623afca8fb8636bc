"""`ringcast pool explain`: why a lookup misses."""

from __future__ import annotations

import json
import os
import re
from typing import IO

import click

from ringcast.cli import common
from ringcast.pool import Explanation, Namespace, explain

HELP = """Tell, chunk by chunk, why a lookup in the pool NAME finds what it finds.

What is there, what was evicted or cleared and when, what is there for another namespace, and in what that differs. The
namespace is that of the lookup. --tokens are numbers, or --hashes an engine's block hashes in hex, in a file (- is the
standard input), separated by spaces, commas or lines. Takes no seat and asks no server. What went is told as far back
as the pool remembers.
"""

EPILOG = f"""\b
Example: was it the layout?
  echo 17 4 4711 | ringcast pool explain kv0 --model m --dtype bfloat16 --layout pages --tokens - --chunk-size 3

{common.EXIT_CODES}
"""


def _words(file: IO[str]) -> list[str]:
    return [word for word in re.split(r"[\s,;\[\]]+", file.read()) if word]


def _tokens(context: click.Context, parameter: click.Parameter, file: IO[str] | None) -> list[int] | None:
    try:
        return None if file is None else [int(word) for word in _words(file)]
    except ValueError as error:
        raise click.BadParameter(f"there is a word that is no number: {error}.", context, parameter) from None


def _hashes(context: click.Context, parameter: click.Parameter, file: IO[str] | None) -> list[bytes] | None:
    try:
        return None if file is None else [bytes.fromhex(word) for word in _words(file)]
    except ValueError:
        raise click.BadParameter("there is a word that is not hexadecimal.", context, parameter) from None


@click.command("explain", help=HELP, epilog=EPILOG, short_help="Tell why a lookup in a pool misses.")
@click.argument("name")
@click.option("--model", required=True, help="Of the namespace, as in Namespace; so are the next seven.")
@click.option("--dtype", required=True)
@click.option("--layout", required=True, help="KVLayout.fingerprint, or whatever the engine says.")
@click.option("--revision", default="")
@click.option("--shards", type=common.Whole(1), default=1, show_default=True)
@click.option("--group", type=common.Whole(0), default=0, show_default=True)
@click.option("--chained/--not-chained", default=True, show_default=True)
@click.option("--salt", default="", help="As text; salts that are none cannot be given here.")
@click.option("--tokens", type=click.File(), callback=_tokens, metavar="FILE", help="The token ids.")
@click.option("--chunk-size", type=common.Whole(1), default=256, show_default=True, help="Tokens of a chunk.")
@click.option("--hashes", type=click.File(), callback=_hashes, metavar="FILE", help="The block hashes, in hex.")
@click.option("--every", type=common.Whole(1), default=1, show_default=True, help="Blocks of a chunk.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON, with the fields of ringcast.pool.Explanation.")
def command(
    *,
    name: str,
    model: str,
    dtype: str,
    layout: str,
    revision: str,
    shards: int,
    group: int,
    chained: bool,
    salt: str,
    tokens: list[int] | None,
    chunk_size: int,
    hashes: list[bytes] | None,
    every: int,
    as_json: bool,
) -> None:
    if (tokens is None) == (hashes is None):
        raise click.UsageError("Give either --tokens or --hashes.")
    space = Namespace(
        model, revision, dtype=dtype, layout=layout, shards=shards, group=group, chained=chained, salt=os.fsencode(salt)
    )
    found = explain(name, space, tokens=tokens, hashes=hashes, chunk_size=chunk_size, every=every)
    if as_json:
        click.echo(json.dumps([_fields(one) for one in found], indent=2))
        return
    for one in found:
        click.echo(one)
    if not found:
        click.echo("There is not one whole chunk.")


def _fields(one: Explanation) -> dict[str, object]:
    return one._asdict() | {"key": one.key.hex(), "elsewhere": [each._asdict() for each in one.elsewhere]}
