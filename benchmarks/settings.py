"""How much is measured: the one home of every count, size and duration of a run.

``FULL`` is meant for figures that are published (about 25 minutes on two CPUs), ``QUICK`` to see that everything
works (about two minutes; its figures are rough).
"""

from __future__ import annotations

from dataclasses import dataclass

#: Bytes of a small message, and slots of a queue: what the goals are stated for.
MESSAGE_BYTES = 64
DEPTH = 1024

#: Slots of a queue that carries steps of work: the depth that `MessageQueue` has by default.
STEP_DEPTH = 10

#: How many readers the rate of small messages is measured with.
FAN_OUTS = (1, 2, 4, 8)

#: Large payloads: slots of a queue, the source arrays that are sent in turn, and the destinations among which the floor
#: takes turns: as many as a transport needs that keeps its queue full, while its reader looks at one message more.
PAYLOAD_DEPTH = 4
PAYLOAD_SOURCES = 3
PAYLOAD_DESTINATIONS = PAYLOAD_DEPTH + 1

_KIB, _MIB = 1 << 10, 1 << 20
_ARRAY_SIZES = (64 * _KIB, 256 * _KIB, _MIB, 4 * _MIB, 16 * _MIB, 64 * _MIB)


@dataclass(frozen=True)
class Settings:
    """The counts of one run. Durations are in seconds and per measurement, that is per subject, case and round."""

    rounds: int
    latency_trips: int
    dict_trips: int
    bursts: int
    rate_seconds: float
    rate_first_messages: int
    fan_outs: tuple[int, ...]
    object_fan_outs: tuple[int, ...]
    wake_count: int
    wake_idle_seconds: float
    idle_seconds: float
    cadence_seconds: float
    cadence_interval_seconds: float
    step_warm_up_seconds: float
    step_seconds: float
    startup_count: int
    floor_blocks: int
    floor_copy_seconds: float

    #: Large payloads: the time of one measurement, and which sizes are sent to how many readers.
    payload_seconds: float
    array_sizes: dict[int, tuple[int, ...]]
    tensor_sizes: tuple[int, ...]
    loan_sizes: tuple[int, ...]

    timeout_seconds: float

    #: A rate is measured with about as many messages as fit ``rate_seconds``, within these bounds.
    fewest_messages: int = 2_000
    most_messages: int = 4_000_000

    #: Messages of a batch, for the subjects that send and receive many at once.
    batch: int = 64


FULL = Settings(
    rounds=5,
    latency_trips=10_000,
    dict_trips=5_000,
    bursts=100,
    rate_seconds=0.5,
    rate_first_messages=5_000,
    fan_outs=FAN_OUTS,
    object_fan_outs=(1, 2, 4),
    wake_count=50,
    wake_idle_seconds=0.020,
    idle_seconds=2.0,
    cadence_seconds=1.5,
    cadence_interval_seconds=0.005,
    step_warm_up_seconds=0.3,
    step_seconds=0.7,
    startup_count=10,
    floor_blocks=20_000,
    floor_copy_seconds=0.05,
    payload_seconds=0.2,
    array_sizes={1: _ARRAY_SIZES, 2: _ARRAY_SIZES, 4: (256 * _KIB, 4 * _MIB, 16 * _MIB)},
    tensor_sizes=(_MIB, 16 * _MIB, 64 * _MIB),
    loan_sizes=(4 * _MIB, 16 * _MIB),
    timeout_seconds=60.0,
)

QUICK = Settings(
    rounds=1,
    latency_trips=2_000,
    dict_trips=1_000,
    bursts=20,
    rate_seconds=0.1,
    rate_first_messages=2_000,
    fan_outs=FAN_OUTS,
    object_fan_outs=(1, 2, 4),
    wake_count=15,
    wake_idle_seconds=0.020,
    idle_seconds=0.5,
    cadence_seconds=0.5,
    cadence_interval_seconds=0.005,
    step_warm_up_seconds=0.1,
    step_seconds=0.2,
    startup_count=3,
    floor_blocks=4_000,
    floor_copy_seconds=0.02,
    payload_seconds=0.05,
    array_sizes={1: (64 * _KIB, _MIB, 16 * _MIB), 2: (64 * _KIB, _MIB, 16 * _MIB)},
    tensor_sizes=(_MIB, 16 * _MIB),
    loan_sizes=(4 * _MIB, 16 * _MIB),
    timeout_seconds=30.0,
)
