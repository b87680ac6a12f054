"""What the parent and a worker say to each other: one JSON object a line.

Owns the message types and the worker's private channel. The worker's standard output is handed over
to its standard error, so that a vendor's library that prints cannot break a message.
"""

from __future__ import annotations

import msgspec

from hwbench_mlflow.model import (
    Availability,
    Calibration,
    Device,
    ExecutionWitness,
    FailureCategory,
    ModelInfo,
    Precision,
    RunRequest,
    ScalingPoint,
    ServerWindow,
    SessionFacts,
    Workload,
)
from hwbench_mlflow.roofline import Products, Stream


class OutputSample(msgspec.Struct, frozen=True, kw_only=True):
    """Elements of the outputs for one challenge input, at positions that the nonce draws."""

    nonce: str
    slot: int
    inputs_sha256: str
    elements: tuple[float, ...]
    sha256: str
    size: int


# --- parent to worker ---------------------------------------------------------------------------


class Measure(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first line a measuring worker gets."""

    request: RunRequest


class Open(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Which device to open, what to load on it, and the nonce that the timed inputs are drawn from.

    ``workload`` is the request's, with its weights policy settled by the parent: every worker loads the same.
    ``rate_per_s`` is the server scenario's, as an earlier worker found it; None asks for a search.
    """

    device_id: str
    workload: Workload
    nonce: str
    slots: int
    min_samples: int
    seconds: float
    scaling: bool
    rate_per_s: float | None = None


class Go(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Start the timed window: the parent has read its clock."""


class Challenge(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A nonce drawn after the window: answer with the outputs for its inputs."""

    nonce: str


class Reference(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first line a reference worker gets: outputs of torch on the CPU in fp32, and the device's peak.

    ``fastest_flops_per_s`` is the best rate of any timed sample: a peak below it is measured again.
    """

    request: RunRequest
    workload: Workload
    challenges: tuple[tuple[str, int], ...]
    device_id: str
    precision: Precision
    calibration_seconds: float
    fastest_flops_per_s: float


class Calibrate(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first line a calibrating worker gets. ``seconds`` is for each precision and each streaming kernel."""

    backend: str
    precisions: tuple[Precision, ...]
    seconds: float
    threads: int | None


class CalibrateOn(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Which of the probe's devices to calibrate."""

    device_id: str


Command = Measure | Open | Go | Challenge | Reference | Calibrate | CalibrateOn


# --- worker to parent ---------------------------------------------------------------------------


class Probed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The probe's answer, and how long importing the libraries took."""

    availability: Availability
    import_ns: int


class Loaded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The model is on the device."""

    import_ns: int
    facts: SessionFacts
    model: ModelInfo
    workload: Workload
    warnings: tuple[str, ...]


class FirstInference(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first inference is over; warm-up goes on."""

    duration_ns: int


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Warm: waiting for :class:`Go`."""

    warmup_ns: tuple[int, ...]
    flat: bool


class WindowOver(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The timed window has just ended; nothing else has been done since.

    ``again``: it does not count, and another one has to be begun (server: the bound was not held).
    """

    again: bool = False


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What was timed, where it ran, and the outputs kept from the window and for the challenge."""

    samples_ns: tuple[int, ...]
    runs_per_sample: int
    window_ns: int
    witness: ExecutionWitness
    timed: tuple[OutputSample, ...]
    after: tuple[OutputSample, ...]
    token_ns: tuple[int, ...] = ()
    arrivals_ns: tuple[int, ...] = ()
    starts_ns: tuple[int, ...] = ()
    ends_ns: tuple[int, ...] = ()
    server: ServerWindow | None = None


class Scaled(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The scaling probe: the last word of a measuring worker."""

    points: tuple[ScalingPoint, ...]


class Referred(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The last word of a reference worker. ``weights_sha256`` is of the fp32 weights as they were made."""

    outputs: tuple[OutputSample, ...]
    weights_sha256: str
    calibration: Calibration | None


class Calibrated(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The last word of a calibrating worker: raw timings, and its own clock around them."""

    device: Device
    method: str
    products: tuple[Products, ...]
    streams: tuple[Stream, ...]
    skipped: dict[str, str]
    cache_bytes: int | None
    threads: int
    worker_ns: int


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker cannot go on, and why."""

    category: FailureCategory
    message: str
    remedy: str | None


Event = Probed | Loaded | FirstInference | Ready | WindowOver | Answer | Scaled | Referred | Calibrated | Failed

_encoder = msgspec.json.Encoder()
_commands: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
_events: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def write(message: Command | Event) -> bytes:
    """One line."""
    return _encoder.encode(message) + b"\n"


def read_command(line: bytes) -> Command:
    """Raises msgspec.DecodeError for anything else."""
    return _commands.decode(line)


def read_event(line: bytes) -> Event:
    """Raises msgspec.DecodeError for anything else."""
    return _events.decode(line)
