"""Every rule of the verdict, with a forgery that only it can see, and honest results that none refuses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench_mlflow import verdict
from hwbench_mlflow.model import (
    BenchmarkResult,
    Energy,
    EnergyMethod,
    ExecutionWitness,
    OutputCheck,
    Platform,
    Precision,
    SampleSet,
    ScalingPoint,
    VerdictState,
)
from hwbench_mlflow.verdict import OUTPUT_TOLERANCE, RULES, combine, judge_result, output_error, within_tolerance
from tests.honest import MS, SAMPLES, SECOND, WINDOW_NS, as_generation, asked, honest, resealed

replace = dataclasses.replace
Forged = tuple[BenchmarkResult, SampleSet]
Forgery = Callable[[BenchmarkResult, SampleSet], Forged]


def with_worker(result: BenchmarkResult, **changes: Any) -> BenchmarkResult:
    return replace(result, workers=(replace(result.workers[0], **changes), *result.workers[1:]))


def with_witness(result: BenchmarkResult, **changes: Any) -> BenchmarkResult:
    return with_worker(result, witness=replace(result.workers[0].witness, **changes))


def with_samples(result: BenchmarkResult, samples: SampleSet, values: tuple[int, ...], **changes: Any) -> Forged:
    forged = replace(samples, workers=(replace(samples.workers[0], samples_ns=values),))
    return resealed(with_worker(result, sample_count=len(values), **changes), forged), forged


def scaled(*points: tuple[int, int]) -> tuple[ScalingPoint, ...]:
    return tuple(ScalingPoint(batch_size=batch, median_ns=ns, samples=5) for batch, ns in points)


def wrong_outputs(result: BenchmarkResult, phase: str) -> BenchmarkResult:
    checks = tuple(
        replace(c, observed=tuple(v + 0.5 for v in c.observed)) if c.phase == phase else c
        for c in result.workers[0].outputs
    )
    return with_worker(result, outputs=checks)


def other_device(result: BenchmarkResult) -> BenchmarkResult:
    facts = result.workers[0].facts
    return with_worker(result, facts=replace(facts, device=replace(facts.device, id="other")))


def unchecked(result: BenchmarkResult, **changes: Any) -> BenchmarkResult:
    check = replace(result.availability.checks[0], **changes)
    return replace(result, availability=replace(result.availability, checks=(check,)))


def emulated(result: BenchmarkResult) -> BenchmarkResult:
    facts = result.workers[0].facts
    return with_worker(result, facts=replace(facts, device=replace(facts.device, emulation_reason="SwiftShader")))


C, U, S = VerdictState.CONTRADICTED, VerdictState.UNVERIFIED, VerdictState.SIMULATED
CPU, CUDA, OV, MPS = Platform.CPU, Platform.CUDA, Platform.OPENVINO, Platform.MPS
GPU, NN, QNN = Platform.WEBGPU, Platform.WEBNN, Platform.QNN


def another_webnn_device(result: BenchmarkResult) -> BenchmarkResult:
    device = replace(result.device, id="npu")
    probe = replace(
        result.availability, devices=(device,), checks=(replace(result.availability.checks[0], device_id="npu"),)
    )
    assert result.calibration is not None
    return with_worker(
        replace(result, device=device, availability=probe, calibration=replace(result.calibration, device_id="npu")),
        facts=replace(result.workers[0].facts, device=device),
    )


def faster_tokens(result: BenchmarkResult, samples: SampleSet) -> tuple[BenchmarkResult, SampleSet]:
    """A generation whose tokens are said to come ten times as fast as their stamps."""
    result, samples = as_generation(result, samples)
    assert result.generation is not None
    return replace(result, generation=replace(result.generation, tpot_ms_p50=0.1)), samples


def slow_tokens_dropped(result: BenchmarkResult, samples: SampleSet) -> tuple[BenchmarkResult, SampleSet]:
    """A generation that keeps the stamps of its first samples only."""
    result, samples = as_generation(result, samples)
    raw = replace(samples.workers[0], token_ns=samples.workers[0].token_ns[:-4])
    samples = replace(samples, workers=(raw,))
    return resealed(result, samples), samples


def in_int8(result: BenchmarkResult) -> BenchmarkResult:
    asked = replace(result.request, workload=replace(result.request.workload, precision=Precision.INT8))
    facts = replace(result.workers[0].facts, effective_precision=Precision.INT8)
    assert result.calibration is not None
    return with_worker(
        replace(
            result, request=asked, workload=replace(result.workload, precision=Precision.INT8),
            effective_precision=Precision.INT8, calibration=replace(result.calibration, precision=Precision.INT8),
        ),
        facts=facts,
    )  # fmt: skip


def renamed(result: BenchmarkResult) -> BenchmarkResult:
    """An AMD GPU that its runtime was told to call another one."""
    return replace(result, device=replace(result.device, details={verdict.ROCM_OVERRIDE: "10.3.0"}))


FORGERIES: list[tuple[str, Platform, VerdictState, str, Forgery]] = [
    ("tokens faster than their stamps", CPU, C, "generation", faster_tokens),
    ("stamps of tokens left out", CPU, C, "generation", slow_tokens_dropped),
    # name, platform, verdict, the rule that has to see it, what was done
    ("other-result", CPU, C, "samples", lambda r, s: (r, replace(s, result_id="cd" * 16))),
    ("count-lies", CPU, C, "samples", lambda r, s: (with_worker(r, sample_count=5000), s)),
    ("zero-variance", CPU, C, "samples", lambda r, s: with_samples(r, s, (WINDOW_NS // 1000,) * 1000)),
    ("too-few", CPU, U, "samples",
     lambda r, s: with_samples(r, s, SAMPLES[:20], window_ns=sum(SAMPLES[:20]),
                               witness=ExecutionWitness(wall_ns=10 * MS, process_cpu_ns=20 * MS, threads=2),
                               parent=replace(r.workers[0].parent, window_end_ns=5_000_000_000 + sum(SAMPLES[:20])))),
    ("missing-worker", CPU, U, "samples",
     lambda r, s: (replace(r, request=replace(r.request, profile=replace(r.request.profile, workers=3))), s)),
    ("median-edited", CPU, C, "aggregates", lambda r, s: (replace(r, aggregates=replace(r.aggregates, p50_ms=1.0)), s)),
    ("called-stable", CPU, C, "aggregates",
     lambda r, s: (replace(r, aggregates=replace(r.aggregates, noise_reasons=("none",))), s)),
    ("other-device-ran", CPU, C, "device", lambda r, s: (other_device(r), s)),
    ("device-not-asked", CPU, C, "device", lambda r, s: (replace(r, request=replace(r.request, device="cuda:0")), s)),
    ("batch-swapped", CPU, C, "workload",
     lambda r, s: (replace(r, request=replace(r.request, workload=replace(r.request.workload, batch_size=8))), s)),
    ("query-size-of-a-latency", CPU, C, "scenario", lambda r, s: (asked(r, query_size=8), s)),
    ("probe-of-other", CPU, C, "availability",
     lambda r, s: (replace(r, availability=replace(r.availability, devices=())), s)),
    ("probe-unchecked", CPU, U, "availability", lambda r, s: (unchecked(r, passed=False), s)),
    ("probe-wrong-yet-passed", CPU, C, "availability", lambda r, s: (unchecked(r, max_abs_error=3.0), s)),
    ("probe-before-reboot", CPU, U, "availability",
     lambda r, s: (replace(r, availability=replace(r.availability, boot_id="other")), s)),
    ("probe-of-last-week", CPU, U, "availability",
     lambda r, s: (replace(r, availability=replace(r.availability, started_at="2026-10-20T10:00:01+00:00")), s)),
    ("probe-renamed", CPU, C, "availability",
     lambda r, s: (replace(r, availability=replace(
         r.availability, devices=(replace(r.availability.devices[0], name="H100"),))), s)),
    ("bf16-as-fp32", CPU, C, "precision", lambda r, s: (replace(r, effective_precision=Precision.BF16,
     calibration=replace(r.calibration, precision=Precision.BF16) if r.calibration else None), s)),
    ("worker-bf16", CPU, C, "precision",
     lambda r, s: (with_worker(r, facts=replace(r.workers[0].facts, effective_precision=Precision.BF16)), s)),
    ("wrong-output", CPU, C, "outputs", lambda r, s: (wrong_outputs(r, "timed"), s)),
    ("cached-output", CPU, C, "outputs", lambda r, s: (wrong_outputs(r, "after"), s)),
    ("no-output", CPU, U, "outputs", lambda r, s: (with_worker(r, outputs=()), s)),
    ("constant-reference", CPU, U, "outputs", lambda r, s: (with_worker(r, outputs=tuple(
        replace(c, observed=(1.0,) * 64, reference=(1.0,) * 64) for c in r.workers[0].outputs)), s)),
    ("replayed-challenge", CPU, C, "outputs", lambda r, s: (with_worker(r, outputs=tuple(
        replace(c, nonce="ee" * 16) if c.phase == "timed" else c for c in r.workers[0].outputs)), s)),
    ("samples-dropped", CPU, C, "clocks", lambda r, s: with_samples(r, s, SAMPLES[:500])),
    ("samples-too-long", CPU, C, "clocks", lambda r, s: with_samples(r, s, tuple(2 * ns for ns in SAMPLES),
     scaling=scaled((1, 20 * MS), (4, 80 * MS)))),
    ("timer-patched", CPU, C, "clocks",
     lambda r, s: (with_worker(r, parent=replace(r.workers[0].parent, window_end_ns=5_000_000_000 + 2 * WINDOW_NS,
                                                 exited_ns=9_000_000_000 + 2 * WINDOW_NS, cpu_ns=6 * WINDOW_NS)), s)),
    ("clock-unconfirmed", CPU, U, "clocks",
     lambda r, s: (with_worker(r, parent=replace(r.workers[0].parent, window_end_ns=6_000_000_000 + WINDOW_NS)), s)),
    ("window-not-seen", CPU, C, "clocks",
     lambda r, s: (with_worker(r, parent=replace(r.workers[0].parent, window_end_ns=5 * SECOND + WINDOW_NS // 2)), s)),
    ("clock-set-back", CPU, U, "wall-clock", lambda r, s: (replace(r, monotonic_ns=3_600_000_000_000), s)),
    ("slept", CPU, C, "execution", lambda r, s: (with_witness(r, process_cpu_ns=WINDOW_NS // 50), s)),
    ("slept-on-openvino", OV, C, "execution", lambda r, s: (with_witness(r, process_cpu_ns=WINDOW_NS // 50), s)),
    ("cpu-time-unaccounted", CPU, C, "execution",
     lambda r, s: (with_worker(r, parent=replace(r.workers[0].parent, cpu_ns=1)), s)),
    ("cpu-on-cuda", CUDA, C, "execution", lambda r, s: (with_witness(r, kernel_count=0, kernel_busy_ns=0), s)),
    ("unprofiled", CUDA, U, "execution", lambda r, s: (with_witness(r, kernel_count=None), s)),
    ("not-on-device", CUDA, C, "execution", lambda r, s: (with_witness(r, pid_on_device=False), s)),
    ("other-uuid", CUDA, C, "execution", lambda r, s: (with_witness(r, device_identity="GPU-2"), s)),
    ("no-uuid", CUDA, U, "execution", lambda r, s: (with_witness(r, device_identity=None), s)),
    ("idle-gpu", CUDA, C, "execution",
     lambda r, s: (replace(with_witness(r, energy_j=0.0, utilization_max=0.0), energy=None), s)),
    ("no-events", CUDA, U, "execution", lambda r, s: (with_witness(r, event_window_ns=None), s)),
    ("mps-empty", MPS, U, "execution", lambda r, s: (with_witness(r, device_memory_peak_bytes=0), s)),
    ("openvino-auto", OV, C, "execution", lambda r, s: (with_witness(r, execution_devices=("CPU", "GPU.0")), s)),
    ("openvino-no-nodes", OV, U, "execution", lambda r, s: (with_witness(r, executed_node_types={}), s)),
    ("webgpu-unplaced", GPU, U, "execution", lambda r, s: (with_witness(r, placement={}), s)),
    ("webgpu-by-wasm", GPU, C, "execution",
     lambda r, s: (with_witness(r, placement={"CPUExecutionProvider": 53}), s)),
    ("webgpu-partly-by-wasm", GPU, C, "execution",
     lambda r, s: (with_witness(r, placement={"WebGpuExecutionProvider": 50, "CPUExecutionProvider": 3}), s)),
    ("webgpu-no-dispatch", GPU, C, "execution", lambda r, s: (with_witness(r, kernel_count=0), s)),
    ("webgpu-uncounted", GPU, U, "execution", lambda r, s: (with_witness(r, kernel_count=None), s)),
    ("webgpu-unstamped", GPU, U, "execution", lambda r, s: (with_witness(r, kernel_busy_ns=None), s)),
    ("webgpu-stamps-too-long", GPU, U, "execution", lambda r, s: (with_witness(r, kernel_busy_ns=SECOND), s)),
    ("webgpu-other-adapter", GPU, C, "execution", lambda r, s: (with_witness(r, device_identity="SwiftShader"), s)),
    ("webnn-slept", NN, C, "execution", lambda r, s: (with_witness(r, helper_cpu_ns=WINDOW_NS // 50), s)),
    ("webnn-cpu-unread", NN, U, "execution", lambda r, s: (with_witness(r, helper_cpu_ns=None), s)),
    ("webnn-too-much-cpu", NN, C, "execution", lambda r, s: (with_witness(r, helper_cpu_ns=9 * WINDOW_NS), s)),
    ("webnn-npu", NN, U, "execution", lambda r, s: (another_webnn_device(r), s)),
    ("qnn-unplaced", QNN, U, "execution", lambda r, s: (with_witness(r, placement={}), s)),
    ("qnn-by-onnxruntime-s-cpu", QNN, C, "execution",
     lambda r, s: (with_witness(r, placement={"CPUExecutionProvider": 44}), s)),
    ("qnn-partly-by-the-cpu", QNN, C, "execution",
     lambda r, s: (with_witness(r, placement={"QNNExecutionProvider": 1, "CPUExecutionProvider": 1}), s)),
    ("qnn-other-device", QNN, C, "execution", lambda r, s: (with_witness(r, device_identity="Hexagon v68"), s)),
    ("qnn-emulator-called-real", QNN, C, "execution",
     lambda r, s: (replace(r, host=replace(r.host, machine="x86_64")), s)),
    ("qnn-precision-unread", QNN, U, "execution", lambda r, s: (with_witness(r, executed_precisions={}), s)),
    ("qnn-int8-in-part", QNN, C, "execution", lambda r, s: (in_int8(with_witness(r, executed_precisions={
        "int8": 16, "fp16": 1})), s)),
    ("rocm-renamed", CUDA, U, "device", lambda r, s: (renamed(r), s)),
    ("faster-than-peak", CPU, C, "roofline", lambda r, s: (replace(r, model=replace(r.model, flops=10**13)), s)),
    ("no-peak", CPU, U, "roofline", lambda r, s: (replace(r, calibration=None), s)),
    ("flops-not-counted", CPU, U, "roofline", lambda r, s: (replace(r, model=replace(r.model, flops=0)), s)),
    ("constant-time", CPU, C, "scaling",
     lambda r, s: (with_worker(r, scaling=scaled((1, 10 * MS), (16, 10 * MS))), s)),
    ("constant-time-after-a-disturbance", CPU, C, "scaling",
     lambda r, s: (with_worker(r, scaling=scaled((1, 30 * MS), (4, 10 * MS), (16, 10 * MS))), s)),
    ("small-batches-disturbed", CPU, U, "scaling",
     lambda r, s: (with_worker(r, scaling=scaled((1, 29 * MS), (4, 4 * MS), (16, 8 * MS))), s)),
    ("all-smaller-batches-disturbed", CPU, U, "scaling",
     lambda r, s: (with_worker(r, scaling=scaled((1, 29 * MS), (4, 29 * MS), (16, 8 * MS))), s)),
    ("hardly-grows", CPU, U, "scaling", lambda r, s: (with_worker(r, scaling=scaled((1, 10 * MS), (4, 11 * MS))), s)),
    ("no-scaling", CPU, U, "scaling", lambda r, s: (with_worker(r, scaling=()), s)),
    ("probe-does-real-work-only", CPU, U, "scaling",
     lambda r, s: (with_worker(r, scaling=scaled((1, 40 * MS), (4, 160 * MS))), s)),
    ("emulator-called-real", CPU, C, "simulation", lambda r, s: (emulated(r), s)),
    ("emulator-said", CPU, S, "simulation",
     lambda r, s: (replace(emulated(r), is_simulated=True, simulation_reason="SwiftShader"), s)),
    ("simulated-without-reason", CPU, C, "simulation", lambda r, s: (replace(emulated(r), is_simulated=True), s)),
    ("estimate-called-counter", CUDA, C, "energy",
     lambda r, s: (replace(r, energy=Energy(joules=5.0, method=EnergyMethod.COUNTER, scope="device")), s)),
    ("no-energy", CPU, C, "energy",
     lambda r, s: (replace(r, energy=Energy(joules=0.0, method=EnergyMethod.INTEGRATED, scope="device")), s)),
]  # fmt: skip


@pytest.mark.parametrize("platform", [CPU, CUDA, OV, MPS, GPU, NN, QNN])
def test_an_honest_result_is_verified(platform: Platform) -> None:
    found = judge_result(*honest(platform))
    assert found.reasons == ()
    assert found.state is VerdictState.VERIFIED


@pytest.mark.parametrize(
    ("platform", "state", "rule", "forge"), [f[1:] for f in FORGERIES], ids=[f[0] for f in FORGERIES]
)
def test_a_forgery_is_seen_for_its_own_reason(
    platform: Platform, state: VerdictState, rule: str, forge: Forgery
) -> None:
    found = judge_result(*forge(*honest(platform)))
    assert found.state is state, found.reasons
    assert rule in {f.rule for f in found.findings if f.effect is state}


@pytest.mark.parametrize("removed", RULES, ids=lambda rule: rule.__name__)
def test_no_rule_can_be_removed_unnoticed(removed: verdict.Rule) -> None:
    left = [rule for rule in RULES if rule is not removed]
    missed = []
    for name, platform, state, _, forge in FORGERIES:
        forged = forge(*honest(platform))
        if combine(f for rule in left for f in rule(*forged)).state is not state:
            missed.append(name)
    assert missed, f"{removed.__name__} catches nothing that the other rules do not"


@pytest.mark.parametrize("change", [{"p90_ms": None}, {"throughput_items_per_s": 1e9}, {"sample_count": 1}])
def test_every_statistic_is_recomputed(change: dict[str, Any]) -> None:
    result, samples = honest()
    forged = replace(result, aggregates=replace(result.aggregates, **change))
    assert judge_result(forged, samples).state is C


def test_a_starved_but_computing_process_is_not_called_asleep() -> None:
    result, samples = honest()
    starved = with_witness(result, process_cpu_ns=WINDOW_NS // 5, run_delay_ns=WINDOW_NS)
    assert judge_result(starved, samples).state is VerdictState.VERIFIED


def test_a_late_parent_is_not_called_a_patched_timer() -> None:
    result, samples = honest()
    clock = result.workers[0].parent
    late = replace(clock, window_end_ns=clock.window_end_ns + 900 * MS, run_delay_ns=900 * MS)
    assert judge_result(with_worker(result, parent=late), samples).state is VerdictState.VERIFIED


# --- The short way to say that an output is right ------------------------------------------------

FLOATS = st.floats(-1e3, 1e3) | st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 1e-200, 1e200])
SCALES = st.sampled_from([0.0, 1e-9, 1e-4, 1e-3, 2e-3, 1e-2, 1.0])


def compared(observed: tuple[float, ...], reference: tuple[float, ...]) -> OutputCheck:
    [check, *_] = honest(Platform.CPU)[0].workers[0].outputs
    return replace(check, observed=observed, reference=reference)


@given(st.lists(st.tuples(FLOATS, st.floats(-1, 1)), max_size=12), SCALES, st.sampled_from(list(OUTPUT_TOLERANCE)))
def test_what_the_short_way_calls_right_the_long_way_does(
    pairs: list[tuple[float, float]], scale: float, precision: Precision
) -> None:
    check = compared(tuple(v + scale * off for v, off in pairs), tuple(v for v, _ in pairs))
    tolerance = OUTPUT_TOLERANCE[precision]
    if within_tolerance(check, tolerance):
        error = output_error(check)
        assert error is not None
        assert error <= tolerance


def test_the_short_way_is_taken_for_honest_outputs_and_for_no_others() -> None:
    reference = tuple(math.sin(n) for n in range(64))
    assert within_tolerance(compared(tuple(v + 1e-6 for v in reference), reference), 2e-3)
    assert not within_tolerance(compared((*reference[:-1], reference[-1] + 0.1), reference), 2e-3)
    assert not within_tolerance(compared(reference[:-1], reference), 2e-3)
    assert not within_tolerance(compared((math.nan, *reference[1:]), reference), 2e-3)
    assert not within_tolerance(compared((math.inf, *reference[1:]), (math.inf, *reference[1:])), 2e-3)
    assert not within_tolerance(compared((1.0,) * 64, (1.0,) * 64), 2e-3)
    assert not within_tolerance(compared((), ()), 2e-3)
    tiny = tuple(v * 1e-200 for v in reference)  # its squares are all zero, so its spread is too
    assert output_error(compared(tiny, tiny)) is None
    assert not within_tolerance(compared(tiny, tiny), 2e-3)
