"""What queues, links, worker groups and pools do, as metrics: for Prometheus and for OpenTelemetry.

    from prometheus_client import REGISTRY, start_http_server
    from ringcast.metrics import RingcastCollector

    REGISTRY.register(RingcastCollector())      # all of this user's, seen from outside
    start_http_server(9477)

`ringcast exporter` is that as a program. Give the collector ends of this process, `RingcastCollector([queue])`, and
there is what only an end itself knows: what it has received, for how long a call has been waiting, and how the waits of
an end have ended whose queue nobody can see any more. With OpenTelemetry it is `instrument(meter, [queue])`. `METRICS`
says which metrics there are; labels are names, ranks and words from short lists, and never pids, so that their number
stays bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringcast._extras import needed
from ringcast.metrics._metrics import METRICS, Metric

if TYPE_CHECKING:
    from ringcast.metrics._otel import instrument
    from ringcast.metrics._prometheus import RingcastCollector

__all__ = ["METRICS", "Metric", "RingcastCollector", "instrument"]


def __getattr__(name: str) -> object:
    """What needs a package is imported by who uses it."""
    if name == "RingcastCollector":
        needed("prometheus_client", "ringcast.metrics.RingcastCollector")
        from ringcast.metrics._prometheus import RingcastCollector

        return RingcastCollector
    if name == "instrument":
        needed("opentelemetry.metrics", "ringcast.metrics.instrument")
        from ringcast.metrics._otel import instrument

        return instrument
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
