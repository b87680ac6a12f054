"""A result that an honest run could have made, built by hand: the start of every forgery.

Its numbers were never measured; it lives in tests only, and each of its hosts is called
``made-by-a-test``.
"""

from __future__ import annotations

import dataclasses

from hwbench_mlflow.codec import encode, sha256
from hwbench_mlflow.model import (
    PROFILES,
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
    Platform,
    Precision,
    RunRequest,
    SampleSet,
    ScalingPoint,
    SessionFacts,
    WeightsSource,
    WorkerRecord,
    WorkerSamples,
    Workload,
)
from hwbench_mlflow.stats import aggregate

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
    Platform.WEBGPU: Device(platform=Platform.WEBGPU, id="adapter", name="test adapter", vendor="test"),
    Platform.WEBNN: Device(platform=Platform.WEBNN, id="cpu", name="Test CPU", vendor="Test"),
}


def witness(platform: Platform) -> ExecutionWitness:
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
    workload = Workload(model="bert-tiny", sequence_length=128)
    samples = SampleSet(
        schema_version=1,
        result_id="ab" * 16,
        workers=(WorkerSamples(index=0, warmup_ns=(12 * MS,) * 9, samples_ns=SAMPLES),),
    )
    conditions = Conditions(load_before=0.1, load_after=0.2, steal_fraction=0.0, foreign_cpu_fraction=0.01)
    facts = SessionFacts(device=device, effective_precision=Precision.FP32, threads=2, load_ns=5 * MS, compile_ns=None)
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
        schema_version=1,
        result_id=samples.result_id,
        hwbench_version="0.1.0",
        started_at="2026-11-01T10:00:00+00:00",
        finished_at="2026-11-01T10:00:30+00:00",
        monotonic_ns=30 * SECOND,
        request=RunRequest(
            platform=platform, device=None, workload=Workload(model="bert-tiny"), profile=PROFILES["quick"],
            threads=None, backend="tests:none",
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
        effective_precision=Precision.FP32,
        host=HostInfo(
            hostname="made-by-a-test", host_id="test", os="Linux", kernel="6", machine="x86_64", cpu_name="Test CPU",
            cpu_count_logical=2, cpu_count_physical=2, memory_bytes=16_000_000_000, boot_id=BOOT, virtualization=None,
            python="3.11", packages={}, git_commit=None, git_dirty=None,
        ),
        workers=(worker,),
        conditions=conditions,
        aggregates=aggregate([SAMPLES], [1], 1, conditions),
        samples_sha256=sha256(encode(samples)),
        is_simulated=False,
        simulation_reason=None,
        calibration=Calibration(
            device_id=device.id, device_uuid=device.uuid, precision=Precision.FP32, peak_flops_per_s=1e11,
            source="measured", dim=1024, repeats=9,
        ),
        energy=Energy(joules=700.0, method=EnergyMethod.COUNTER, scope="device GPU-1")
        if platform is Platform.CUDA
        else None,
    )  # fmt: skip
    return result, samples


def resealed(result: BenchmarkResult, samples: SampleSet) -> BenchmarkResult:
    """The result with the digest and the statistics that a careful forger would put in."""
    aggregates = aggregate(
        [raw.samples_ns for raw in samples.workers],
        [worker.runs_per_sample for worker in result.workers],
        result.workload.batch_size,
        result.conditions,
    )
    return dataclasses.replace(result, aggregates=aggregates, samples_sha256=sha256(encode(samples)))
