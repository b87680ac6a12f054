"""A result that an honest run could have made, built by hand: the start of every forgery.

Its numbers were never measured; it lives in tests only, and each of its hosts is called
``made-by-a-test``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from hwbench_mlflow.codec import encode, sha256
from hwbench_mlflow.generation import generation_stats
from hwbench_mlflow.model import (
    DEFAULT_PRECISION,
    PROFILES,
    SCHEMA_VERSION,
    Availability,
    AvailabilityStatus,
    BenchmarkResult,
    Calibration,
    Conditions,
    Device,
    DeviceCheck,
    Energy,
    EnergyMethod,
    ExecutionWitness,
    HostInfo,
    ModelInfo,
    OutputCheck,
    ParentClock,
    Phase,
    Platform,
    Precision,
    RateTrial,
    RunRequest,
    SampleSet,
    ScalingPoint,
    Scenario,
    ServerWindow,
    SessionFacts,
    WeightsSource,
    WorkerRecord,
    WorkerSamples,
    Workload,
)
from hwbench_mlflow.scenarios import (
    bracket,
    derive,
    next_rate,
    planned_queries,
    quota,
    schedule,
    trial_queries,
)

MS = 1_000_000
SECOND = 1_000_000_000
BOOT = "11111111-2222-3333-4444-555555555555"
SAMPLES = tuple(10 * MS + (index * 7919 % 1000) * 100 for index in range(1000))
WINDOW_NS = sum(SAMPLES) + 2 * MS

DEVICES = {
    Platform.CPU: Device(platform=Platform.CPU, id="cpu", name="Test CPU", vendor="Test"),
    Platform.CUDA: Device(platform=Platform.CUDA, id="cuda:0", name="Test GPU", vendor="NVIDIA", uuid="GPU-1"),
    Platform.OPENVINO: Device(platform=Platform.OPENVINO, id="CPU", name="Test CPU", vendor="Test"),
    Platform.MPS: Device(platform=Platform.MPS, id="mps", name="Test Apple GPU", vendor="Apple"),
    Platform.QNN: Device(platform=Platform.QNN, id="htp", name="Test Hexagon", vendor="Qualcomm"),
    Platform.WEBGPU: Device(platform=Platform.WEBGPU, id="adapter", name="test adapter", vendor="test"),
    Platform.WEBNN: Device(platform=Platform.WEBNN, id="cpu", name="Test CPU", vendor="Test"),
}


def witness(platform: Platform) -> ExecutionWitness:  # noqa: PLR0911  # one return a platform
    base = ExecutionWitness(wall_ns=WINDOW_NS, process_cpu_ns=round(1.9 * WINDOW_NS), threads=2, run_delay_ns=0)
    if platform is Platform.CUDA:
        return dataclasses.replace(
            base, kernel_count=90, kernel_busy_ns=20 * MS, kernel_wall_ns=30 * MS, event_window_ns=WINDOW_NS,
            pid_on_device=True, energy_j=700.0, utilization_max=0.9, device_identity="GPU-1",
        )  # fmt: skip
    if platform is Platform.OPENVINO:
        return dataclasses.replace(base, execution_devices=("CPU",), executed_node_types={"FullyConnected": 12})
    if platform is Platform.WEBGPU:
        return dataclasses.replace(
            base, process_cpu_ns=WINDOW_NS // 100, helper_cpu_ns=WINDOW_NS // 10, kernel_count=34,
            kernel_busy_ns=8 * MS, kernel_wall_ns=11 * MS, device_identity="test adapter",
            placement={"WebGpuExecutionProvider": 53},
        )  # fmt: skip
    if platform is Platform.WEBNN:
        return dataclasses.replace(
            base, process_cpu_ns=WINDOW_NS // 100, helper_cpu_ns=round(1.9 * WINDOW_NS), kernel_count=1,
            device_identity="Test CPU", placement={"WebNNExecutionProvider": 1},
        )  # fmt: skip
    if platform is Platform.QNN:
        return dataclasses.replace(
            base, process_cpu_ns=WINDOW_NS // 100, kernel_count=1, device_identity="Test Hexagon",
            placement={"QNNExecutionProvider": 1}, executed_precisions={"fp16": 17},
        )  # fmt: skip
    if platform is Platform.MPS:
        return dataclasses.replace(base, device_memory_peak_bytes=10_000_000)
    return base


def output(nonce: str, slot: int, phase: str) -> OutputCheck:
    values = tuple(((index * 37 + slot * 11 + len(phase)) % 64) / 32 - 1 for index in range(64))
    return OutputCheck(
        nonce=nonce, slot=slot, phase=phase, inputs_sha256=sha256(f"{nonce}{slot}".encode()),
        observed_sha256="0" * 64, observed=values, reference=values, elements=4096,
    )  # fmt: skip


def honest(platform: Platform = Platform.CPU) -> tuple[BenchmarkResult, SampleSet]:
    """A ``quick`` run of one worker on that platform. Its verdict is ``verified``."""
    device = DEVICES[platform]
    precision = DEFAULT_PRECISION.get(platform, Precision.FP32)
    workload = Workload(model="bert-tiny", sequence_length=128, precision=precision)
    samples = SampleSet(
        schema_version=SCHEMA_VERSION,
        result_id="ab" * 16,
        workers=(WorkerSamples(index=0, warmup_ns=(12 * MS,) * 9, samples_ns=SAMPLES),),
    )
    conditions = Conditions(load_before=0.1, load_after=0.2, steal_fraction=0.0, foreign_cpu_fraction=0.01)
    facts = SessionFacts(device=device, effective_precision=precision, threads=2, load_ns=5 * MS, compile_ns=None)
    worker = WorkerRecord(
        index=0, pid=4242, nonce="aa" * 16, facts=facts, import_ns=2 * SECOND, first_inference_ns=20 * MS,
        warmup_count=9, warmup_flat=True, sample_count=len(SAMPLES), runs_per_sample=1, window_ns=WINDOW_NS,
        witness=witness(platform),
        outputs=(*(output("aa" * 16, slot, "timed") for slot in range(4)), output("bb" * 16, 0, "after")),
        parent=ParentClock(
            window_begin_ns=5 * SECOND, window_end_ns=5 * SECOND + WINDOW_NS + MS,
            exited_ns=9 * SECOND + WINDOW_NS, cpu_ns=3 * WINDOW_NS, max_rss_bytes=500_000_000,
        ),
        scaling=(
            ScalingPoint(batch_size=1, median_ns=10 * MS, samples=5),
            ScalingPoint(batch_size=4, median_ns=35 * MS, samples=5),
        ),
    )  # fmt: skip
    result = BenchmarkResult(
        schema_version=SCHEMA_VERSION,
        result_id=samples.result_id,
        hwbench_version="0.1.0",
        started_at="2026-11-01T10:00:00+00:00",
        finished_at="2026-11-01T10:00:30+00:00",
        monotonic_ns=30 * SECOND,
        request=RunRequest(
            platform=platform, device=None, workload=Workload(model="bert-tiny", precision=precision),
            profile=PROFILES["quick"], threads=None, backend="tests:none",
        ),
        availability=Availability(
            platform=platform, status=AvailabilityStatus.AVAILABLE, reason="it computed", devices=(device,),
            checks=(
                DeviceCheck(
                    device_id=device.id, operation="product", passed=True, reason="equal", max_abs_error=0.0,
                    tolerance=0.0, identity=device.name,
                ),
            ),
            probe_id="cd" * 16, started_at="2026-11-01T10:00:01+00:00", duration_ns=SECOND, boot_id=BOOT,
        ),
        device=device,
        model=ModelInfo(
            name="bert-tiny", architecture="BertModel", task="feature-extraction", source="test",
            config_sha256="0" * 64, parameters=4_400_000, flops=100_000_000, min_bytes=18_000_000,
            weight_bytes=17_600_000, weights_source=WeightsSource.RANDOM, weights_sha256="1" * 64,
        ),
        workload=workload,
        effective_precision=precision,
        host=HostInfo(
            hostname="made-by-a-test", host_id="test", os="Linux", kernel="6",
            machine="aarch64" if platform is Platform.QNN else "x86_64", cpu_name="Test CPU",
            cpu_count_logical=2, cpu_count_physical=2, memory_bytes=16_000_000_000, boot_id=BOOT, virtualization=None,
            python="3.11", packages={}, git_commit=None, git_dirty=None,
        ),
        workers=(worker,),
        conditions=conditions,
        aggregates=derive(workload, [worker], samples.workers, conditions),
        samples_sha256=sha256(encode(samples)),
        is_simulated=False,
        simulation_reason=None,
        calibration=Calibration(
            device_id=device.id, device_uuid=device.uuid, precision=precision, peak_flops_per_s=1e11,
            source="measured", dim=1024, repeats=9,
        ),
        energy=Energy(joules=700.0, method=EnergyMethod.COUNTER, scope="device GPU-1")
        if platform is Platform.CUDA
        else None,
    )  # fmt: skip
    return result, samples


def honest_multistream(platform: Platform = Platform.CPU) -> tuple[BenchmarkResult, SampleSet]:
    """The same run, a sample of which was a query of 8 in four batches of two."""
    result, samples = honest(platform)
    changes = {"scenario": Scenario.MULTISTREAM, "batch_size": 2, "query_size": 8}
    worker = dataclasses.replace(
        result.workers[0], runs_per_sample=4,
        scaling=(
            ScalingPoint(batch_size=2, median_ns=3 * MS, samples=5),
            ScalingPoint(batch_size=8, median_ns=11 * MS, samples=5),
        ),
    )  # fmt: skip
    return resealed(asked(dataclasses.replace(result, workers=(worker,)), **changes), samples), samples


def honest_server(platform: Platform = Platform.CPU, bound_ms: float = 60.0) -> tuple[BenchmarkResult, SampleSet]:
    """A server whose every query took 10.0 to 10.1 ms, found by a search at a third of its capacity."""
    result, samples = honest(platform)
    result = asked(result, scenario=Scenario.SERVER, latency_bound_ms=bound_ms, latency_percentile=99)
    profile, nonce = result.request.profile, result.workers[0].nonce
    held, trials = list[bool](), list[RateTrial]()
    while (rate := next_rate(99.0, held)) is not None:
        queries = trial_queries(profile, rate)
        held.append(rate < 40)
        late = 0 if held[-1] else quota(queries, 99) + 1
        trials.append(
            RateTrial(rate_per_s=rate, queries=queries, finished=queries, late=late, tail_ms=30.0, held=held[-1])
        )
    rate = bracket(99.0, held)[0]
    arrivals = schedule(nonce, 0, rate, planned_queries(profile, rate, 99))
    server = ServerWindow(rate_per_s=rate, capacity_per_s=99.0, trials=tuple(trials))
    return served(result, samples, server, arrivals, lambda n: 10 * MS + n * 7919 % 1000 * 100)


def asked(result: BenchmarkResult, **changes: object) -> BenchmarkResult:
    """Another workload, asked for and run."""
    return dataclasses.replace(
        result,
        workload=dataclasses.replace(result.workload, **changes),  # type: ignore[arg-type]
        request=dataclasses.replace(
            result.request,
            workload=dataclasses.replace(result.request.workload, **changes),  # type: ignore[arg-type]
        ),
    )


def served(
    result: BenchmarkResult,
    samples: SampleSet,
    server: ServerWindow,
    arrivals: tuple[int, ...],
    service_ns: Callable[[int], int],
) -> tuple[BenchmarkResult, SampleSet]:
    """What a server makes of arrivals, one query at a time, each taking what ``service_ns`` says of its number."""
    starts, ends, end = list[int](), list[int](), 0
    for number, arrival in enumerate(arrivals):
        starts.append(max(arrival, end) + 20_000)
        end = starts[-1] + service_ns(number)
        ends.append(end)
    latencies = tuple(e - a for a, e in zip(arrivals, ends, strict=True))
    raw = dataclasses.replace(
        samples.workers[0], samples_ns=latencies, arrivals_ns=arrivals, starts_ns=tuple(starts), ends_ns=tuple(ends)
    )
    busy, window = sum(ends) - sum(starts), end + MS
    worker = result.workers[0]
    worker = dataclasses.replace(
        worker, sample_count=len(arrivals), window_ns=window, server=server,
        witness=dataclasses.replace(
            worker.witness, wall_ns=window, process_cpu_ns=round(2.1 * busy), busy_cpu_ns=round(1.9 * busy)
        ),
        parent=dataclasses.replace(
            worker.parent, window_end_ns=worker.parent.window_begin_ns + window + MS,
            exited_ns=9 * SECOND + window, cpu_ns=4 * busy,
        ),
    )  # fmt: skip
    samples = dataclasses.replace(samples, workers=(raw,))
    result = dataclasses.replace(
        result, workers=(worker,), monotonic_ns=window + 20 * SECOND,
        finished_at=(
            datetime.fromisoformat(result.started_at) + timedelta(microseconds=window / 1000 + 2e7)
        ).isoformat(),
    )  # fmt: skip
    return resealed(result, samples), samples


def resealed(result: BenchmarkResult, samples: SampleSet) -> BenchmarkResult:
    """The result with the digest and the statistics that a careful forger would put in."""
    aggregates = derive(result.workload, result.workers, samples.workers, result.conditions)
    return dataclasses.replace(result, aggregates=aggregates, samples_sha256=sha256(encode(samples)))


def as_generation(result: BenchmarkResult, samples: SampleSet) -> tuple[BenchmarkResult, SampleSet]:
    """The same measurement as one of generations: each sample is four tokens, the first of which took the most."""
    changes: dict[str, Any] = {"phase": Phase.GENERATE, "output_tokens": 4, "kv_cache": True}
    raw = samples.workers[0]
    tokens = [part for ns in raw.samples_ns for part in (ns - 3 * (ns // 10) - 50, *[ns // 10] * 3)]
    samples = dataclasses.replace(samples, workers=(dataclasses.replace(raw, token_ns=tuple(tokens)),))
    work = dataclasses.replace(result.workload, **changes)
    request = dataclasses.replace(result.request, workload=dataclasses.replace(result.request.workload, **changes))
    stats = generation_stats(work, [raw.samples_ns], [tokens])
    return resealed(dataclasses.replace(result, workload=work, request=request, generation=stats), samples), samples
