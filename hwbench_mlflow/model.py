"""The words of hwbench as frozen types.

Stdlib only; imports nothing of the package. Every type here is plain data that :mod:`.codec`
writes to JSON and reads back. Times are integers in nanoseconds (``_ns``), memory is in bytes,
energy in joules. ``None`` always means *unknown* or *not applicable*, never zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

SCHEMA_VERSION = 2
"""Version of ``result.json``, ``samples.json`` and what lies beside them. History: 1 = the first; 2 = scenarios server
and multistream, phases of writing, audio, int8, pinned cores. A canonical form has every field: a new one is a new
version."""


class Platform(StrEnum):
    """The value of ``--hardware``."""

    CPU = "cpu"
    CUDA = "cuda"
    ROCM = "rocm"
    MPS = "mps"
    OPENVINO = "openvino"
    QNN = "qnn"
    WEBNN = "webnn"
    WEBGPU = "webgpu"


class AvailabilityStatus(StrEnum):
    """What a probe found. Only ``AVAILABLE`` lets a benchmark start."""

    AVAILABLE = "AVAILABLE"
    NOT_INSTALLED = "NOT_INSTALLED"
    NO_DRIVER = "NO_DRIVER"
    NO_DEVICE = "NO_DEVICE"
    UNSUPPORTED_HOST = "UNSUPPORTED_HOST"
    PROBE_FAILED = "PROBE_FAILED"


class Precision(StrEnum):
    """Arithmetic of weights and activations."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"


DEFAULT_PRECISION = {Platform.QNN: Precision.FP16}
"""Where no precision is asked for: fp32, except on platforms that have no fp32 arithmetic."""


class Scenario(StrEnum):
    """After MLPerf inference: ``latency`` is SingleStream, ``offline`` is Offline, ``server`` is Server,
    ``multistream`` is MultiStream."""

    LATENCY = "latency"
    OFFLINE = "offline"
    SERVER = "server"
    MULTISTREAM = "multistream"


class Phase(StrEnum):
    """What one inference of a model that writes text is. ``forward``: one pass over everything, as other models' are.
    ``prefill``: the prompt, up to the logits of the first new token. ``decode``: the new tokens after a prompt that is
    in the cache already. ``generate``: prefill and decode, with a time stamp for each token."""

    FORWARD = "forward"
    PREFILL = "prefill"
    DECODE = "decode"
    GENERATE = "generate"


class WeightsPolicy(StrEnum):
    """What ``--weights`` asks for."""

    AUTO = "auto"
    PRETRAINED = "pretrained"
    RANDOM = "random"


class WeightsSource(StrEnum):
    """What the weights were in fact."""

    PRETRAINED = "pretrained"
    RANDOM = "random"


class CompileMode(StrEnum):
    """How the model was prepared. OpenVINO always compiles its own graph."""

    EAGER = "eager"
    COMPILE = "compile"


class VerdictState(StrEnum):
    """What the evidence amounts to. Ordered from best to worst by :mod:`.verdict`."""

    VERIFIED = "verified"
    UNVERIFIED = "unverified"
    SIMULATED = "simulated"
    CONTRADICTED = "contradicted"


class EnergyMethod(StrEnum):
    """``counter``: a hardware energy counter; ``integrated``: power samples integrated over time;
    ``estimated``: anything else (never reported as measured)."""

    COUNTER = "counter"
    INTEGRATED = "integrated"
    ESTIMATED = "estimated"


class FailureCategory(StrEnum):
    """Why a benchmark did not produce a result."""

    NOT_INSTALLED = "not_installed"
    NO_DRIVER = "no_driver"
    NO_DEVICE = "no_device"
    UNSUPPORTED_HOST = "unsupported_host"
    PROBE_FAILED = "probe_failed"
    USAGE = "usage"
    OUT_OF_MEMORY = "out_of_memory"
    UNSUPPORTED_OPERATOR = "unsupported_operator"
    MODEL_TOO_LARGE = "model_too_large"
    HUB_UNREACHABLE = "hub_unreachable"
    TIMEOUT = "timeout"
    WRONG_OUTPUT = "wrong_output"
    FALLBACK_DETECTED = "fallback_detected"
    INTERRUPTED = "interrupted"
    BOUND_NOT_MET = "bound_not_met"
    CRASH = "crash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One piece of hardware on a platform, as its vendor's library identifies it.

    ``id`` is what ``--device`` takes and what the vendor calls it (``cpu``, ``cuda:0``, ``GPU.0``).
    ``emulation_reason`` is set when software stands in for the hardware (SwiftShader, an emulator).
    """

    platform: Platform
    id: str
    name: str
    vendor: str | None = None
    uuid: str | None = None
    pci_id: str | None = None
    driver: str | None = None
    memory_bytes: int | None = None
    emulation_reason: str | None = None
    details: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCheck:
    """An operation executed on one device during a probe, checked against a reference.

    ``max_abs_error`` is against a float64 reference computed in pure Python, so the check does not
    rest on the library it checks. ``passed`` is True only if it ran, was right, and the identity
    that the device reported afterwards is the one that was enumerated.
    """

    device_id: str
    operation: str
    passed: bool
    reason: str
    max_abs_error: float | None = None
    tolerance: float | None = None
    identity: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """A probe's answer: never a bare bool.

    ``started_at`` is UTC, ISO 8601. ``remedy`` says what would make the platform available.
    """

    platform: Platform
    status: AvailabilityStatus
    reason: str
    remedy: str | None = None
    devices: tuple[Device, ...] = ()
    checks: tuple[DeviceCheck, ...] = ()
    probe_id: str = ""
    started_at: str = ""
    duration_ns: int = 0
    boot_id: str | None = None

    def verified_device(self, device_id: str) -> Device | None:
        """The device of that id if an operation on it was executed and checked, else None."""
        passed = {check.device_id for check in self.checks if check.passed}
        return next((d for d in self.devices if d.id == device_id and d.id in passed), None)

    @property
    def verified(self) -> bool:
        """True if every device listed passed its check, and there is one."""
        return (
            self.status is AvailabilityStatus.AVAILABLE
            and bool(self.devices)
            and all(self.verified_device(d.id) is not None for d in self.devices)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A model and what it is given. ``sequence_length`` in tokens (of the prompt; the places of an image count),
    ``image_size`` in pixels (square), ``audio_seconds`` of one item, ``output_tokens`` written (or, in a forward pass,
    read by a decoder). ``None`` asks for the model's default and is resolved before a run is signed; where it stays
    ``None`` the model has no such input. ``kv_cache`` is None in a forward pass: there is nothing to keep.

    ``latency_bound_ms`` and ``latency_percentile`` (percent) are the server scenario's; ``query_size`` is
    multistream's: samples a query, run as that many over ``batch_size`` inferences. None elsewhere."""

    model: str
    batch_size: int = 1
    sequence_length: int | None = None
    image_size: int | None = None
    precision: Precision = Precision.FP32
    scenario: Scenario = Scenario.LATENCY
    weights: WeightsPolicy = WeightsPolicy.AUTO
    compile_mode: CompileMode = CompileMode.EAGER
    weights_seed: int = 0
    latency_bound_ms: float | None = None
    latency_percentile: int | None = None
    query_size: int | None = None
    audio_seconds: float | None = None
    output_tokens: int | None = None
    phase: Phase = Phase.FORWARD
    kv_cache: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How long and how often to measure. ``seconds`` is the total over all workers."""

    name: str
    workers: int
    min_samples: int
    seconds: float
    max_warmup_seconds: float
    ranked: bool


TINY_SUFFIX = "-tiny-test"
"""Ends the alias of a model's variant for tests: the same architecture, a thousandth of the size, no use."""


PROFILES: dict[str, Profile] = {
    p.name: p
    for p in (
        Profile(name="smoke", workers=1, min_samples=12, seconds=0.3, max_warmup_seconds=1.0, ranked=False),
        Profile(name="quick", workers=1, min_samples=30, seconds=10.0, max_warmup_seconds=10.0, ranked=True),
        Profile(name="standard", workers=3, min_samples=90, seconds=60.0, max_warmup_seconds=15.0, ranked=True),
        Profile(name="certified", workers=3, min_samples=300, seconds=600.0, max_warmup_seconds=60.0, ranked=True),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What the user asked for. ``backend`` names the code that ran it (``package.module:Class``);
    ``cores`` are the logical cores that its processes are pinned to, None for all that the parent may use."""

    platform: Platform
    device: str | None
    workload: Workload
    profile: Profile
    threads: int | None
    backend: str
    cores: tuple[int, ...] | None = None

    @property
    def ranked(self) -> bool:
        """Whether the result may stand in a ranking: a long enough profile, and not a model for tests."""
        return self.profile.ranked and not self.workload.model.endswith(TINY_SUFFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What was run. ``flops`` and ``bytes`` are per batch, counted on meta tensors, never timed.

    ``flops`` counts a multiply-add as 2 (torch's ``FlopCounterMode``); ``weight_bytes`` is the
    parameters at the effective precision; ``min_bytes`` = weights once + inputs + outputs, a lower
    bound of memory traffic; tables that are only looked up in (embeddings) are left out of it.
    ``config_sha256`` is of the canonical JSON of the resolved config.
    """

    name: str
    architecture: str
    task: str
    source: str
    config_sha256: str
    parameters: int
    flops: int
    min_bytes: int
    weight_bytes: int
    weights_source: WeightsSource
    weights_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputCheck:
    """Outputs for challenge inputs beside a reference's, at positions drawn from the nonce.

    ``observed`` and ``reference`` are the same elements of the same outputs: the error a verifier
    reports is recomputed from them. ``slot`` is which input of the nonce it was.
    """

    nonce: str
    slot: int
    phase: str  # "timed": kept from the timed window; "after": a nonce drawn after it
    inputs_sha256: str
    observed_sha256: str
    observed: tuple[float, ...]
    reference: tuple[float, ...]
    elements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionWitness:
    """What was seen of *where* the work ran, over the timed window unless said otherwise.

    CPU-side: ``process_cpu_ns`` is CPU time of all threads; ``run_delay_ns`` the time they were
    runnable but not running (Linux schedstat). Device-side values come from a separate profiled
    pass (``kernel_*``), the vendor's management library (``pid_on_device``, ``energy_j``,
    ``utilization_max``), the compiled model (``execution_devices``, ``executed_node_types``) or the
    log of an ONNX session (``placement``: nodes by execution provider). ``helper_cpu_ns`` is the CPU
    time of other processes that compute for the worker: a browser's. ``busy_cpu_ns`` is the part of
    ``process_cpu_ns`` that was used while a query ran, where the window also waits for arrivals (server).
    """

    wall_ns: int
    process_cpu_ns: int
    threads: int
    run_delay_ns: int | None = None
    kernel_count: int | None = None
    kernel_busy_ns: int | None = None
    kernel_wall_ns: int | None = None
    kernel_names: tuple[str, ...] = ()
    event_window_ns: int | None = None
    pid_on_device: bool | None = None
    energy_j: float | None = None
    utilization_max: float | None = None
    device_identity: str | None = None
    device_memory_peak_bytes: int | None = None
    execution_devices: tuple[str, ...] = ()
    executed_node_types: dict[str, int] = field(default_factory=dict)
    executed_precisions: dict[str, int] = field(default_factory=dict)
    placement: dict[str, int] = field(default_factory=dict)
    helper_cpu_ns: int | None = None
    busy_cpu_ns: int | None = None
    properties: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFacts:
    """What an open session says of itself: the device that was granted, not the one asked for."""

    device: Device
    effective_precision: Precision
    threads: int
    load_ns: int
    compile_ns: int | None
    properties: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPoint:
    """Median time of one inference at a batch size, in the scaling probe."""

    batch_size: int
    median_ns: int
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentClock:
    """What the parent process saw of one worker, on its own monotonic clock (0 = spawn).

    ``cpu_ns`` and ``max_rss_bytes`` come from the operating system's accounting of the reaped worker.
    ``run_delay_ns`` is how long the parent's own threads waited for a core during the window: a message
    may have been read that much late.
    """

    window_begin_ns: int
    window_end_ns: int
    exited_ns: int
    cpu_ns: int | None
    max_rss_bytes: int | None
    run_delay_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateTrial:
    """One window at one rate on the way to the server's: ``finished`` of ``queries`` before it was given up.

    ``tail_ms`` is the asked percentile of the finished ones as it was seen, however few: it steers the search,
    and is claimed nowhere.
    """

    rate_per_s: float
    queries: int
    finished: int
    late: int
    tail_ms: float | None
    held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerWindow:
    """How the server's window came to its rate (queries per second).

    ``trials`` is the search's trail, then the windows at the rate that did not hold it; ``attempt`` counts these.
    In workers that were given their rate both are empty and ``capacity_per_s`` is None.
    """

    rate_per_s: float
    attempt: int = 0
    capacity_per_s: float | None = None
    trials: tuple[RateTrial, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """One fresh process that measured. ``window_ns`` is the worker's own clock around the timed loop."""

    index: int
    pid: int
    nonce: str
    facts: SessionFacts
    import_ns: int
    first_inference_ns: int
    warmup_count: int
    warmup_flat: bool
    sample_count: int
    runs_per_sample: int
    window_ns: int
    witness: ExecutionWitness
    outputs: tuple[OutputCheck, ...]
    parent: ParentClock
    scaling: tuple[ScalingPoint, ...] = ()
    server: ServerWindow | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Peak of the device at the effective precision, by a process other than the worker.

    ``peak_flops_per_s`` is the best of several square matrix products of ``dim``; ``source`` is
    ``measured`` or names a datasheet.
    """

    device_id: str
    device_uuid: str | None
    precision: Precision
    peak_flops_per_s: float
    source: str
    dim: int | None = None
    repeats: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemSample:
    """One look at the machine during the window, taken by the parent. ``t_ns`` since its spawn of
    the worker; ``cpu_percent`` of the whole machine; device values by NVML."""

    worker: int
    t_ns: int
    cpu_percent: float | None = None
    rss_bytes: int | None = None
    freq_mhz: float | None = None
    device_power_w: float | None = None
    device_utilization: float | None = None
    device_temperature_c: float | None = None
    device_clock_mhz: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What may have disturbed the measurement. Counts are over the timed windows."""

    load_before: float | None = None
    load_after: float | None = None
    steal_fraction: float | None = None
    foreign_cpu_fraction: float | None = None
    involuntary_switches: int | None = None
    throttle_events: int | None = None
    throttle_reasons: tuple[str, ...] = ()
    foreign_device_pids: tuple[int, ...] = ()
    governor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Energy over the timed windows: of what, and how it was had."""

    joules: float
    method: EnergyMethod
    scope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInfo:
    """The machine. ``host_id`` is a digest of the machine id: the same machine, the same value."""

    hostname: str
    host_id: str
    os: str
    kernel: str
    machine: str
    cpu_name: str
    cpu_count_logical: int
    cpu_count_physical: int | None
    memory_bytes: int
    boot_id: str | None
    virtualization: str | None
    python: str
    packages: dict[str, str]
    git_commit: str | None
    git_dirty: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStats:
    """The server scenario's own statistics. Rates are in queries (batches) per second, of all windows together.

    ``held`` is whether the bound was held at the offered rate, by MLPerf's binomial rule at 99% confidence; None where
    the queries are too few to say.
    """

    offered_rate_per_s: float
    achieved_rate_per_s: float
    late_count: int
    held: bool | None
    queue_mean_ms: float
    service_p50_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregates:
    """Statistics of the raw samples. Always derived; stored so that a reader can check them.

    Milliseconds per inference (batch); server and multistream: per query. Percentiles are None where MLPerf's rule
    asks for more samples.
    """

    sample_count: int
    mean_ms: float
    min_ms: float
    max_ms: float
    iqr_ms: float
    stdev_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    median_ci95_low_ms: float | None
    median_ci95_high_ms: float | None
    throughput_items_per_s: float
    stable: bool
    noise_reasons: tuple[str, ...]
    server: ServerStats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationStats:
    """Statistics of a model that writes, see :mod:`.generation`. None where the phase has no such time, or where the
    samples do not carry the percentile. ``tokens_per_s`` counts the tokens of the whole batch."""

    ttft_ms_p50: float | None
    ttft_ms_p90: float | None
    ttft_ms_p99: float | None
    tpot_ms_p50: float | None
    tpot_ms_p90: float | None
    tpot_ms_p99: float | None
    tokens_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """The truth of one run: ``hwbench/result.json``. Everything else in MLflow is an index of it."""

    schema_version: int
    result_id: str
    hwbench_version: str
    started_at: str
    finished_at: str
    monotonic_ns: int
    request: RunRequest
    availability: Availability
    device: Device
    model: ModelInfo
    workload: Workload
    effective_precision: Precision
    host: HostInfo
    workers: tuple[WorkerRecord, ...]
    conditions: Conditions
    aggregates: Aggregates
    samples_sha256: str
    is_simulated: bool
    simulation_reason: str | None
    calibration: Calibration | None = None
    energy: Energy | None = None
    warnings: tuple[str, ...] = ()
    generation: GenerationStats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSamples:
    """Raw samples of one worker, ns per *sample* (``runs_per_sample`` inferences), in order.

    Server: a sample is a query, from its *scheduled* arrival to its end; ``arrivals_ns`` (scheduled), ``starts_ns``
    and ``ends_ns`` are since the window's begin. Empty elsewhere.

    ``token_ns``: of a generation or a decoding, for each token of each sample the ns since the one before.
    """

    index: int
    warmup_ns: tuple[int, ...]
    samples_ns: tuple[int, ...]
    arrivals_ns: tuple[int, ...] = ()
    starts_ns: tuple[int, ...] = ()
    ends_ns: tuple[int, ...] = ()
    token_ns: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSet:
    """``hwbench/samples.json``: the raw samples, and the system's, of one result."""

    schema_version: int
    result_id: str
    workers: tuple[WorkerSamples, ...]
    system: tuple[SystemSample, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing a verdict saw. ``rule`` is a stable identifier, ``reason`` a sentence."""

    rule: str
    effect: VerdictState
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A pure function of the evidence. ``findings`` holds what kept it from ``verified``."""

    state: VerdictState
    findings: tuple[Finding, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """The findings as sentences, the decisive ones first."""
        return tuple(f"{f.rule}: {f.reason}" for f in self.findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a run has no result: ``hwbench/failure.json``."""

    schema_version: int
    category: FailureCategory
    reason: str
    remedy: str | None
    request: RunRequest | None
    availability: Availability | None
    host: HostInfo | None
