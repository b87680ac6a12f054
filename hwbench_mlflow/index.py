"""The index of a result: the params, metrics and tags that MLflow shows and searches.

Pure. One function makes them, for whoever logs a run and for whoever checks one later, so that an
edited tag or a metric logged again cannot agree with the result by accident.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from hwbench_mlflow.metrics import METRICS
from hwbench_mlflow.model import BenchmarkResult, GenerationStats, Phase, Scenario, Verdict, Workload

MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultIndex:
    """What a run says of its result. ``params`` and ``tags`` are strings, as MLflow stores them."""

    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


VERDICT_TAG = "verdict"
"""Says what the verdict was when the run was logged: it may get worse since, when a key is revoked."""

OPTIONAL_TAGS = frozenset({"simulation_reason", "hwbench.noise"})
"""Tags that only some results have: on another run they are a contradiction."""


TAGS = frozenset(
    {
        "hardware", "hardware_available", "availability_verified", "is_simulated", VERDICT_TAG, "model",
        *(f"hwbench.{name}" for name in (
            "role", "result_id", "schema_version", "device_name", "precision", "scenario", "profile", "ranked",
            "weights", "host", "stable", "reasons", "phase",
        )),
    }
) | OPTIONAL_TAGS  # fmt: skip
"""Every tag that hwbench puts on a result: what else a run has, somebody else has put there."""


def index_of(result: BenchmarkResult, result_sha256: str, verdict: Verdict) -> ResultIndex:
    """The index of ``result``, whose ``result.json`` has that digest."""
    return ResultIndex(params=_params(result, result_sha256), metrics=_metrics(result), tags=_tags(result, verdict))


def _params(result: BenchmarkResult, result_sha256: str) -> dict[str, str]:
    work = result.workload
    threads = sorted({worker.facts.threads for worker in result.workers})
    values: dict[str, object] = {
        "hwbench.result_sha256": result_sha256,
        "hwbench.result_id": result.result_id,
        "hwbench.platform": result.request.platform,
        "hwbench.device": result.device.id,
        "hwbench.device_name": result.device.name,
        "hwbench.model": work.model,
        "hwbench.architecture": result.model.architecture,
        "hwbench.parameters": result.model.parameters,
        "hwbench.batch_size": work.batch_size,
        "hwbench.sequence_length": work.sequence_length,
        "hwbench.image_size": work.image_size,
        "hwbench.audio_seconds": work.audio_seconds,
        "hwbench.output_tokens": work.output_tokens,
        "hwbench.phase": work.phase,
        "hwbench.kv_cache": None if work.kv_cache is None else _bool(work.kv_cache),
        "hwbench.precision": result.effective_precision,
        "hwbench.scenario": work.scenario,
        "hwbench.latency_bound_ms": work.latency_bound_ms,
        "hwbench.latency_percentile": work.latency_percentile,
        "hwbench.query_size": work.query_size,
        "hwbench.compile_mode": work.compile_mode,
        "hwbench.weights": result.model.weights_source,
        "hwbench.profile": result.request.profile.name,
        "hwbench.threads": ",".join(map(str, threads)) or None,
        "hwbench.workers": len(result.workers),
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def _tags(result: BenchmarkResult, verdict: Verdict) -> dict[str, str]:
    tags = {
        "hardware": str(result.request.platform),
        "hardware_available": "true",
        "availability_verified": _bool(result.availability.verified_device(result.device.id) is not None),
        "is_simulated": _bool(result.is_simulated),
        VERDICT_TAG: str(verdict.state),
        "model": result.workload.model,
        "hwbench.role": "result",
        "hwbench.result_id": result.result_id,
        "hwbench.schema_version": str(result.schema_version),
        "hwbench.device_name": result.device.name,
        "hwbench.precision": str(result.effective_precision),
        "hwbench.scenario": str(result.workload.scenario),
        "hwbench.phase": str(result.workload.phase),
        "hwbench.profile": result.request.profile.name,
        "hwbench.ranked": _bool(result.request.ranked),
        "hwbench.weights": str(result.model.weights_source),
        "hwbench.host": result.host.hostname,
        "hwbench.stable": _bool(result.aggregates.stable),
    }
    if result.simulation_reason is not None:
        tags["simulation_reason"] = result.simulation_reason
    if result.aggregates.noise_reasons:
        tags["hwbench.noise"] = "; ".join(result.aggregates.noise_reasons)
    return tags


def _metrics(result: BenchmarkResult) -> dict[str, float]:
    stats, batch = result.aggregates, result.workload.batch_size
    workers = result.workers
    inferences = sum([w.sample_count * w.runs_per_sample for w in workers])
    window_s = sum([w.window_ns for w in workers]) / 1e9
    flops_per_s = result.model.flops * inferences / window_s if window_s else None
    # A query of several samples is one thing that somebody waits for, however it was run.
    single = all(w.runs_per_sample == 1 for w in workers) or result.workload.scenario is Scenario.MULTISTREAM
    server = stats.server
    joules = result.energy.joules if result.energy else None
    peak = result.calibration.peak_flops_per_s if result.calibration else None
    values: dict[str, float | None] = {
        # A sample of several overlapped inferences has no latency: only throughput is said of it.
        **(
            {
                "latency_ms_p50": stats.p50_ms,
                "latency_ms_p90": stats.p90_ms,
                "latency_ms_p95": stats.p95_ms,
                "latency_ms_p99": stats.p99_ms,
                "latency_ms_p50_ci95_low": stats.median_ci95_low_ms,
                "latency_ms_p50_ci95_high": stats.median_ci95_high_ms,
                "latency_ms_mean": stats.mean_ms,
                "latency_ms_min": stats.min_ms,
                "latency_ms_max": stats.max_ms,
                "latency_ms_iqr": stats.iqr_ms,
                "latency_ms_stdev": stats.stdev_ms,
            }
            if single
            else {}
        ),
        "throughput_items_per_s": stats.throughput_items_per_s,
        **_written(result.generation),
        "real_time_factor": real_time_factor(result.workload, stats.throughput_items_per_s),
        "server_rate_per_s": server.offered_rate_per_s if server is not None and server.held else None,
        "offered_rate_per_s": server.offered_rate_per_s if server is not None else None,
        "achieved_rate_per_s": server.achieved_rate_per_s if server is not None else None,
        "late_count": _number(server.late_count) if server is not None else None,
        "queue_ms_mean": server.queue_mean_ms if server is not None else None,
        "service_ms_p50": server.service_p50_ms if server is not None else None,
        "sample_count": float(stats.sample_count),
        "warmup_count": float(sum([w.warmup_count for w in workers])),
        "first_inference_ms": _mean([w.first_inference_ns / 1e6 for w in workers]),
        "load_ms": _mean([w.facts.load_ns / 1e6 for w in workers]),
        "compile_ms": _mean([w.facts.compile_ns / 1e6 for w in workers if w.facts.compile_ns is not None]),
        "import_ms": _mean([w.import_ns / 1e6 for w in workers]),
        "memory_peak_mb": _max([w.parent.max_rss_bytes for w in workers], MB),
        "device_memory_peak_mb": _max([w.witness.device_memory_peak_bytes for w in workers], MB),
        "energy_j": joules,
        "energy_j_per_item": joules / (inferences * batch) if joules is not None and inferences else None,
        "power_w_mean": joules / window_s if joules is not None and window_s else None,
        "worker_count": float(len(workers)),
        "parameter_count": float(result.model.parameters),
        "kernel_count": _max([w.witness.kernel_count for w in workers], 1),
        "bytes_per_item_gb": result.model.min_bytes / batch / 1e9,
        "calibrated_tflops": peak / 1e12 if peak is not None else None,
        "flops_per_item_g": result.model.flops / batch / 1e9,
        "achieved_tflops": flops_per_s / 1e12 if flops_per_s is not None else None,
        "roofline_fraction": flops_per_s / peak if flops_per_s is not None and peak else None,
        "cpu_time_fraction": _mean([w.witness.process_cpu_ns / (w.witness.wall_ns * w.facts.threads) for w in workers]),
        "scaling_growth": _mean(
            [w.scaling[-1].median_ns / w.scaling[0].median_ns for w in workers if len(w.scaling) > 1]
        ),
        "steal_fraction": result.conditions.steal_fraction,
        "foreign_cpu_fraction": result.conditions.foreign_cpu_fraction,
        "involuntary_switch_count": _number(result.conditions.involuntary_switches),
        "throttle_event_count": _number(result.conditions.throttle_events),
        "load_before": result.conditions.load_before,
        "load_after": result.conditions.load_after,
    }
    if not values.keys() <= METRICS.keys():
        raise KeyError(f"metrics without a row in METRICS: {sorted(values.keys() - METRICS.keys())}")
    return {name: float(value) for name, value in values.items() if value is not None}


def _written(stats: GenerationStats | None) -> dict[str, float | None]:
    return {} if stats is None else asdict(stats)


def real_time_factor(work: Workload, throughput_items_per_s: float) -> float | None:
    """Seconds of audio per second; None without audio, and for a phase that does not hear it whole."""
    if work.audio_seconds is None or work.phase in (Phase.PREFILL, Phase.DECODE):
        return None
    return throughput_items_per_s * work.audio_seconds


def _number(value: int | None) -> float | None:
    return None if value is None else float(value)


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _max(values: list[int | None], unit: float) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) / unit if known else None
