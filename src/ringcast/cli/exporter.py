"""`ringcast exporter`: the metrics of all queues, links, worker groups and pools of this user, over HTTP."""

from __future__ import annotations

import time

import click

from ringcast._extras import needed
from ringcast.cli import common

GLANCES_S = 1.0
PORT = 9477

HELP = """Serve metrics for Prometheus until Ctrl-C or SIGTERM, at http://HOST:PORT/metrics.

They are of all queues, links, worker groups and pools of this user, seen from outside: that takes no seat, and whoever
is stopped or killed holds it up as little as it holds them up. It listens on this machine alone unless --host says
otherwise; there is no password. docs/observability.md lists metrics and labels, and docs/grafana has a dashboard.
"""

EPILOG = f"""\b
Example: what Prometheus would see
  ringcast exporter &
  curl -s localhost:{PORT}/metrics | grep ringcast_queue_queued

{common.EXIT_CODES} Ended with SIGTERM it is 143.
"""


@click.command("exporter", help=HELP, epilog=EPILOG, short_help="Serve metrics for Prometheus.")
@click.option("--port", type=common.Whole(0, 65535), default=PORT, show_default=True, help="0: a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
def command(*, port: int, host: str) -> None:
    needed("prometheus_client", "ringcast exporter")
    from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, start_http_server

    from ringcast.metrics import RingcastCollector

    registry = CollectorRegistry()
    collector = RingcastCollector()
    registry.register(collector)
    list(collector.collect())  # from the first scrape on there are times of waits
    for other in (ProcessCollector, PlatformCollector, GCCollector):
        other(registry=registry)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise common.CommandError(f"cannot listen at {host} port {port}: {error.strerror or error}") from error
    try:
        click.echo(f"serving metrics at http://{host}:{server.server_port}/metrics")
        while True:
            time.sleep(GLANCES_S)
            collector.glance()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
