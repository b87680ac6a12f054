"""Estimates: what a roofline says of hardware that is not here. Nothing in this module was ever measured.

Pure. Owns the type :class:`Estimate` (``hwbench/estimate.json``), the roofline that makes its numbers, the efficiencies
it assumes, and :func:`judge_estimate`. An estimate has no samples, no worker and no device evidence, and its verdict is
of a type that has no word for *verified*: :class:`EstimateState`. Imports no SDK.

The roofline (Williams, Waterman, Patterson: "Roofline: an insightful visual performance model for multicore
architectures", CACM 52(4), 2009) bounds a kernel's time from below by the larger of its operations over the device's
peak and its bytes over the memory's bandwidth. Real kernels reach a part of either, and each operator that is launched
costs time of its own, so

    time = max(flops / (eff_c * peak), bytes / (eff_m * bandwidth)) + operators * overhead

with ``eff_c``, ``eff_m`` and ``overhead`` stated as ranges: an estimate is an interval, not a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from hwbench_mlflow.index import ResultIndex
from hwbench_mlflow.model import HostInfo, Platform, Precision, Workload

ESTIMATE_ROLE = "estimate"
ESTIMATE_DIGEST_PARAM = "hwbench.estimate_sha256"
ESTIMATE_ID_PARAM = "hwbench.estimate_id"


class EstimateState(StrEnum):
    """All that an estimate can ever be. ``simulated``: it is exactly what its own figures come to."""

    SIMULATED = "simulated"
    UNVERIFIED = "unverified"
    CONTRADICTED = "contradicted"


class SheetKind(StrEnum):
    """Where the peak and the bandwidth come from: a vendor's document, or hwbench's own calibration of a device."""

    DATASHEET = "datasheet"
    MEASURED = "measured"


class Bound(StrEnum):
    """Which term of the roofline is the largest at the expected efficiencies."""

    COMPUTE = "compute"
    MEMORY = "memory"
    OVERHEAD = "overhead"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """``low <= expected <= high``. Of a time the low end is the fast one."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One public figure and where it was read. ``value`` is in base units (FLOP/s, bytes/s, bytes)."""

    value: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetUse:
    """What was taken from a datasheet: the figures of one device at one precision.

    ``sha256`` is of the whole file (of ``roofline.json`` for a measured one). ``memory`` is None where it is not known.
    """

    kind: SheetKind
    name: str
    product: str
    vendor: str
    sha256: str
    precision: Precision
    peak_flops_per_s: Figure
    bandwidth_bytes_per_s: Figure
    memory_bytes: Figure | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiencies:
    """What a model reaches of peak and bandwidth (fractions), and what one operator's launch costs (s).

    ``low`` is the efficiency of the slow end; of ``overhead_s`` ``low`` is the fast one. ``basis`` says where the
    ranges come from.
    """

    compute: Interval
    memory: Interval
    overhead_s: Interval
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one batch must compute and move, counted on meta tensors (:class:`~hwbench_mlflow.model.ModelInfo`).

    ``operators`` are those that compute (views left out); ``activation_bytes`` is the largest single output of one.
    """

    parameters: int
    flops: int
    min_bytes: int
    weight_bytes: int
    operators: int
    activation_bytes: int

    @property
    def needed_bytes(self) -> int:
        """Memory without which it cannot run: all weights and the largest activation. A lower bound."""
        return self.weight_bytes + self.activation_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatedModel:
    """What was counted. As :class:`~hwbench_mlflow.model.ModelInfo`, without weights: none were loaded."""

    name: str
    architecture: str
    task: str
    source: str
    config_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """``hwbench/estimate.json``. ``latency_ms`` is of one batch. ``is_simulated`` is never anything but true."""

    schema_version: int
    estimate_id: str
    hwbench_version: str
    created_at: str
    platform: Platform
    model: EstimatedModel
    workload: Workload
    work: Work
    sheet: SheetUse
    efficiencies: Efficiencies
    latency_ms: Interval
    throughput_items_per_s: Interval
    bound: Bound
    is_simulated: bool
    simulation_reason: str
    host: HostInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateFinding:
    """One thing the judge of an estimate saw; ``effect`` cannot be a state that estimates do not have."""

    rule: str
    effect: EstimateState
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateVerdict:
    """The judge's answer. There is no path to *verified*: the type has no such value."""

    state: EstimateState
    findings: tuple[EstimateFinding, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """The findings as sentences, the decisive ones first."""
        return tuple(f"{f.rule}: {f.reason}" for f in self.findings)


# --- the roofline -------------------------------------------------------------------------------

_GPU = "typical of eager framework code on GPUs; not measured by us on this hardware"
_CPU_MEASURED = (
    "measured by us on one shared AMD EPYC virtual machine with 2 cores, torch 2.13: bert, vit, resnet-50, distilbert "
    "reached 0.63 to 0.75 of its measured peak where nothing else ran; bert-tiny lost 20 to 30 us an operator; the "
    "memory range is an assumption. A busy machine is slower than the interval"
)

EFFICIENCIES: dict[tuple[SheetKind, bool], Efficiencies] = {
    (SheetKind.DATASHEET, False): Efficiencies(
        compute=Interval(low=0.15, expected=0.45, high=0.8),
        memory=Interval(low=0.4, expected=0.7, high=0.95),
        overhead_s=Interval(low=2e-6, expected=8e-6, high=25e-6),
        basis=_GPU,
    ),
    (SheetKind.DATASHEET, True): Efficiencies(
        compute=Interval(low=0.15, expected=0.45, high=0.9),
        memory=Interval(low=0.3, expected=0.6, high=0.95),
        overhead_s=Interval(low=1e-6, expected=6e-6, high=20e-6),
        basis="typical of eager framework code on CPUs; not measured by us against a vendor's figures",
    ),
    (SheetKind.MEASURED, False): Efficiencies(
        compute=Interval(low=0.2, expected=0.6, high=1.0),
        memory=Interval(low=0.4, expected=0.8, high=1.0),
        overhead_s=Interval(low=2e-6, expected=8e-6, high=25e-6),
        basis=_GPU,
    ),
    (SheetKind.MEASURED, True): Efficiencies(
        compute=Interval(low=0.3, expected=0.65, high=1.0),
        memory=Interval(low=0.4, expected=0.8, high=1.0),
        overhead_s=Interval(low=5e-6, expected=2e-5, high=6e-5),
        basis=_CPU_MEASURED,
    ),
}
"""By kind of sheet and whether it is a CPU."""


def efficiencies(kind: SheetKind, platform: Platform) -> Efficiencies:
    """The ranges that this hwbench assumes."""
    return EFFICIENCIES[kind, platform in {Platform.CPU, Platform.OPENVINO}]


def latency_ms(work: Work, sheet: SheetUse, assumed: Efficiencies) -> Interval:
    """The interval of one batch's time, ms."""

    def at(compute: float, memory: float, overhead_s: float) -> float:
        floor = max(
            work.flops / (compute * sheet.peak_flops_per_s.value),
            work.min_bytes / (memory * sheet.bandwidth_bytes_per_s.value),
        )
        return (floor + work.operators * overhead_s) * 1e3

    return Interval(
        low=at(assumed.compute.high, assumed.memory.high, assumed.overhead_s.low),
        expected=at(assumed.compute.expected, assumed.memory.expected, assumed.overhead_s.expected),
        high=at(assumed.compute.low, assumed.memory.low, assumed.overhead_s.high),
    )


def throughput_items_per_s(batch_size: int, latency: Interval) -> Interval:
    """Items a second, one batch after the other."""
    return Interval(
        low=batch_size / latency.high * 1e3,
        expected=batch_size / latency.expected * 1e3,
        high=batch_size / latency.low * 1e3,
    )


def bound(work: Work, sheet: SheetUse, assumed: Efficiencies) -> Bound:
    """What the expected time is mostly made of."""
    terms = {
        Bound.COMPUTE: work.flops / (assumed.compute.expected * sheet.peak_flops_per_s.value),
        Bound.MEMORY: work.min_bytes / (assumed.memory.expected * sheet.bandwidth_bytes_per_s.value),
        Bound.OVERHEAD: work.operators * assumed.overhead_s.expected,
    }
    return max(terms, key=lambda term: terms[term])


def reason_of(sheet: SheetUse) -> str:
    """Why it is simulated: part of the document, of the tags and of every report."""
    what = "datasheet" if sheet.kind is SheetKind.DATASHEET else "measured roofline"
    return f"roofline estimate from {what} {sheet.name}; nothing was measured"


# --- its judge ----------------------------------------------------------------------------------


def judge_estimate(estimate: Estimate) -> EstimateVerdict:
    """What the document alone supports: simulated where it recomputes exactly, else contradicted."""
    return conclude(_findings(estimate))


def conclude(findings: Iterable[EstimateFinding]) -> EstimateVerdict:
    """The worst of the findings; without any, simulated."""
    order = (EstimateState.CONTRADICTED, EstimateState.UNVERIFIED)
    ranked = tuple(sorted((f for f in findings if f.effect in order), key=lambda f: order.index(f.effect)))
    return EstimateVerdict(state=ranked[0].effect if ranked else EstimateState.SIMULATED, findings=ranked)


def _contradicted(rule: str, reason: str) -> EstimateFinding:
    return EstimateFinding(rule=rule, effect=EstimateState.CONTRADICTED, reason=reason)


def _findings(estimate: Estimate) -> Iterator[EstimateFinding]:
    if not estimate.is_simulated:
        yield _contradicted("simulation", "it says that it is not simulated: an estimate always is")
    if estimate.simulation_reason != reason_of(estimate.sheet):
        yield _contradicted("simulation", "its reason does not name the sheet that it was made from")
    absurd = tuple(_absurd(estimate))
    yield from absurd
    if absurd:
        return
    work, sheet, assumed = estimate.work, estimate.sheet, estimate.efficiencies
    if sheet.memory_bytes is not None and work.needed_bytes > sheet.memory_bytes.value:
        yield _contradicted("memory", "the model does not fit into the device's memory")
    if estimate.workload.precision is not sheet.precision:
        yield _contradicted(
            "precision", f"the peak is of {sheet.precision}, the model of {estimate.workload.precision}"
        )
    latency = latency_ms(work, sheet, assumed)
    if latency != estimate.latency_ms:
        yield _contradicted("recompute", "the times are not those of its own figures")
    if throughput_items_per_s(estimate.workload.batch_size, latency) != estimate.throughput_items_per_s:
        yield _contradicted("recompute", "the throughput is not that of its own times")
    if bound(work, sheet, assumed) is not estimate.bound:
        yield _contradicted("recompute", "the bound is not that of its own figures")


def _absurd(estimate: Estimate) -> Iterator[EstimateFinding]:
    """Numbers that nothing can be computed with, or that are none of a device's or a model's."""
    sheet, work, assumed = estimate.sheet, estimate.work, estimate.efficiencies
    positive = {
        "peak": sheet.peak_flops_per_s.value,
        "bandwidth": sheet.bandwidth_bytes_per_s.value,
        "memory": sheet.memory_bytes.value if sheet.memory_bytes is not None else 1.0,
        "number of operations": work.flops,
        "number of bytes": work.min_bytes,
        "number of operators": work.operators,
        "number of parameters": work.parameters,
        "batch size": estimate.workload.batch_size,
    }
    for what, value in positive.items():
        if not (math.isfinite(value) and 0 < value < 1e30):
            yield _contradicted("shape", f"a {what} of {value} is none")
    for what, size in (("weights", work.weight_bytes), ("activation", work.activation_bytes)):
        if not 0 <= size < 10**30:
            yield _contradicted("shape", f"{size} bytes of {what} are none")
    for what, span, most in (
        ("compute", assumed.compute, 1.0), ("memory", assumed.memory, 1.0), ("overhead", assumed.overhead_s, 1.0),
    ):  # fmt: skip
        if not (0 < span.low <= span.expected <= span.high <= most and span.low > 1e-12):
            yield _contradicted("efficiency", f"the range of {what} is not one within 0 to {most:g}")


# --- its index ----------------------------------------------------------------------------------


def index_of_estimate(estimate: Estimate, digest: str) -> ResultIndex:
    """The params, metrics and tags of a run that holds this estimate: under names that no result has."""
    work, sheet = estimate.workload, estimate.sheet
    params: dict[str, object] = {
        ESTIMATE_DIGEST_PARAM: digest,
        ESTIMATE_ID_PARAM: estimate.estimate_id,
        "hwbench.estimate_platform": estimate.platform,
        "hwbench.estimate_sheet": sheet.name,
        "hwbench.estimate_sheet_sha256": sheet.sha256,
        "hwbench.estimate_device": sheet.product,
        "hwbench.estimate_model": work.model,
        "hwbench.estimate_batch_size": work.batch_size,
        "hwbench.estimate_sequence_length": work.sequence_length,
        "hwbench.estimate_image_size": work.image_size,
        "hwbench.estimate_precision": work.precision,
        "hwbench.estimate_bound": estimate.bound,
    }
    tags = {
        "hardware": str(estimate.platform),
        "hardware_available": "false",
        "availability_verified": "false",
        "is_simulated": "true",
        "simulation_reason": estimate.simulation_reason,
        "verdict": str(EstimateState.SIMULATED),
        "model": work.model,
        "hwbench.role": ESTIMATE_ROLE,
        "hwbench.estimate_id": estimate.estimate_id,
        "hwbench.estimate_sheet": sheet.name,
        "hwbench.ranked": "false",
    }
    metrics = {
        f"estimate_{name}_{end}": getattr(span, end)
        for name, span in (
            ("latency_ms", estimate.latency_ms), ("throughput_items_per_s", estimate.throughput_items_per_s),
        )
        for end in ("low", "expected", "high")
    }  # fmt: skip
    return ResultIndex(
        params={name: str(value) for name, value in params.items() if value is not None}, metrics=metrics, tags=tags
    )
