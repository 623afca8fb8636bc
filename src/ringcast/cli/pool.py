"""`ringcast pool`: serves pools, shows what is in them, and removes what was to be kept."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from difflib import get_close_matches
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from ringcast import _core
from ringcast._sizes import human_bytes
from ringcast.cli import common, pool_explain
from ringcast.pool import (
    FileTier,
    FoundPools,
    ObjectTier,
    PoolClient,
    PoolEvent,
    PoolServer,
    PoolStats,
    Tier,
    _huge_pages,
    describe,
    list_pools,
    remove,
    watch,
)
from ringcast.pool._progress import Lines, OnProgress, Stage
from ringcast.pool._server import POLICIES
from ringcast.waiting import DEFAULT_WAIT

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

HELP = """Serve pools of chunks, see what is in them, and remove them.

A pool is shared memory that one server owns and that workers of many engines store chunks in and read them from, by
key: ringcast.pool in Python.
"""

EPILOG = f"""\b
Example: a pool, each in a terminal or shell job of its own
  ringcast pool serve kv0 --size 2GiB
  ringcast pool stat kv0 --watch 1

{common.EXIT_CODES}
"""


@click.group(
    "pool",
    cls=common.Group,
    help=HELP,
    epilog=EPILOG,
    short_help="Serve pools of chunks, and see what is in them.",
    invoke_without_command=True,
)
@click.pass_context
def command(context: click.Context) -> None:
    common.require_command(context)


def _complete(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """The names of pools that begin so, for a shell."""
    names = {pool["name"] for pool in list_pools().pools}
    return [CompletionItem(one) for one in sorted(names) if one.startswith(start)]


# --- serve

SERVE = """Serve the pool NAME until Ctrl-C or SIGTERM, and say so in one line once it can be used.

If a server of that name was killed, this one takes over what it left, with the same --size, --seats, --pins and
--entries; clients go on meanwhile. Ended in order it removes the pool, unless --keep says that it stays. All memory is
taken at the start; how far that is, is shown on the standard error.
"""

SERVE_EPILOG = f"""\b
Example: what memory has no room for stays in a file of 64 GiB, for chunks of 2 MiB
  ringcast pool serve kv0 --size 8GiB --tier file:/var/cache/kv0:64GiB:2MiB
\b
Example: at most 64 MiB for the tenant whose salt is "tenant 7"
  digest=$(python -c 'from ringcast.pool import *; print(salt_digest(b"tenant 7").hex())')
  ringcast pool serve kv0 --size 2GiB --quota $digest=64MiB

{common.EXIT_CODES} Ended with SIGTERM it is 143.
"""


def _quotas(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[bytes | str, int | str]:
    quotas: dict[bytes | str, int | str] = {}
    for one in given:
        digest, separator, size = one.partition("=")
        if not separator:
            raise click.BadParameter(f"{one!r} is no quota; write SALTDIGEST=SIZE.", context, parameter)
        if digest in quotas:
            raise click.BadParameter(f"{digest!r} is given two quotas.", context, parameter)
        quotas[digest] = common.byte_size(size)
    return quotas


def _tiers(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> list[Tier]:
    try:
        return [_tier(one) for one in given]
    except (ValueError, click.BadParameter) as error:
        raise click.BadParameter(str(error), context, parameter) from error


def _tier(text: str) -> Tier:
    if "://" in text:
        return ObjectTier(text)
    kind, _, rest = text.partition(":")
    parts = rest.rsplit(":", 2)
    if kind != "file" or len(parts) != 3:
        raise click.BadParameter(f"{text!r} is no tier; write file:PATH:SIZE:CHUNK, or the URL of an object store.")
    path, size, chunk = parts
    return FileTier(path, common.byte_size(size), common.byte_size(chunk))


@command.command("serve", help=SERVE, epilog=SERVE_EPILOG, short_help="Serve a pool until Ctrl-C.")
@click.argument("name")
@click.option("--size", type=common.byte_size, required=True, metavar="SIZE", help="Of all chunks together: 2GiB.")
@click.option("--policy", type=click.Choice(POLICIES), default="arc", show_default=True, help="What is evicted first.")
@click.option(
    "--quota", "quotas", multiple=True, callback=_quotas, metavar="SALTDIGEST=SIZE",
    help="The most that chunks with a salt of this digest (64 hexadecimal digits) may take; once for each.",
)  # fmt: skip
@click.option(
    "--tier", "tiers", multiple=True, callback=_tiers, metavar="TIER",
    help="Where chunks are kept, too, the fastest first: file:PATH:SIZE:CHUNK, with the size of the file and of the "
    "longest chunk, or the URL of an object store, like s3://bucket.",
)  # fmt: skip
@click.option("--checksums/--no-checksums", default=True, show_default=True, help="Is each chunk given a CRC-32C?")
@click.option(
    "--prefault", is_flag=True,
    help="Touch all memory at the start, as huge pages where the kernel makes them: no first use of a page waits.",
)  # fmt: skip
@click.option("--keep", is_flag=True, help="The pool stays, also when nobody has it: ringcast pool rm removes it.")
@click.option(
    "--seats", type=common.Whole(1, _core.MAX_POOL_SEATS), default=64, show_default=True, help="Clients at most."
)
@click.option(
    "--pins", type=common.Whole(16, 1 << 20), default=4096, show_default=True,
    help="Chunks, or runs of chunks, that a client may hold.",
)  # fmt: skip
@click.option(
    "--entries", type=common.Whole(1, (1 << 25) - 1), show_default="one for each 16 KiB", help="Chunks at most."
)
@click.option(
    "--wait", type=click.Choice(tuple(_core.STRATEGIES)), show_default=f"RINGCAST_WAIT, or {DEFAULT_WAIT}",
    help="How the server waits for requests.",
)  # fmt: skip
def serve(
    *,
    name: str,
    size: int,
    policy: str,
    quotas: dict[bytes | str, int | str],
    tiers: list[Tier],
    checksums: bool,
    prefault: bool,
    keep: bool,
    seats: int,
    pins: int,
    entries: int | None,
    wait: str | None,
) -> None:
    with ExitStack() as bars:
        server = PoolServer(
            name, size, policy=policy, quota=quotas, tiers=tiers, checksums=checksums, prefault=prefault, keep=keep,
            seats=seats, pins=pins, entries=entries, wait=wait, on_progress=_progress(name, bars),
        ).start()  # fmt: skip
    with server:
        pool = server.stats()
        has = f"{human_bytes(pool['capacity'])}, policy {policy}{', kept' if pool['kept'] else ''}"
        how = f"taken over with {common.some(pool['chunks'], 'chunk')}" if server.adopted else "made"
        click.echo(f"serving pool '{name}', {how}: {has}")
        server.serve_forever()


def _progress(name: str, bars: ExitStack) -> OnProgress:
    """Shows how memory is taken: by a bar for each stage where a person watches, else in a line now and then."""
    if not common.on_terminal():
        return Lines(name, lambda line: click.echo(line, err=True))
    stage: Stage | None = None
    shown = 0
    advance: Callable[[int], None]

    def show(now: Stage, done: int, total: int) -> None:
        nonlocal stage, advance, shown
        if now != stage:
            bars.close()
            advance = bars.enter_context(common.progress(f"{now} memory", total, unit="B"))
            stage, shown = now, 0
        advance(done - shown)
        shown = done

    return show


# --- stat

STAT = """Show what is in the pool NAME, how often it is hit, and who uses it. Takes no seat and asks no server.

LIMBO are chunks that are gone but for somebody who still holds them; QUARANTINED those whose bytes were not what was
stored. Hit rates are of all keys that clients have asked for, those that are gone too. OLDEST is how long a client has
held what it has held longest. Of a tier, WAITING are chunks to be moved, DROPPED copies that were not made, FAILED
what it refused, got wrong or did not do in time. What other sizes would hit is told from a sample of what this server
was asked for. The exit code is 1 if there is no such pool.
"""

STAT_EPILOG = f"""\b
Example: how much of it is in use
  ringcast pool stat kv0 --json | jq '.used_bytes / .capacity'

{common.EXIT_CODES}
"""


@command.command("stat", help=STAT, epilog=STAT_EPILOG, short_help="Show what is in a pool, and who uses it.")
@click.argument("name", shell_complete=_complete)
@click.option("--json", "as_json", is_flag=True, help="Write JSON, with the fields of ringcast.pool.PoolStats.")
@click.option(
    "--watch", type=common.Seconds(0.01), metavar="SECONDS", help="Look again so often, with rates, until Ctrl-C."
)
def stat(*, name: str, as_json: bool, watch: float | None) -> None:
    if as_json and watch is not None:
        raise click.UsageError("--json and --watch do not go together: call stat --json as often as you like.")
    if as_json:
        click.echo(json.dumps(_pool(name), indent=2))
    elif watch is None:
        for part in _shown(_pool(name), None, 0.0):
            common.print_table(part)
    else:
        common.watch(watch, _rates_of(name))


def _pool(name: str) -> PoolStats:
    pools = [pool["name"] for pool in list_pools().pools]
    if name not in pools and (near := get_close_matches(name, pools, 1)):
        raise common.CommandError(f"there is no pool {name!r}. Did you mean {near[0]!r}?")
    return describe(name)


def _rates_of(name: str) -> Callable[[], list[RenderableType]]:
    """Looks, and compares with the last look."""
    last: tuple[float, PoolStats] | None = None

    def look() -> list[RenderableType]:
        nonlocal last
        pool, now = _pool(name), time.monotonic()
        then, before = last if last is not None and last[1]["epoch"] == pool["epoch"] else (now, None)
        last = (now, pool)
        return list(_shown(pool, before, now - then))

    return look


def _shown(pool: PoolStats, before: PoolStats | None, seconds: float) -> Iterator[RenderableType]:
    def rate(what: str) -> str:
        now, then = (one and one[what] for one in (pool, before))  # type: ignore[literal-required]
        return f" ({(now - then) / seconds:.0f}/s)" if then is not None and seconds > 0 else ""

    used = 100 * pool["used_bytes"] / pool["capacity"]
    clients = pool["clients"]
    lines = [
        ("pool", f"{pool['name']}{', kept' if pool['kept'] else ''}"),
        ("segment", pool["segment"]),
        ("server", f"{pool['server_pid']} ({_server(pool)}), epoch {pool['epoch']}"),
        ("used", f"{human_bytes(pool['used_bytes'])} of {human_bytes(pool['capacity'])}, {used:.1f} %"),
        ("chunks", f"{pool['chunks']} of {pool['entries']}, {pool['reserved']} being stored"),
        ("gone", f"{pool['limbo']} in limbo, {pool['quarantined']} quarantined"),
        ("huge pages", _huge(pool)),
        ("policy", pool["policy"]),
        ("lookups", _hit_rate(pool["keys_found"], pool["keys_looked_up"]) + rate("keys_looked_up")),
        ("retrieves", _hit_rate(pool["hits"], pool["keys_retrieved"]) + rate("keys_retrieved")),
    ]
    for what in ("stored", "evicted", "aborted", "cleared", "no_memory", "full_buckets", "refused"):
        lines.append((what.replace("_", " "), f"{pool[what]}{rate(what)}"))
    width = max(len(what) for what, _ in lines)
    yield from (common.plain(f"{what:{width}}  {found}") for what, found in lines)
    yield common.plain(f"{'clients':{width}}  {sum(client['alive'] and not client['forked'] for client in clients)}")
    if clients:
        yield _table(
            [
                ("SEAT", [str(client["seat"]) for client in clients]),
                ("CLIENT", [f"{client['worker_id']}{' (forked)' if client['forked'] else ''}" for client in clients]),
                ("PID", [f"{client['pid']}{'' if client['alive'] else ' (dead)'}" for client in clients]),
                ("PINS", [str(client["pins"]) for client in clients]),
                ("OLDEST", [_age(client["oldest_pin_s"]) if client["pins"] else "" for client in clients]),
                ("LOOKUPS", [str(client["lookups"]) for client in clients]),
                ("FOUND", [_hit_rate(client["keys_found"], client["keys_looked_up"]) for client in clients]),
                ("RETRIEVES", [str(client["retrieves"]) for client in clients]),
                ("HITS", [_hit_rate(client["hits"], client["keys_retrieved"]) for client in clients]),
            ],
            words=("CLIENT",),
        )
    if tiers := pool["tiers"]:
        yield common.plain("")
        yield _table(
            [
                ("TIER", [tier["name"] for tier in tiers]),
                (
                    "CHUNKS",
                    [f"{tier['chunks']}{' of ' + str(tier['slots']) if tier['slots'] else ''}" for tier in tiers],
                ),
                ("STORED", [f"{tier['stored']}, {_speed(tier['store_rate'])}" for tier in tiers]),
                ("HITS", [f"{_hit_rate(tier['hits'], tier['wanted'])}, {_speed(tier['load_rate'])}" for tier in tiers]),
                ("WAITING", [str(tier["waiting"] + tier["running"]) for tier in tiers]),
                ("DROPPED", [str(tier["dropped"]) for tier in tiers]),
                ("FAILED", [str(tier["failed"] + tier["corrupt"] + tier["late"]) for tier in tiers]),
            ],
            words=("TIER",),
        )
    tenants = pool["tenants"]
    if len(tenants) > 1 or any(tenant["quota"] is not None for tenant in tenants):
        yield common.plain("")
        yield _table(
            [
                ("SALT", [tenant["salt_digest"] for tenant in tenants]),
                ("CHUNKS", [str(tenant["chunks"]) for tenant in tenants]),
                ("USED", [human_bytes(tenant["used_bytes"]) for tenant in tenants]),
                ("QUOTA", [_quota(tenant["quota"]) for tenant in tenants]),
            ],
            words=("SALT",),
        )
    if pool["curve"]:
        sizes = list(next(iter(pool["curve"].values())))
        yield common.plain("")
        yield common.plain(
            f"hit rate that other sizes would have, from {common.some(pool['curve_accesses'], 'key')} asked for"
        )
        yield _table(
            [
                ("POLICY", list(pool["curve"])),
                *((f"{size}x", [f"{100 * rates[size]:.1f} %" for rates in pool["curve"].values()]) for size in sizes),
            ],
            words=("POLICY",),
        )


def _huge(pool: PoolStats) -> str:
    found = pool["huge_page_bytes"]
    if found is None:
        return "unknown"
    if found == 0 and pool["capacity"] >= _huge_pages.SIZE and (why := _huge_pages.obstacle()) is not None:
        return f"none: {why}"
    return f"{human_bytes(found)}, as the server maps it"


def _quota(quota: int | None) -> str:
    return "none" if quota is None else human_bytes(quota)


def _speed(rate: float) -> str:
    return f"{human_bytes(round(rate))}/s"


def _age(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.0f} min"


def _server(pool: PoolStats) -> str:
    return "ended" if pool["closed"] else pool["server"]


def _hit_rate(found: int, wanted: int) -> str:
    return f"{100 * found / wanted:.1f} % of {common.some(wanted, 'key')}" if wanted else "none"


def _table(columns: list[tuple[str, list[str]]], words: tuple[str, ...]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, _ in columns:
        table.add_column(heading, justify="left" if heading in words else "right", no_wrap=True)
    for row in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*map(Text, row))
    return table


# --- events

EVENTS = """Write what happens to the chunks of the pool NAME, a line each, until Ctrl-C or the end of the pool.

It begins with RESYNC and what is there, or with event number --after, if that is still to be had: the number after the
last one that was seen. Who reads too slowly gets another RESYNC, and holds nobody up.
"""

EVENTS_EPILOG = f"""\b
Example: the keys that are evicted
  ringcast pool events kv0 --json | jq -r 'select(.reason == "evicted") | .key'

{common.EXIT_CODES}
"""


@command.command("events", help=EVENTS, epilog=EVENTS_EPILOG, short_help="Write what happens to a pool's chunks.")
@click.argument("name", shell_complete=_complete)
@click.option("--json", "as_json", is_flag=True, help="Write JSON lines, with the fields of ringcast.pool.PoolEvent.")
@click.option("--after", type=common.Whole(0), help="The number of the first event.")
def events(*, name: str, as_json: bool, after: int | None) -> None:
    _pool(name)
    for batch in watch(name, after):
        for event in batch:
            click.echo(json.dumps(_event_fields(event)) if as_json else _line(event))
        sys.stdout.flush()


def _event_fields(event: PoolEvent) -> dict[str, object]:
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in event._asdict().items()}


def _line(event: PoolEvent) -> str:
    words = [str(event.number), event.kind]
    if event.key is not None:
        words += [event.key.hex(), human_bytes(event.length)]
    if event.space is not None:
        words.append(f"namespace {event.space.hex()}")
    if event.medium != "memory":
        words.append(f"in {event.medium}")
    return " ".join([*words, event.reason] if event.reason else words)


command.add_command(pool_explain.command)


# --- ls

LS = """List this user's pools: the server's pid and whether it lives, how much is used, who is there.

Pools of dead servers are there until the last client leaves, or the next sweep; kept ones until `ringcast pool rm`.
"""

LS_EPILOG = f"""\b
Example: the names of pools that nobody serves
  ringcast pool ls --json | jq -r '.[] | select(.server == "gone") | .name'

{common.EXIT_CODES}
"""


@command.command("ls", help=LS, epilog=LS_EPILOG, short_help="List this user's pools.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON, with the fields of ringcast.pool.PoolStats.")
def ls(*, as_json: bool) -> None:
    found = list_pools()
    if as_json:
        click.echo(json.dumps(found.pools, indent=2))
        for one in found.unreadable:
            click.echo(f"ringcast: unreadable: {one.error}", err=True)
        return
    for part in _listed(found):
        common.print_table(part)


def _listed(found: FoundPools) -> Iterator[RenderableType]:
    pools = found.pools
    if pools:
        yield _table(
            [
                ("POOL", [pool["name"] for pool in pools]),
                ("SERVER", [f"{pool['server_pid']} ({_server(pool)})" for pool in pools]),
                ("USED", [human_bytes(pool["used_bytes"]) for pool in pools]),
                ("OF", [human_bytes(pool["capacity"]) for pool in pools]),
                ("CHUNKS", [str(pool["chunks"]) for pool in pools]),
                ("CLIENTS", [str(sum(client["alive"] for client in pool["clients"])) for pool in pools]),
                ("KEPT", ["yes" if pool["kept"] else "no" for pool in pools]),
            ],
            words=("POOL", "SERVER"),
        )
    for one in found.unreadable:
        yield common.plain(f"unreadable: {one.error}")
    if not pools and not found.unreadable:
        yield common.plain("No pools here.")


# --- clear, rm

CLEAR = """Remove all chunks from the pool NAME. Its server must be running; what clients hold stays theirs."""

CLEAR_EPILOG = f"""\b
Example:
  ringcast pool clear kv0

{common.EXIT_CODES}
"""


@command.command("clear", help=CLEAR, epilog=CLEAR_EPILOG, short_help="Remove all chunks from a pool.")
@click.argument("name", shell_complete=_complete)
@click.option(
    "--timeout", type=common.Seconds(), default=5.0, show_default=True, help="How long to wait for the server."
)
def clear(*, name: str, timeout: float) -> None:
    before = _pool(name)["cleared"]
    with PoolClient.connect(name, "ringcast pool clear", layout=1, timeout=timeout) as client:
        client.clear()
    click.echo(f"Cleared {common.some(describe(name)['cleared'] - before, 'chunk')}.")


RM = """Remove the pool NAME, which nobody has any more: one that was to be kept, or what a killed server left.

A pool that has a living server, or clients, is refused.
"""

RM_EPILOG = f"""\b
Example:
  ringcast pool rm kv0

{common.EXIT_CODES}
"""


@command.command("rm", help=RM, epilog=RM_EPILOG, short_help="Remove a pool that nobody has any more.")
@click.argument("name", shell_complete=_complete)
def rm(*, name: str) -> None:
    remove(name)
    click.echo(f"Removed pool '{name}'.")
