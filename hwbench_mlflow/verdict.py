"""The verdict: what a result's evidence amounts to.

Pure. :func:`judge_result` sees the result and its raw samples and nothing else: no tag, no clock, no
file. Each rule is a small function that yields findings; no finding means the rule is content.
Missing evidence makes a result ``unverified``; evidence that disagrees with itself makes it
``contradicted``; software in the hardware's place makes it ``simulated``. Thresholds stand beside
their reasons. What a verdict cannot exclude is told in docs and in :mod:`.attest`: whoever controls
the machine can forge anything but a second, independent measurement.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache

from hwbench_mlflow.generation import generation_stats
from hwbench_mlflow.model import (
    BenchmarkResult,
    EnergyMethod,
    Finding,
    OutputCheck,
    Platform,
    Precision,
    SampleSet,
    Scenario,
    Verdict,
    VerdictState,
    WorkerRecord,
)
from hwbench_mlflow.scenarios import busy_ns, derive
from hwbench_mlflow.scenarios import findings as scenario_findings
from hwbench_mlflow.stats import median

CONTRADICTED = VerdictState.CONTRADICTED
UNVERIFIED = VerdictState.UNVERIFIED
SIMULATED = VerdictState.SIMULATED

OUTPUT_TOLERANCE = {Precision.FP32: 2e-3, Precision.BF16: 2e-1, Precision.FP16: 3e-2, Precision.INT8: 7.5e-1}
"""Largest difference from the fp32 reference, over the reference's standard deviation. fp32 leaves room
for other summation orders and for fast-math kernels, and is a tenth of what bf16 arithmetic shows. int8 is between
what static quantisation costs (measured, random weights: ResNet-50 0.08, BERT-tiny 0.11, DistilBERT 0.17, BERT 0.26,
GPT-2 0.58) and another input's output (1.4 to 3.2; ResNet-50 with random weights 0.05, which no int8 check can tell).
A model that loses more (ViT, 1.1) is refused before it is measured."""

MIN_CPU_FRACTION = 0.5
"""CPU time (plus time runnable but not running) over wall. Some thread of a computing process is
running or wants to, at every moment: honest values are near 1 or above; a sleep's is near 0."""

MIN_WINDOW_COVER = 0.9
"""The samples' sum over the window. The loop spends about a microsecond between two samples."""

CLOCK_SLACK_NS = 250_000_000
CLOCK_SLACK_FRACTION = 0.02
"""How much longer than the worker's window the parent's may be: two pipe messages and their scheduling,
beside the time that the parent itself waited for a core."""

ROOFLINE_MARGIN = 2.0
"""A calibration on a busy machine can understate the peak; no kernel beats twice a measured GEMM peak."""

SCALING_GROWTH = 1.3
SCALING_FLAT = 1.1
"""Growth of time from the smallest to the largest batch that shows work; below FLAT at 16x the batch
nothing that was timed depends on the work."""

SCALING_SHRUNK = 0.5
"""What ignores its work takes the same time for more of it. Half the time for 16 times the work is neither that
nor possible: something else held the machine while the small batch ran."""

GPU_PLATFORMS = frozenset({Platform.CUDA, Platform.ROCM})

BROWSER_PROVIDERS = {Platform.WEBGPU: "WebGpuExecutionProvider", Platform.WEBNN: "WebNNExecutionProvider"}
"""onnxruntime's names of the providers that compute on these platforms."""

ROCM_OVERRIDE = "HSA_OVERRIDE_GFX_VERSION"
"""Makes AMD's runtime call a GPU another one, and run kernels that were built for that."""

QNN_PROVIDER = "QNNExecutionProvider"
HEXAGON_MACHINES = frozenset({"aarch64", "arm64", "ARM64"})
"""Machines (as ``platform.machine()`` calls them) that can have a Hexagon; on any other it is an emulator."""

Rule = Callable[[BenchmarkResult, SampleSet], Iterator[Finding]]


def judge_result(result: BenchmarkResult, samples: SampleSet) -> Verdict:
    """The verdict that the evidence alone supports, before signatures and before any store."""
    return combine(finding for rule in RULES for finding in rule(result, samples))


def impossible(result: BenchmarkResult) -> tuple[Finding, ...]:
    """What no measurement can say of itself, whoever signed it; with any of it, nothing else means anything.

    Each rule and the index may then divide by these numbers.
    """
    if result.workload.batch_size > 0 and result.model.min_bytes > 0 and all(map(_counts, result.workers)):
        return ()
    counts = {
        "batch size": [result.workload.batch_size],
        "number of bytes": [result.model.min_bytes],
        "number of threads": [w.facts.threads for w in result.workers],
        "number of runs a sample": [w.runs_per_sample for w in result.workers],
        "window": [w.window_ns for w in result.workers],
        "witnessed time": [w.witness.wall_ns for w in result.workers],
        "scaling time": [point.median_ns for w in result.workers for point in w.scaling],
        "scaling batch": [point.batch_size for w in result.workers for point in w.scaling],
    }
    return tuple(
        Finding(rule="shape", effect=CONTRADICTED, reason=f"a {what} of {bad[0]} is none")
        for what, values in counts.items()
        if (bad := [value for value in values if value <= 0])
    )


def _counts(worker: WorkerRecord) -> bool:
    """Whether each number of a worker that :func:`impossible` names is positive."""
    return (
        worker.facts.threads > 0
        and worker.runs_per_sample > 0
        and worker.window_ns > 0
        and worker.witness.wall_ns > 0
        and all(point.median_ns > 0 and point.batch_size > 0 for point in worker.scaling)
    )


def combine(findings: Iterable[Finding]) -> Verdict:
    """One verdict from findings: contradicted over simulated over unverified over verified."""
    order = (CONTRADICTED, SIMULATED, UNVERIFIED)
    ranked = tuple(sorted(findings, key=lambda f: order.index(f.effect)))
    return Verdict(state=ranked[0].effect if ranked else VerdictState.VERIFIED, findings=ranked)


def output_error(check: OutputCheck) -> float | None:
    """Largest difference over the reference's standard deviation; None if it cannot be said
    (nothing compared, a constant reference, a number that is not finite)."""
    if not check.reference or len(check.reference) != len(check.observed):
        return None
    if not all(map(math.isfinite, check.reference + check.observed)):
        return None
    mean = math.fsum(check.reference) / len(check.reference)
    off = [value - mean for value in check.reference]
    spread = math.sqrt(math.fsum(map(operator.mul, off, off)) / len(off))
    if spread == 0.0:
        return None
    worst: float = max(map(abs, map(operator.sub, check.observed, check.reference)))
    return worst / spread


def within_tolerance(check: OutputCheck, tolerance: float) -> bool:
    """True only if :func:`output_error` is at most ``tolerance``, said sooner where that is easy to see.

    The largest difference is at most the differences' Euclidean norm. The sum of the squared deviations from the mean
    is at least half that of the squared differences within disjoint pairs. :func:`math.dist` takes such norms in one
    call. False says nothing: near the tolerance, and for numbers that may not be finite or whose squares leave the
    range of a float, :func:`output_error` decides.
    """
    found, asked = check.observed, check.reference
    if len(asked) < 2 or len(found) != len(asked):
        return False
    off = math.dist(found, asked)
    if not off < _LARGEST_SPREAD:  # also where any number is not finite
        return False
    pairs = len(asked) & ~1
    spread = math.dist(asked[:pairs:2], asked[1:pairs:2]) / math.sqrt(2 * len(asked))  # or more
    return _SMALLEST_SPREAD < spread < _LARGEST_SPREAD and off <= _NORM_MARGIN * tolerance * spread


_SMALLEST_SPREAD, _LARGEST_SPREAD = 1e-100, 1e100
_NORM_MARGIN = 1 - 1e-6
"""Roundings of the two norms are ten orders smaller."""


def _samples_whole(result: BenchmarkResult, samples: SampleSet) -> Iterator[Finding]:
    rule = "samples"
    if samples.result_id != result.result_id:
        yield Finding(rule=rule, effect=CONTRADICTED, reason="the samples belong to another result")
    if not result.workers:
        yield Finding(rule=rule, effect=UNVERIFIED, reason="no worker measured")
    if [w.index for w in result.workers] != [s.index for s in samples.workers]:
        yield Finding(rule=rule, effect=CONTRADICTED, reason="workers and sample sets do not correspond")
        return
    for worker, raw in zip(result.workers, samples.workers, strict=True):
        if worker.sample_count != len(raw.samples_ns) or worker.warmup_count != len(raw.warmup_ns):
            yield Finding(
                rule=rule, effect=CONTRADICTED, reason=f"worker {worker.index} took another number of samples"
            )
        if min(raw.samples_ns, default=1) <= 0:
            yield Finding(rule=rule, effect=CONTRADICTED, reason=f"worker {worker.index} has a sample of no duration")
        if len(raw.samples_ns) > 10 and len(set(raw.samples_ns)) == 1:
            yield Finding(rule=rule, effect=CONTRADICTED, reason="every sample is the same to the nanosecond")
    total = sum(len(raw.samples_ns) for raw in samples.workers)
    if total < result.request.profile.min_samples:
        yield Finding(
            rule=rule,
            effect=UNVERIFIED,
            reason=f"{total} samples; profile {result.request.profile.name} needs {result.request.profile.min_samples}",
        )
    if len(result.workers) < result.request.profile.workers:
        yield Finding(rule=rule, effect=UNVERIFIED, reason="fewer workers than the profile needs")


def _aggregates_recompute(result: BenchmarkResult, samples: SampleSet) -> Iterator[Finding]:
    try:
        derived = derive(result.workload, result.workers, samples.workers, result.conditions)
    except (ValueError, ZeroDivisionError) as error:
        yield Finding(rule="aggregates", effect=CONTRADICTED, reason=f"the statistics cannot be recomputed: {error}")
        return
    if derived != result.aggregates:
        yield Finding(rule="aggregates", effect=CONTRADICTED, reason="the statistics are not those of the raw samples")


def _generation_recomputes(result: BenchmarkResult, samples: SampleSet) -> Iterator[Finding]:
    rule = "generation"
    try:
        derived = generation_stats(
            result.workload, [raw.samples_ns for raw in samples.workers], [raw.token_ns for raw in samples.workers]
        )
    except ValueError as error:
        yield Finding(
            rule=rule, effect=CONTRADICTED, reason=f"the tokens' times are not those of a generation: {error}"
        )
        return
    if derived != result.generation:
        yield Finding(rule=rule, effect=CONTRADICTED, reason="the tokens' statistics are not those of the raw samples")


def _device_as_asked(result: BenchmarkResult, _: SampleSet) -> Iterator[Finding]:
    rule, asked = "device", result.request
    if result.device.platform is not asked.platform:
        yield Finding(
            rule=rule, effect=CONTRADICTED, reason=f"{asked.platform} was asked, {result.device.platform} ran"
        )
    if asked.device is not None and asked.device != result.device.id:
        yield Finding(rule=rule, effect=CONTRADICTED, reason=f"{asked.device} was asked, {result.device.id} ran")
    for worker in result.workers:
        if worker.facts.device.id != result.device.id or worker.facts.device.uuid != result.device.uuid:
            yield Finding(
                rule=rule,
                effect=CONTRADICTED,
                reason=f"worker {worker.index} ran on {worker.facts.device.id} ({worker.facts.device.name})",
            )


def _workload_as_asked(result: BenchmarkResult, _: SampleSet) -> Iterator[Finding]:
    asked, ran = result.request.workload, result.workload
    names = (
        "model", "batch_size", "sequence_length", "image_size", "precision", "scenario", "compile_mode",
        "latency_bound_ms", "latency_percentile", "query_size", "audio_seconds", "output_tokens", "phase", "kv_cache",
    )  # fmt: skip
    for name in names:
        wanted, got = getattr(asked, name), getattr(ran, name)
        if wanted is not None and wanted != got:
            yield Finding(rule="workload", effect=CONTRADICTED, reason=f"{name} {wanted} was asked, {got} ran")


def _availability_verified(result: BenchmarkResult, _: SampleSet) -> Iterator[Finding]:
    rule, probe = "availability", result.availability
    if probe.platform is not result.request.platform:
        yield Finding(rule=rule, effect=CONTRADICTED, reason="the probe is of another platform")
    listed = next((d for d in probe.devices if d.id == result.device.id), None)
    if listed is None:
        yield Finding(rule=rule, effect=CONTRADICTED, reason=f"the probe did not see {result.device.id}")
        return
    if probe.verified_device(result.device.id) is None:
        yield Finding(rule=rule, effect=UNVERIFIED, reason=f"no operation was checked on {result.device.id}")
    if (listed.uuid, listed.name) != (result.device.uuid, result.device.name):
        yield Finding(rule=rule, effect=CONTRADICTED, reason="the probe identified another device under that id")
    for check in probe.checks:
        wrong = check.max_abs_error is None or check.tolerance is None or not check.max_abs_error <= check.tolerance
        if check.passed and wrong:
            yield Finding(rule=rule, effect=CONTRADICTED, reason="a probe's check passed with an output that is wrong")
    if probe.boot_id != result.host.boot_id:
        yield Finding(rule=rule, effect=UNVERIFIED, reason="the probe is from before a reboot, or another machine")
    started, probed, finished = map(_instant, (result.started_at, probe.started_at, result.finished_at))
    if started is None or probed is None or finished is None:
        yield Finding(rule=rule, effect=UNVERIFIED, reason="the times of the run or of its probe cannot be read")
    elif not started <= probed <= finished:
        yield Finding(rule=rule, effect=UNVERIFIED, reason="the probe was not made in this run")


def _precision_as_asked(result: BenchmarkResult, _: SampleSet) -> Iterator[Finding]:
    rule, asked = "precision", result.request.workload.precision
    for ran in {result.effective_precision, *(w.facts.effective_precision for w in result.workers)}:
        if ran is not asked:
            yield Finding(rule=rule, effect=CONTRADICTED, reason=f"{asked} was asked, {ran} ran")


def _outputs_match(result: BenchmarkResult, _: SampleSet) -> Iterator[Finding]:
    rule = "outputs"
    nonces = [w.nonce for w in result.workers]
    if len(set(nonces)) != len(nonces) or not all(nonces):
        yield Finding(rule=rule, effect=CONTRADICTED, reason="two workers were challenged with the same nonce")
    for worker in result.workers:
        for phase in ("timed", "after"):
            checks = [c for c in worker.outputs if c.phase == phase]
            if not checks:
                yield Finding(rule=rule, effect=UNVERIFIED, reason=f"no output of phase {phase!r} was checked")
                continue
            yield from _phase_matches(rule, phase, checks, worker.nonce, OUTPUT_TOLERANCE[result.effective_precision])


def _phase_matches(
    rule: str, phase: str, checks: Sequence[OutputCheck], nonce: str, tolerance: float
) -> Iterator[Finding]:
    if any((c.nonce == nonce) is not (phase == "timed") for c in checks):
        yield Finding(rule=rule, effect=CONTRADICTED, reason=f"phase {phase!r} answered another challenge")
    errors = [output_error(c) for c in checks if not within_tolerance(c, tolerance)]
    if errors:
        if any(e is None for e in errors):
            yield Finding(rule=rule, effect=UNVERIFIED, reason=f"outputs of phase {phase!r} cannot be compared")
        worst = max((e for e in errors if e is not None), default=0.0)
        if worst > tolerance:
            yield Finding(
                rule=rule,
                effect=CONTRADICTED,
                reason=f"outputs of phase {phase!r} are {worst:.2g} standard deviations off the reference "
                f"(tolerance {tolerance:g}): wrong, cached, or of other inputs",
            )
    if len({c.inputs_sha256 for c in checks}) != len(checks):
        yield Finding(rule=rule, effect=CONTRADICTED, reason=f"inputs of phase {phase!r} repeat")


def _two_clocks(result: BenchmarkResult, samples: SampleSet) -> Iterator[Finding]:
    rule = "clocks"
    for worker, raw in zip(result.workers, samples.workers, strict=False):
        timed, parent = sum(busy_ns(raw)), worker.parent
        seen = _parent_window_ns(worker)
        if timed > worker.window_ns:
            yield Finding(rule=rule, effect=CONTRADICTED, reason="the samples last longer than the window they are of")
        elif timed < MIN_WINDOW_COVER * worker.window_ns and result.workload.scenario is not Scenario.SERVER:
            # Between arrivals a server has nothing to do; that no query is missing its schedule says.
            yield Finding(
                rule=rule,
                effect=CONTRADICTED,
                reason=f"the samples cover {timed / worker.window_ns:.0%} of the worker's window: some are missing",
            )
        if worker.window_ns > seen or parent.window_end_ns > parent.exited_ns:
            yield Finding(rule=rule, effect=CONTRADICTED, reason="the worker's window is longer than the parent saw")
        excess = seen - worker.window_ns - CLOCK_SLACK_NS - (parent.run_delay_ns or 0)
        if excess > 0.5 * worker.window_ns:
            yield Finding(
                rule=rule,
                effect=CONTRADICTED,
                reason=f"the worker claims {worker.window_ns / 1e9:.2f} s; its parent saw {seen / 1e9:.2f} s",
            )
        elif excess > CLOCK_SLACK_FRACTION * worker.window_ns:
            yield Finding(rule=rule, effect=UNVERIFIED, reason="the parent's clock does not confirm the worker's")
        if worker.witness.wall_ns > seen:
            yield Finding(rule=rule, effect=CONTRADICTED, reason="the witness covers more time than the parent saw")


def _wall_clock_steady(result: BenchmarkResult, _: SampleSet) -> Iterator[Finding]:
    started, finished = _instant(result.started_at), _instant(result.finished_at)
    if started is None or finished is None:
        yield Finding(rule="wall-clock", effect=UNVERIFIED, reason="start or end cannot be read")
        return
    wall, steady = (finished - started).total_seconds(), result.monotonic_ns / 1e9
    if abs(wall - steady) > 5 + 0.01 * steady:
        yield Finding(
            rule="wall-clock",
            effect=UNVERIFIED,
            reason=f"the wall clock moved {wall:.1f} s while {steady:.1f} s went by: it was set",
        )
    longest = sum(_parent_window_ns(worker) for worker in result.workers)
    if longest > result.monotonic_ns:
        yield Finding(rule="wall-clock", effect=CONTRADICTED, reason="the windows are longer than the run")


def _cpu_witness(result: BenchmarkResult, samples: SampleSet) -> Iterator[Finding]:
    rule = "execution"
    for worker in result.workers:
        seen, limit = worker.witness, worker.parent.cpu_ns
        if limit is None:
            yield Finding(rule=rule, effect=UNVERIFIED, reason="the parent could not account the worker's CPU time")
        elif seen.process_cpu_ns > limit:
            yield Finding(rule=rule, effect=CONTRADICTED, reason="the worker claims more CPU time than it was given")
        if not _on_host_cpu(result):
            continue
        used = seen.process_cpu_ns
        if result.request.platform is Platform.WEBNN:
            if seen.helper_cpu_ns is None:
                yield Finding(rule=rule, effect=UNVERIFIED, reason="the browser's CPU time was not read")
                continue
            used += seen.helper_cpu_ns
        if result.workload.scenario is Scenario.SERVER:
            yield from _computed_while_busy(worker, samples)
        elif (busy := (used + (seen.run_delay_ns or 0)) / seen.wall_ns if seen.wall_ns > 0 else 0.0) < MIN_CPU_FRACTION:
            yield Finding(
                rule=rule,
                effect=CONTRADICTED,
                reason=f"the worker used the CPU {busy:.0%} of the window: it waited instead of computing",
            )
        if used > 1.05 * seen.wall_ns * result.host.cpu_count_logical + CLOCK_SLACK_NS:
            yield Finding(rule=rule, effect=CONTRADICTED, reason="more CPU time than the machine has")


def _computed_while_busy(worker: WorkerRecord, samples: SampleSet) -> Iterator[Finding]:
    """A server may idle between arrivals, so only the time in which queries ran is held against the CPU's.

    How long threads waited for a core is known of the whole window only, and is counted as if all of it fell into
    queries: a thread that sleeps does not wait for one.
    """
    rule, seen = "execution", worker.witness
    busy_wall = sum(ns for raw in samples.workers if raw.index == worker.index for ns in busy_ns(raw))
    if seen.busy_cpu_ns is None or busy_wall <= 0:
        yield Finding(rule=rule, effect=UNVERIFIED, reason="the CPU time of the queries was not read")
        return
    if seen.busy_cpu_ns > seen.process_cpu_ns:
        yield Finding(rule=rule, effect=CONTRADICTED, reason="the queries used more CPU time than the worker")
    busy = (seen.busy_cpu_ns + (seen.run_delay_ns or 0)) / busy_wall
    if busy < MIN_CPU_FRACTION:
        yield Finding(
            rule=rule,
            effect=CONTRADICTED,
            reason=f"the worker used the CPU {busy:.0%} of the time that queries ran: it waited instead of computing",
        )


def _gpu_witness(result: BenchmarkResult, _: SampleSet) -> Iterator[Finding]:
    if result.request.platform not in GPU_PLATFORMS:
        return
    rule = "execution"
    for worker in result.workers:
        seen = worker.witness
        if seen.kernel_count is None:
            yield Finding(rule=rule, effect=UNVERIFIED, reason="no profiled pass saw the device's kernels")
        elif seen.kernel_count == 0 or not seen.kernel_busy_ns:
            yield Finding(
                rule=rule, effect=CONTRADICTED, reason="the device ran no kernel: the work was done elsewhere"
            )
        elif seen.kernel_wall_ns is None or seen.kernel_busy_ns > seen.kernel_wall_ns:
            yield Finding(rule=rule, effect=UNVERIFIED, reason="kernel time is not bounded by the profiled pass")
        if seen.pid_on_device is False:
            yield Finding(rule=rule, effect=CONTRADICTED, reason="the worker is not among the device's processes")
        if result.device.uuid is None or seen.device_identity is None:
            yield Finding(rule=rule, effect=UNVERIFIED, reason="the device's identity was not read back")
        elif seen.device_identity != result.device.uuid:
            yield Finding(
                rule=rule, effect=CONTRADICTED, reason=f"{seen.device_identity} ran, not {result.device.uuid}"
            )
        if seen.event_window_ns is None:
            yield Finding(rule=rule, effect=UNVERIFIED, reason="no device event brackets the window")
        elif seen.event_window_ns > _parent_window_ns(worker) + CLOCK_SLACK_NS:
            yield Finding(rule=rule, effect=CONTRADICTED, reason="the device's events last longer than the parent saw")
        moved = [v for v in (seen.energy_j, seen.utilization_max) if v is not None]
        if not moved:
            yield Finding(rule=rule, effect=UNVERIFIED, reason="neither energy nor utilisation of the device was read")
        elif max(moved) <= 0:
            yield Finding(rule=rule, effect=CONTRADICTED, reason="the device used no energy and was never busy")


def _own_name(result: BenchmarkResult, _: SampleSet) -> Iterator[Finding]:
    if ROCM_OVERRIDE in result.device.details:
        reason = f"{ROCM_OVERRIDE} is set: the GPU's name is not its own"
        yield Finding(rule="device", effect=UNVERIFIED, reason=reason)


def _mps_witness(result: BenchmarkResult, _: SampleSet) -> Iterator[Finding]:
    if result.request.platform is not Platform.MPS:
        return
    for worker in result.workers:
        if not worker.witness.device_memory_peak_bytes:
            yield Finding(rule="execution", effect=UNVERIFIED, reason="no memory was allocated on the device")


def _openvino_witness(result: BenchmarkResult, _: SampleSet) -> Iterator[Finding]:
    if result.request.platform is not Platform.OPENVINO:
        return
    rule = "execution"
    for worker in result.workers:
        seen = worker.witness
        if not seen.execution_devices:
            yield Finding(rule=rule, effect=UNVERIFIED, reason="EXECUTION_DEVICES was not read")
        elif set(seen.execution_devices) != {result.device.id}:
            yield Finding(rule=rule, effect=CONTRADICTED, reason=f"executed on {', '.join(seen.execution_devices)}")
        if not seen.executed_node_types:
            yield Finding(rule=rule, effect=UNVERIFIED, reason="the executed graph was not read")


def _browser_witness(result: BenchmarkResult, _: SampleSet) -> Iterator[Finding]:
    platform = result.request.platform
    if platform not in BROWSER_PROVIDERS:
        return
    rule, own = "execution", BROWSER_PROVIDERS[platform]
    if platform is Platform.WEBNN and result.device.id != "cpu":
        yield Finding(rule=rule, effect=UNVERIFIED, reason=f"WebNN does not say where {result.device.id} computes")
    for worker in result.workers:
        seen = worker.witness
        yield from _placed_wholly(rule, seen.placement, own)
        if seen.kernel_count is None:
            yield Finding(rule=rule, effect=UNVERIFIED, reason="the page's calls to the device were not counted")
        elif seen.kernel_count == 0:
            yield Finding(rule=rule, effect=CONTRADICTED, reason="the page gave the device nothing to do")
        if seen.device_identity != result.device.name:
            yield Finding(
                rule=rule, effect=CONTRADICTED, reason=f"{seen.device_identity} ran, not {result.device.name}"
            )
        if platform is not Platform.WEBGPU:
            continue
        if seen.kernel_busy_ns is None or seen.kernel_wall_ns is None:
            yield Finding(rule=rule, effect=UNVERIFIED, reason="the device's time stamps were not read")
        elif not 0 < seen.kernel_busy_ns <= seen.kernel_wall_ns:
            yield Finding(rule=rule, effect=UNVERIFIED, reason="the device's time is not within that of the pass")


def _placed_wholly(rule: str, placement: Mapping[str, int], own: str) -> Iterator[Finding]:
    """Every node of the model on the one provider that computes on the device."""
    elsewhere = sum(count for provider, count in placement.items() if provider != own)
    if not placement:
        yield Finding(rule=rule, effect=UNVERIFIED, reason="where the model's nodes were placed was not read")
    elif not placement.get(own):
        yield Finding(rule=rule, effect=CONTRADICTED, reason=f"no node was placed on {own}")
    elif elsewhere:
        yield Finding(rule=rule, effect=CONTRADICTED, reason=f"{elsewhere} nodes were not placed on {own}")


def _qnn_witness(result: BenchmarkResult, _: SampleSet) -> Iterator[Finding]:
    if result.request.platform is not Platform.QNN:
        return
    rule = "execution"
    if result.device.emulation_reason is None and result.host.machine not in HEXAGON_MACHINES:
        yield Finding(rule=rule, effect=CONTRADICTED, reason=f"no {result.host.machine} machine has a Hexagon")
    for worker in result.workers:
        seen = worker.witness
        yield from _placed_wholly(rule, seen.placement, QNN_PROVIDER)
        if seen.device_identity != result.device.name:
            yield Finding(
                rule=rule, effect=CONTRADICTED, reason=f"{seen.device_identity} ran, not {result.device.name}"
            )
        products = sum(seen.executed_precisions.values())
        if result.effective_precision is Precision.INT8 and seen.executed_precisions.get("int8", 0) < products:
            yield Finding(rule=rule, effect=CONTRADICTED, reason="not all products are quantised")
        if not products:
            yield Finding(rule=rule, effect=UNVERIFIED, reason="what the products compute in was not read")


def _roofline_floor(result: BenchmarkResult, samples: SampleSet) -> Iterator[Finding]:
    rule, peak = "roofline", result.calibration
    if peak is None or not math.isfinite(peak.peak_flops_per_s) or peak.peak_flops_per_s <= 0:
        yield Finding(rule=rule, effect=UNVERIFIED, reason="the device's peak was not measured")
        return
    if (peak.device_id, peak.device_uuid) != (result.device.id, result.device.uuid):
        yield Finding(rule=rule, effect=UNVERIFIED, reason="the peak is of another device")
    if peak.precision is not result.effective_precision:
        yield Finding(rule=rule, effect=UNVERIFIED, reason="the peak is of another precision")
    if result.model.flops <= 0:
        yield Finding(rule=rule, effect=UNVERIFIED, reason="the model's operations were not counted")
        return
    floor_ns = result.model.flops / (ROOFLINE_MARGIN * peak.peak_flops_per_s) * 1e9
    for worker, raw in zip(result.workers, samples.workers, strict=False):
        fastest_ns = min(busy_ns(raw), default=math.inf) / worker.runs_per_sample
        if fastest_ns < floor_ns:
            yield Finding(
                rule=rule,
                effect=CONTRADICTED,
                reason=f"{fastest_ns / 1e6:.3g} ms for {result.model.flops / 1e9:.3g} "
                f"GFLOP is faster than {ROOFLINE_MARGIN:g} times the device's peak of "
                f"{peak.peak_flops_per_s / 1e9:.3g} GFLOP/s",
            )


def _scales_with_work(result: BenchmarkResult, samples: SampleSet) -> Iterator[Finding]:
    rule = "scaling"
    probed = [w for w in result.workers if len(w.scaling) > 1]
    if not probed:
        yield Finding(rule=rule, effect=UNVERIFIED, reason="time was not measured at another batch size")
    for worker in probed:
        first, last = worker.scaling[0], worker.scaling[-1]
        growth, work = last.median_ns / first.median_ns, last.batch_size / first.batch_size
        # Another program can only slow a point down, so the fastest of the smaller ones says most.
        flat = last.median_ns / min(point.median_ns for point in worker.scaling[:-1])
        if work >= 16 and growth < SCALING_FLAT and SCALING_SHRUNK <= flat < SCALING_FLAT:
            yield Finding(
                rule=rule, effect=CONTRADICTED, reason=f"{work:g} times the batch took {growth:.2f} times as long"
            )
        elif growth < SCALING_GROWTH:
            yield Finding(
                rule=rule, effect=UNVERIFIED, reason=f"{work:g} times the batch took only {growth:.2f} times as long"
            )
        yield from _probe_is_of_the_window(worker, samples)


def _probe_is_of_the_window(worker: WorkerRecord, samples: SampleSet) -> Iterator[Finding]:
    raw = next((s for s in samples.workers if s.index == worker.index), None)
    if raw is None or not raw.samples_ns:
        return
    measured = median(busy_ns(raw)) / worker.runs_per_sample
    # An asynchronous window overlaps runs that the probe takes one by one, so only the probe may be slower.
    if worker.scaling[0].median_ns < measured / 3:
        yield Finding(
            rule="scaling", effect=UNVERIFIED, reason="the scaling probe ran three times faster than the window"
        )
    if worker.runs_per_sample == 1 and worker.scaling[0].median_ns > measured * 3:
        yield Finding(
            rule="scaling", effect=UNVERIFIED, reason="the window ran three times faster than the scaling probe"
        )


def _simulation_is_said(result: BenchmarkResult, _: SampleSet) -> Iterator[Finding]:
    rule = "simulation"
    devices = (result.device, *(w.facts.device for w in result.workers))
    emulated = [d.emulation_reason for d in devices if d.emulation_reason]
    if result.is_simulated is not bool(emulated):
        says = "simulated" if result.is_simulated else "real"
        yield Finding(rule=rule, effect=CONTRADICTED, reason=f"called {says}; the device's evidence says otherwise")
    if bool(result.simulation_reason) is not result.is_simulated:
        yield Finding(rule=rule, effect=CONTRADICTED, reason="is_simulated and its reason do not go together")
    for reason in dict.fromkeys(emulated):
        yield Finding(rule=rule, effect=SIMULATED, reason=reason)


def _energy_is_as_said(result: BenchmarkResult, _: SampleSet) -> Iterator[Finding]:
    energy = result.energy
    if energy is None:
        return
    if energy.joules <= 0 or not math.isfinite(energy.joules):
        yield Finding(rule="energy", effect=CONTRADICTED, reason=f"{energy.joules:g} J is no energy of a computation")
    if energy.method is EnergyMethod.COUNTER and result.request.platform in GPU_PLATFORMS:
        counted = [w.witness.energy_j for w in result.workers]
        if (
            any(joules is None for joules in counted)
            or abs(sum(j for j in counted if j is not None) - energy.joules) > 1e-6 * energy.joules
        ):
            yield Finding(rule="energy", effect=CONTRADICTED, reason="no counter read what is reported as counted")


def _parent_window_ns(worker: WorkerRecord) -> int:
    return worker.parent.window_end_ns - worker.parent.window_begin_ns


def _on_host_cpu(result: BenchmarkResult) -> bool:
    return result.request.platform is Platform.CPU or (result.request.platform, result.device.id) in (
        (Platform.OPENVINO, "CPU"),
        (Platform.WEBNN, "cpu"),
    )


@lru_cache(maxsize=64)
def _instant(text: str) -> datetime | None:
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        return None
    return value if value.tzinfo is not None else None


RULES: tuple[Rule, ...] = (
    _samples_whole,
    _aggregates_recompute,
    _generation_recomputes,
    _device_as_asked,
    _workload_as_asked,
    scenario_findings,
    _availability_verified,
    _precision_as_asked,
    _outputs_match,
    _two_clocks,
    _wall_clock_steady,
    _cpu_witness,
    _gpu_witness,
    _own_name,
    _mps_witness,
    _openvino_witness,
    _browser_witness,
    _qnn_witness,
    _roofline_floor,
    _scales_with_work,
    _simulation_is_said,
    _energy_is_as_said,
)
