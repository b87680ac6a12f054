"""A device's measured roofline: peak FLOP/s per precision and memory bandwidth, independent of any model.

Pure. Owns the type :class:`Roofline` (``hwbench/roofline.json``), what is derived from its raw timings, and
:func:`judge_roofline`. Matrix products of n x n count 2 n^3 operations; bytes are counted as STREAM does (McCalpin:
"Memory bandwidth and machine balance in current high performance computers", 1995): a copy moves two arrays, a triad
``a = b + s * c`` three, write-allocate traffic left out. A peak is a maximum, so the best timing makes it; the median
stands beside it. Imports no SDK.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from hwbench_mlflow.index import ResultIndex
from hwbench_mlflow.model import (
    Availability,
    Device,
    Finding,
    HostInfo,
    Precision,
    Verdict,
    VerdictState,
)
from hwbench_mlflow.stats import median
from hwbench_mlflow.verdict import combine

ROOFLINE_ROLE = "roofline"
ROOFLINE_DIGEST_PARAM = "hwbench.roofline_sha256"
ROOFLINE_ID_PARAM = "hwbench.roofline_id"

ARRAYS_MOVED = {"copy": 2, "triad": 3}
MIN_ARRAY_BYTES = 32 * 1024 * 1024
"""Smaller arrays may lie in a cache: their rate is not the memory's."""
MIN_STREAM_SAMPLES = 5
MIN_PRODUCTS = 2

CONTRADICTED, UNVERIFIED = VerdictState.CONTRADICTED, VerdictState.UNVERIFIED


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """Square matrix products at one precision: ``dims[i]`` squared took ``took_ns[i]``."""

    precision: Precision
    dims: tuple[int, ...]
    took_ns: tuple[int, ...]

    @property
    def peak_flops_per_s(self) -> float:
        """The best rate of any single product."""
        return max(2.0 * dim**3 / (ns / 1e9) for dim, ns in zip(self.dims, self.took_ns, strict=True))

    @property
    def median_flops_per_s(self) -> float:
        """The median rate at the largest size."""
        largest = max(self.dims)
        return median(
            [2.0 * dim**3 / (ns / 1e9) for dim, ns in zip(self.dims, self.took_ns, strict=True) if dim == largest]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One streaming kernel (``copy``, ``triad``) over arrays of ``array_bytes`` each."""

    kernel: str
    array_bytes: int
    took_ns: tuple[int, ...]

    @property
    def best_bytes_per_s(self) -> float:
        """The best rate."""
        return ARRAYS_MOVED[self.kernel] * self.array_bytes / (min(self.took_ns) / 1e9)

    @property
    def median_bytes_per_s(self) -> float:
        """The median rate."""
        return ARRAYS_MOVED[self.kernel] * self.array_bytes / (median(list(self.took_ns)) / 1e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """``hwbench/roofline.json``. ``parent_ns`` is the parent's clock around the worker's measurement, ``worker_ns`` the
    worker's own. ``cache_bytes`` is the last-level cache where it is known. ``skipped`` says which precisions were not
    measured, and why."""

    schema_version: int
    roofline_id: str
    hwbench_version: str
    started_at: str
    finished_at: str
    availability: Availability
    device: Device
    method: str
    products: tuple[Products, ...]
    streams: tuple[Stream, ...]
    skipped: dict[str, str]
    cache_bytes: int | None
    threads: int
    worker_ns: int
    parent_ns: int
    load_before: float | None
    load_after: float | None
    host: HostInfo

    @property
    def noise_reasons(self) -> tuple[str, ...]:
        """What may have made these limits lower than the device's; empty where nothing was seen."""
        processors = self.host.cpu_count_logical
        if self.load_before is None or self.load_before <= 0.5 * processors:
            return ()
        return (f"load average {self.load_before:.1f} on {processors} processors before it: limits may be too low",)

    def peak(self, precision: Precision) -> float | None:
        """FLOP/s at that precision; None if it was not measured."""
        return next((p.peak_flops_per_s for p in self.products if p.precision is precision), None)

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """The best rate of any streaming kernel."""
        return max(stream.best_bytes_per_s for stream in self.streams)


def judge_roofline(found: Roofline) -> Verdict:
    """What its own evidence supports, before signatures and any store."""
    absurd = tuple(_absurd(found))
    if absurd:
        return combine(absurd)
    return combine([*_rests_on_probe(found), *_clocks(found), *_enough(found)])


def _absurd(found: Roofline) -> Iterator[Finding]:
    def wrong(reason: str) -> Finding:
        return Finding(rule="shape", effect=CONTRADICTED, reason=reason)

    precisions = [p.precision for p in found.products]
    if not precisions or not found.streams:
        yield Finding(rule="shape", effect=UNVERIFIED, reason="no peak or no bandwidth was measured")
    if len(set(precisions)) != len(precisions):
        yield wrong("a precision is there twice")
    for p in found.products:
        if len(p.dims) != len(p.took_ns) or not p.dims:
            yield wrong(f"{p.precision} has {len(p.dims)} sizes for {len(p.took_ns)} times")
        elif min(p.dims) <= 0 or min(p.took_ns) <= 0 or max(p.dims) > 1 << 20:
            yield wrong(f"{p.precision} has a size or a time that is none")
    for s in found.streams:
        if s.kernel not in ARRAYS_MOVED:
            yield wrong(f"there is no streaming kernel {s.kernel!r}")
        if not s.took_ns or min(s.took_ns) <= 0 or not 0 < s.array_bytes < 1 << 50:
            yield wrong(f"{s.kernel} has a size or a time that is none")
    if found.worker_ns <= 0 or found.parent_ns <= 0:
        yield wrong("a clock says that no time went by")


def _rests_on_probe(found: Roofline) -> Iterator[Finding]:
    rule, probe, device = "availability", found.availability, found.device
    if device.emulation_reason is not None:
        yield Finding(rule="simulation", effect=VerdictState.SIMULATED, reason=device.emulation_reason)
    listed = next((d for d in probe.devices if d.id == device.id), None)
    if probe.platform is not device.platform or listed is None:
        yield Finding(rule=rule, effect=CONTRADICTED, reason=f"the probe did not see {device.platform}:{device.id}")
        return
    if (listed.uuid, listed.name) != (device.uuid, device.name):
        yield Finding(rule=rule, effect=CONTRADICTED, reason="the probe identified another device under that id")
    if probe.verified_device(device.id) is None:
        yield Finding(rule=rule, effect=UNVERIFIED, reason=f"no operation was checked on {device.id}")
    for check in probe.checks:
        wrong = check.max_abs_error is None or check.tolerance is None or not check.max_abs_error <= check.tolerance
        if check.passed and wrong:
            yield Finding(rule=rule, effect=CONTRADICTED, reason="a probe's check passed with an output that is wrong")
    if probe.boot_id != found.host.boot_id:
        yield Finding(rule=rule, effect=UNVERIFIED, reason="the probe is from before a reboot, or another machine")
    times = [_instant(t) for t in (found.started_at, probe.started_at, found.finished_at)]
    known = [t for t in times if t is not None]
    if len(known) != len(times):
        yield Finding(rule=rule, effect=UNVERIFIED, reason="the times of the run or of its probe cannot be read")
    elif not known[0] <= known[1] <= known[2]:
        yield Finding(rule=rule, effect=UNVERIFIED, reason="the probe was not made in this run")


def _clocks(found: Roofline) -> Iterator[Finding]:
    timed = sum(sum(p.took_ns) for p in found.products) + sum(sum(s.took_ns) for s in found.streams)
    if timed > found.worker_ns:
        yield Finding(rule="clocks", effect=CONTRADICTED, reason="the timings last longer than the worker measured")
    if found.worker_ns > found.parent_ns:
        yield Finding(rule="clocks", effect=CONTRADICTED, reason="the worker measured for longer than its parent saw")


def _enough(found: Roofline) -> Iterator[Finding]:
    for p in found.products:
        if len(p.took_ns) < MIN_PRODUCTS:
            yield Finding(rule="samples", effect=UNVERIFIED, reason=f"{len(p.took_ns)} products in {p.precision}")
    for s in found.streams:
        if len(s.took_ns) < MIN_STREAM_SAMPLES:
            yield Finding(rule="samples", effect=UNVERIFIED, reason=f"{len(s.took_ns)} passes of {s.kernel}")
        if s.array_bytes < max(MIN_ARRAY_BYTES, found.cache_bytes or 0):
            yield Finding(
                rule="samples", effect=UNVERIFIED,
                reason=f"arrays of {s.array_bytes / 1e6:.0f} MB may lie in a cache",
            )  # fmt: skip


def index_of_roofline(found: Roofline, digest: str, state: VerdictState) -> ResultIndex:
    """The params, metrics and tags of a run that holds this calibration, with the verdict as it was logged."""
    params = {
        ROOFLINE_DIGEST_PARAM: digest,
        ROOFLINE_ID_PARAM: found.roofline_id,
        "hwbench.roofline_platform": str(found.device.platform),
        "hwbench.roofline_device": found.device.id,
        "hwbench.roofline_device_name": found.device.name,
        "hwbench.roofline_threads": str(found.threads),
    }
    simulated = found.device.emulation_reason
    tags = {
        "hardware": str(found.device.platform),
        "hardware_available": "true",
        "availability_verified": str(found.availability.verified_device(found.device.id) is not None).lower(),
        "is_simulated": str(simulated is not None).lower(),
        "verdict": str(state),
        "hwbench.role": ROOFLINE_ROLE,
        "hwbench.roofline_id": found.roofline_id,
        "hwbench.device_name": found.device.name,
        "hwbench.host": found.host.hostname,
    }
    if simulated is not None:
        tags["simulation_reason"] = simulated
    metrics = {f"peak_tflops_{p.precision}": p.peak_flops_per_s / 1e12 for p in found.products}
    if found.streams:
        metrics["memory_bandwidth_gb_per_s"] = found.bandwidth_bytes_per_s / 1e9
    metrics |= {f"memory_bandwidth_gb_per_s_{s.kernel}": s.median_bytes_per_s / 1e9 for s in found.streams}
    return ResultIndex(params=params, metrics=metrics, tags=tags)


def attainable_flops_per_s(intensity: float, peak: float, bandwidth: float) -> float:
    """The roofline: what a kernel of that arithmetic intensity (FLOP a byte) can reach at most."""
    return min(peak, intensity * bandwidth)


def ridge(peak: float, bandwidth: float) -> float:
    """The arithmetic intensity from which on the peak is the limit."""
    return peak / bandwidth


def _instant(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
